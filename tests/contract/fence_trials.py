"""What test_patroni_fence runs in a network namespace of its own: fence_trials.py TRIAL. It prints JSON."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import yaml
from programs import load

PRIMARY, STANDBY = "10.9.0.1", "10.9.0.2"
ETCD_URL = "http://127.0.0.1:2379"


def run(command: str) -> None:
    subprocess.run(command.split(), check=True)


def python(*arguments: str, before: tuple[str, ...] = ()) -> subprocess.Popen:
    return subprocess.Popen(
        [*before, sys.executable, __file__, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def tell(other: subprocess.Popen) -> str:
    """Lets the other one go on, and waits for what it says next."""
    print(file=other.stdin, flush=True)
    return other.stdout.readline()


def tried(address: str, port: int) -> str:
    try:
        socket.create_connection((address, port), 0.5).close()
        return "connected"
    except OSError as error:
        return type(error).__name__


def received(connection: socket.socket) -> str:
    connection.settimeout(0.5)
    try:
        return connection.recv(99).decode()
    except OSError as error:
        return type(error).__name__


def cut() -> dict:
    """A standby's host fences its primary off: two namespaces, and connections both ways that were there before."""
    fence = load("postgresql", "patroni-fence").fence
    primary = python("cut_primary", before=("unshare", "--net"))
    primary.stdout.readline()
    run("ip link set lo up")
    run(f"ip link add here type veth peer name there netns {primary.pid}")
    run(f"ip addr add {STANDBY}/24 dev here")
    run("ip link set here up")
    servers = {port: socket.create_server((STANDBY, port)) for port in (22, 2379, 5432)}
    tell(primary)
    of_etcd, _ = servers[2379].accept()
    acknowledging, receiving = (socket.create_connection((PRIMARY, 5432), 2) for _ in range(2))
    fence("10.9.0.7", 60)
    fence(PRIMARY, 60)
    fence(PRIMARY, 4)
    start = time.monotonic()
    found = {"primary": json.loads(tell(primary)), "receives": received(receiving), "etcd_receives": received(of_etcd)}
    acknowledging.sendall(b"an acknowledgement")
    sent = time.monotonic()
    found["acknowledging"] = received(acknowledging)
    found["standby"] = [tried(PRIMARY, port) for port in (22, 2379, 2380, 5432, 8008)]
    found["at_once"] = time.monotonic() - sent < 0.5
    listed = subprocess.run(
        ["nft", "list", "table", "inet", "trestle_fence"], capture_output=True, text=True, check=True
    )
    found["rules"] = listed.stdout.count("reject")
    time.sleep(max(0, 5 - (time.monotonic() - start)))
    found["afterwards"] = tried(PRIMARY, 5432)
    primary.kill()
    return found


def cut_primary() -> list[str]:
    print(flush=True)
    input()
    run("ip link set lo up")
    run(f"ip addr add {PRIMARY}/24 dev there")
    run("ip link set there up")
    servers = {port: socket.create_server((PRIMARY, port)) for port in (22, 2379, 2380, 5432, 8008)}
    to_etcd = socket.create_connection((STANDBY, 2379), 2)
    print(flush=True)
    input()
    for connection in (to_etcd, *(servers[5432].accept()[0] for _ in range(2))):
        connection.sendall(b"from the old primary")
    print(json.dumps([tried(STANDBY, port) for port in (22, 2379, 5432)]), flush=True)
    input()


def frozen() -> dict:
    """Two hosts' programs and an etcd; the primary is paused for a moment, then frozen, and one of the two with it."""
    etcd, folder, keys = sys.argv[2], Path(sys.argv[3]), json.loads(sys.argv[4])
    run("ip link set lo up")
    for host in (1, 2, 3):
        run(f"ip addr add 10.0.0.{host}/32 dev lo")
    primary = python("answer", "10.0.0.1", "8008", "5432")
    patroni = python("answer", "127.0.0.1", "8009")
    urls = [f"--listen-client-urls={ETCD_URL}", f"--advertise-client-urls={ETCD_URL}"]
    with (folder / "log").open("w") as log:
        started = [subprocess.Popen([etcd, f"--data-dir={folder}/data", *urls], stdout=log, stderr=log)]
    program = load("postgresql", "patroni-fence")
    store = program.Etcd(ETCD_URL, "trial", "nobody")
    while tried("127.0.0.1", 2379) != "connected":
        time.sleep(0.1)
    for name, value in keys.items():
        store.ask("kv/put", {"key": program.encoded(store.patroni + name), "value": program.encoded(value)})
    for name in ("db2", "db3"):
        settings = {
            "scope": "trial",
            "name": name,
            "etcd3": {"hosts": [f"10.0.0.{host}:2379" for host in (1, 2, 3)]},
            "restapi": {"connect_address": "127.0.0.1:8009", "authentication": {"username": "p", "password": "p"}},
        }
        (folder / name).write_text(yaml.safe_dump(settings))
        with (folder / f"{name}.log").open("w") as log:
            started.append(subprocess.Popen([program.__file__, "3", str(folder / name)], stdout=log, stderr=log))

    def leads() -> bool:
        return "leader" in store.read()[0]

    time.sleep(1.5)
    os.kill(primary.pid, signal.SIGSTOP)
    time.sleep(1.5)
    os.kill(primary.pid, signal.SIGCONT)
    time.sleep(2)
    found = {"after_a_pause": leads()}
    for process in (primary, started[-1]):
        os.kill(process.pid, signal.SIGSTOP)
    # For longer than the time of silence and a statement's lease together.
    time.sleep(9)
    found["one_alone"] = [leads(), sorted(store.read()[1])]
    os.kill(started[-1].pid, signal.SIGCONT)
    start = time.monotonic()
    while leads() and time.monotonic() - start < 20:
        time.sleep(0.1)
    found["seconds"] = time.monotonic() - start
    time.sleep(1)
    for process in (*started, primary, patroni):
        process.kill()
    found["woken"] = "PATCH /config" in patroni.stdout.read()
    found["logs"] = {name: (folder / f"{name}.log").read_text() for name in ("db2", "db3")}
    return found


def answer() -> None:
    """Says something to everybody, and tells what it was asked."""
    address, *ports = sys.argv[2:]

    def serve(listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            with connection:
                print(connection.recv(999).split(b"\r\n")[0].decode(errors="replace"), flush=True)
                connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n")

    for port in ports:
        threading.Thread(target=serve, args=[socket.create_server((address, int(port)))]).start()


if __name__ == "__main__":
    if (said := globals()[sys.argv[1]]()) is not None:
        print(json.dumps(said))
