"""patroni-fence: when a silent primary's lease is ended, and above all when it is not."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from base64 import b64encode
from contextlib import contextmanager
from pathlib import Path

import pytest
from programs import load

from tools import debian

HOSTS = {"db1": "10.0.0.1", "db2": "10.0.0.2", "db3": "10.0.0.3"}
PATIENCE = 5


@pytest.fixture(scope="module")
def program():
    return load("postgresql", "patroni-fence")


def values(**changes) -> dict[str, str]:
    """Patroni's keys where db1 leads and all is well; ``changes`` of their fields, None for none of that key."""
    found = {
        "leader": "db1",
        "config": {"ttl": 20, "synchronous_mode": "quorum"},
        "sync": {"leader": "db1", "sync_standby": "db2,db3", "quorum": 1},
    }
    for name, address in HOSTS.items():
        role = "primary" if name == "db1" else "replica"
        conn_url = f"postgres://{address}:5432/postgres"
        found[f"members/{name}"] = {"conn_url": conn_url, "state": "running", "role": role}
    for name, change in changes.items():
        name = name.replace("_", "/")
        found[name] = found[name] | change if isinstance(change, dict) else change
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in found.items() if v is not None}


def keys(program, **changes) -> dict:
    return {name: program.Key(value, "7") for name, value in values(**changes).items()}


def scene(program, **said: str):
    return program.scene_of(keys(program), said, set(HOSTS.values()))


S, F = "silent 7", "fenced 7"


@pytest.mark.parametrize(
    ("me", "silent", "said", "wanted"),
    [
        ("db2", 0, {}, "listen"),
        ("db2", 4.9, {}, "listen"),
        ("db2", 5, {}, "say"),
        ("db2", 9, {"db2": S}, "say"),
        # All the others say so: a majority of the hosts is not enough, nor who said it of an earlier leadership.
        ("db2", 5, {"db3": S}, "say"),
        ("db2", 5, {"db2": S, "db3": S}, "fence"),
        ("db2", 5, {"db2": S, "db3": F}, "fence"),
        ("db2", 5, {"db2": S, "db3": "silent 6"}, "say"),
        ("db2", 5, {"db2": S, "db3": "fenced 6"}, "say"),
        # It is heard again.
        ("db2", 0.2, {"db2": S, "db3": S}, "withdraw"),
        ("db2", 0.2, {"db3": F}, "listen"),
        # Its own fence answers for the primary: what is heard through it says nothing.
        ("db2", 0.2, {"db2": F, "db3": S}, "wait"),
        ("db2", 0.2, {"db2": F, "db3": F}, "release"),
        ("db2", 0.2, {"db2": F, "db3": "fenced 6"}, "wait"),
        # What the primary itself, or a stranger, says does not count, and they do nothing.
        ("db2", 5, {"db1": F, "db2": S}, "say"),
        ("db2", 5, {"db2": S, "db9": S}, "say"),
        ("db2", 5, {"db2": S, "db3": S, "db9": S}, "fence"),
        ("db1", 9, {"db2": F, "db3": F}, "listen"),
        ("db9", 9, {"db2": S, "db3": S}, "listen"),
    ],
)
def test_decision(program, me, silent, said, wanted):
    assert program.decide(scene(program, **said), me, silent, PATIENCE) == wanted


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"leader": None}, "unknown"),
        ({"sync": None}, "unknown"),
        ({"config": None}, "unknown"),
        ({"config": "{"}, "unknown"),
        ({"config": {"ttl": None}}, "unknown"),
        ({"members_db1": None}, "unknown"),
        ({"members_db2": {"conn_url": None}}, "unknown"),
        ({"sync": {"sync_standby": 3}}, "unknown"),
        ({"config": {"pause": True}}, "paused"),
        ({"config": {"failsafe_mode": True}}, "without etcd"),
        ({"config": {"synchronous_mode": True}}, "no quorum"),
        ({"config": {"synchronous_mode": "off"}}, "no quorum"),
        ({"sync": {"leader": "db2"}}, "leader is new"),
        ({"sync": {"sync_standby": "db2"}}, "voter"),
        ({"sync": {"sync_standby": "db2,db3,db4"}}, "voter"),
        ({"sync": {"sync_standby": None}}, "voter"),
        ({"members_db3": None, "sync": {"sync_standby": "db2"}}, "less than three"),
        ({"members_db3": {"state": "stopped"}}, "runs"),
        ({"members_db3": {"role": "primary"}}, "runs"),
        ({"members_db3": {"conn_url": "postgres://10.0.0.9:5432/postgres"}}, "tier's hosts"),
    ],
)
def test_nothing_is_done_where_anything_is_unknown_or_unusual(program, changes, why):
    with pytest.raises(program.Refusal, match=why):
        program.scene_of(keys(program, **changes), {}, set(HOSTS.values()))


def test_a_host_of_the_tier_without_a_member_could_still_acknowledge(program):
    with pytest.raises(program.Refusal, match="tier's hosts"):
        program.scene_of(keys(program), {}, {*HOSTS.values(), "10.0.0.4"})


# Listening.


@contextmanager
def server(answer: bytes | None):
    """A port that answers; or that takes connections as a frozen host's kernel does, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            while answer is not None:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(100)
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]


def test_any_answer_and_any_refusal_is_a_sign_of_life_and_a_frozen_host_gives_none(program, monkeypatch):
    monkeypatch.setattr(program, "PROBE_SECONDS", 0.2)
    for answer in (b"HTTP/1.0 503 no", b"N"):
        with server(answer) as port:
            assert program.answers("127.0.0.1", port, b"?")
    assert program.answers("127.0.0.1", port, b"?"), "nobody listens there any more"
    with server(None) as port:
        assert not program.answers("127.0.0.1", port, b"?")


@pytest.mark.parametrize(
    ("error", "alive"),
    [
        (TimeoutError(), False),
        (OSError(113, "no route to host"), False),
        (OSError(24, "too many open files"), True),
        (ConnectionResetError(), True),
    ],
)
def test_an_error_of_one_s_own_is_not_another_s_silence(program, monkeypatch, error, alive):
    def create_connection(*_):
        raise error

    monkeypatch.setattr(program.socket, "create_connection", create_connection)
    assert program.answers("127.0.0.1", 1, b"?") is alive


def test_one_of_the_two_is_enough(program, monkeypatch):
    monkeypatch.setattr(program, "PROBE_SECONDS", 0.2)
    with server(None) as frozen, server(b"N") as alive:
        both = program.Ear(((frozen, b"?"), (alive, b"?")))
        none = program.Ear(((frozen, b"?"), (frozen, b"?")))
        for ear in (both, none):
            ear.silent("127.0.0.1", "7")
            ear.heard -= 60
            ear.listen(ear.heard_of)
            ear.look(time.monotonic())
        assert (both.silent("127.0.0.1", "7") < 5, none.silent("127.0.0.1", "7") > 59) == (True, True)


def test_a_new_leadership_has_not_been_silent_yet(program):
    with server(b"N") as port:
        ear = program.Ear(((port, b"?"),))
        ear.silent("127.0.0.1", "7")
        ear.heard -= 60
        ear.listen(("127.0.0.1", "6"))
        assert ear.silent("127.0.0.1", "7") > 59, "an answer to an earlier leadership's question"
    assert ear.silent("127.0.0.1", "8") <= 0


def test_who_was_frozen_itself_begins_to_listen_anew(program):
    ear = program.Ear(())
    ear.silent("127.0.0.1", "7")
    start = ear.looked
    ear.heard = start
    for tick in range(1, 13):
        ear.look(start + tick / 2)
    assert ear.looked - ear.heard == 6, "each look was in time"
    ear.look(start + 6 + program.LATE_SECONDS + 0.1)
    assert ear.heard == ear.looked, "one was late"
    # The clock went on, and nobody has looked since.
    ear.heard, ear.looked = time.monotonic() - 60, time.monotonic() - program.LATE_SECONDS - 0.1
    assert ear.silent("127.0.0.1", "7") == 0


# What is said in etcd, and what is taken from it.


@pytest.fixture(scope="module")
def memory():
    """A folder for an etcd, which syncs each write and is asked for a second: no busy disk keeps it waiting."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def etcd_url(memory):
    path = debian.ensure("etcd", "etcd-server")
    ports = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as free:
            ports.append(free.getsockname()[1])
    client, peer = (f"http://127.0.0.1:{port}" for port in ports)
    folder = memory / "etcd"
    folder.mkdir()
    urls = [f"--listen-client-urls={client}", f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}"]
    founding = [f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}"]
    command = [path, f"--data-dir={folder}/data", *urls, *founding]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            for _ in range(100):
                try:
                    socket.create_connection(("127.0.0.1", ports[0]), 1).close()
                    break
                except OSError:
                    time.sleep(0.1)
            else:
                pytest.fail((folder / "log").read_text()[-2000:])
            yield client
        finally:
            process.kill()


@pytest.fixture
def cluster(program, etcd_url, request):
    """Patroni's keys in etcd, and what two hosts have of them."""
    db2, db3 = (program.Etcd(etcd_url, request.node.name, name) for name in ("db2", "db3"))
    for name, value in values().items():
        write(db2, name, value)
    return db2, db3


def key(etcd, name: str) -> str:
    return b64encode(f"{etcd.patroni}{name}".encode()).decode()


def write(etcd, name: str, value: str) -> None:
    """As Patroni would."""
    etcd.ask("kv/put", {"key": key(etcd, name), "value": b64encode(value.encode()).decode()})


def look(program, etcd):
    return program.scene_of(*etcd.read(), set(HOSTS.values()))


def fence_all(program, *hosts) -> None:
    for etcd in hosts:
        etcd.say(f"fenced {look(program, etcd).term}", etcd.lease())


def test_both_look_at_one_moment_of_etcd_and_what_is_said_is_taken_back(program, cluster):
    db2, db3 = cluster
    before = look(program, db2)
    assert (before.address, before.lease_seconds, before.said) == ("10.0.0.1", 20, {})
    db2.say(f"silent {before.term}", db2.lease())
    assert look(program, db3).who_say("silent") == {"db2"}
    db2.withdraw()
    assert look(program, db3).said == {}


def test_the_leader_s_key_is_deleted_once_everybody_is_fenced_and_an_old_primary_s_change_comes_too_late(
    program, cluster
):
    db2, db3 = cluster
    fence_all(program, db2, db3)
    scene = look(program, db2)
    assert program.decide(scene, "db2", 0, PATIENCE) == "release"
    assert db2.release(scene)
    after, _ = db2.read()
    assert "leader" not in after and after["sync"].value == scene.keys["sync"].value
    assert not db3.release(scene), "the second one finds it done"
    # What the old primary would write to do without its standbys.
    sync = key(db2, "sync")
    compare = {"key": sync, "target": "MOD", "mod_revision": scene.keys["sync"].revision}
    answer = db2.ask("kv/txn", {"compare": [compare], "success": [{"request_put": {"key": sync, "value": "e30="}}]})
    assert not answer.get("succeeded")


@pytest.mark.parametrize("changed", ["leader", "sync", "config", "one fence ended", "one fence is of another time"])
def test_nothing_is_deleted_where_anything_changed_in_the_meantime(program, cluster, changed):
    db2, db3 = cluster
    fence_all(program, db2, db3)
    scene = look(program, db2)
    if changed == "one fence ended":
        db3.withdraw()
    elif changed == "one fence is of another time":
        db3.say("fenced 1", db3.lease())
    else:
        write(db2, changed, scene.keys[changed].value)
    assert not db2.release(scene)
    assert db2.read()[0]["leader"].value == "db1"


def test_a_fence_that_is_told_too_late_is_not_told(program, cluster):
    db2, _ = cluster
    lease = db2.lease()
    db2.ask("lease/revoke", {"ID": lease})
    with pytest.raises(OSError, match="404"):
        db2.say("fenced 7", lease)
    assert db2.read()[1] == {}


def test_the_lease_of_a_statement_is_older_than_the_fence_that_it_tells_of(program, cluster, monkeypatch):
    db2, _ = cluster
    steps = []
    monkeypatch.setattr(program, "fence", lambda address, seconds: steps.append(("fence", address, seconds)))
    monkeypatch.setattr(db2, "lease", lambda: steps.append("lease") or "1")
    monkeypatch.setattr(db2, "say", lambda what, lease: steps.append(what))
    scene = look(program, db2)
    program.act("fence", scene, db2)
    assert steps == ["lease", ("fence", "10.0.0.1", 30), f"fenced {scene.term}"]


@pytest.mark.parametrize("seconds", ["0", "-1"])
def test_it_can_be_turned_off_and_ends_in_good_order(program, seconds):
    done = subprocess.run([program.__file__, seconds], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (0, "turned off\n", "")


# In network namespaces.


def trial(*arguments: str) -> dict:
    if os.geteuid() != 0:
        pytest.skip("network namespaces are root's")
    for tool, package in (("nft", "nftables"), ("ip", "iproute2")):
        debian.ensure(tool, package)
    command = ["unshare", "--net", sys.executable, Path(__file__).with_name("fence_trials.py"), *arguments]
    environment = os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_fence_cuts_what_acknowledges_and_what_elects_and_ends_by_itself():
    found = trial("cut")
    assert found["acknowledging"] == "ConnectionResetError", "a standby's stream ends with its next acknowledgement"
    assert found["standby"] == ["connected", *["ConnectionRefusedError"] * 4], "SSH is left alone"
    assert found["at_once"]
    assert (found["receives"], found["etcd_receives"]) == ("TimeoutError", "TimeoutError")
    # The old primary's own clients reach the new one, and its etcd reaches nobody.
    assert found["primary"] == ["connected", "TimeoutError", "connected"]
    assert (found["rules"], found["afterwards"]) == (2, "connected")


def test_a_pause_costs_nothing_and_a_frozen_primary_its_lease_once_all_the_others_have_been_awake_for_long(memory):
    found = trial("frozen", debian.ensure("etcd", "etcd-server"), str(memory), json.dumps(values()))
    assert found["after_a_pause"], found
    assert found["one_alone"] == [True, ["db2"]], found
    assert 2.9 < found["seconds"] < 7, found
    assert found["woken"], found
    assert "the lease was ended" in "".join(found["logs"].values()), found
