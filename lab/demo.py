"""`make demo` and `make bench`: an environment from nothing, told step by step."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import requests
import yaml

from lab import containers, engine, front

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
RECAP = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)


def say(text: str) -> None:
    print(f"    {text}", flush=True)


def step(title: str, work: Callable):
    """Do one step, and say what it is and how long it took."""
    print(f"==> {title}", flush=True)
    started = time.monotonic()
    result = work()
    print(f"    {time.monotonic() - started:.0f} s", flush=True)
    return result


def converge(lab: containers.Lab, *options: str, environment: dict | None = None) -> dict[str, dict[str, int]]:
    """Run site.yml against the lab, showing each play as it starts; the recap, host by host."""
    log = lab.folder / "site.log"
    command = [str(BIN / "ansible-playbook"), "site.yml", "-i", f"inventories/{lab.env_name}", "-i", "lab", *options]
    say(f"{' '.join(['ansible-playbook', *command[1:]])}  (all of it in {log.relative_to(ROOT)})")
    started = time.monotonic()
    with log.open("w", buffering=1) as out:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        tasks = 0
        for line in process.stdout:
            out.write(line)
            tasks += line.startswith("TASK [")
            if line.startswith("PLAY ["):
                say(f"{time.monotonic() - started:4.0f} s  {line[6 : line.rindex(']')]}")
            elif line.startswith(("fatal:", "[ERROR]")):
                say(line.rstrip()[:600])
    text = log.read_text()
    if process.wait():
        raise containers.LabError(
            f"site.yml failed after {tasks} tasks: see {log.relative_to(ROOT)}, then run this again."
        )
    names = ("ok", "changed", "unreachable", "failed")
    return {m[1]: dict(zip(names, map(int, m.groups()[1:]), strict=True)) for m in RECAP.finditer(text)}


def sites_of(env_name: str) -> dict:
    return yaml.safe_load((ROOT / "inventories" / env_name / "group_vars/all/sites.yml").read_text())["sites"]


def monitor_domain(env_name: str) -> str:
    return yaml.safe_load((ROOT / "inventories" / env_name / "group_vars/all/main.yml").read_text())["monitor_domain"]


def smoke(lab: containers.Lab) -> None:
    """Every site answers through the front door, and Nagios and Munin ask for their password."""
    session = front.session(lab.front_address(), lab.ca_file)
    pages = [(f"https://{site['domains'][0]}/", 200) for site in sites_of(lab.env_name).values()]
    domain = monitor_domain(lab.env_name)
    pages += [(f"https://{domain}/nagios4/", 401), (f"https://{domain}/munin/", 401)]
    for url, wanted in pages:
        answer = _first_good(session, url, wanted)
        say(
            f"{url} {answer.status_code}, {len(answer.content)} bytes in {answer.elapsed.total_seconds() * 1000:.0f} ms"
        )


def _first_good(session, url: str, wanted: int, seconds: int = 30):
    """The load balancers may need a second or two to see the web hosts come."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            answer = session.get(url, timeout=10)
            if answer.status_code == wanted:
                return answer
            problem = f"answered {answer.status_code}"
        except requests.RequestException as error:
            problem = f"did not answer ({error.__class__.__name__})"
        if time.monotonic() > deadline:
            raise containers.LabError(f"{url} {problem}, where {wanted} was wanted: see make status ENV=...")
        time.sleep(1)


def farewell(lab: containers.Lab) -> None:
    """Where to look now."""
    address, domain = lab.front_address(), monitor_domain(lab.env_name)
    sites = sites_of(lab.env_name)
    names = [site["domains"][0] for site in sites.values()]
    env = "" if lab.env_name == "production" else f" ENV={lab.env_name}"
    one = next((n for n in ("web2", "web1", *lab.containers()) if n in lab.containers()), "")
    print(f"""
The environment {lab.env_name} is up. For a browser on this machine, add this line to /etc/hosts:

    {address} {" ".join([*names, domain])}

and open (its certificates are signed by {lab.ca_file.relative_to(ROOT)})
""")
    for name, domain_name in zip(sites, names, strict=True):
        print(f"    {name:<10} https://{domain_name}/")
    print(f"""    Nagios     https://{domain}/nagios4/
    Munin      https://{domain}/munin/

Passwords: {lab.secrets_file.relative_to(ROOT)} (Nagios and Munin: admin with vault_monitor_password).
    curl --cacert {lab.ca_file.relative_to(ROOT)} --resolve {names[0]}:443:{address} https://{names[0]}/

Try next:
    make status{env}
    make ssh HOST={one}{env}
    .venv/bin/ansible-playbook site.yml -i {lab.env_name} -i lab --tags gunicorn     # a rolling deploy
    make down{env}""")


def demo(lab: containers.Lab, tiers: dict[str, list[str]]) -> None:
    started = time.monotonic()
    client = step("Docker Engine", lambda: engine.ensure(say))
    step("host image", lambda: containers.build_image(client, say))
    step(f"{len(tiers)} hosts", lambda: lab.up(tiers, say))
    recap = step("site.yml", lambda: converge(lab))
    say(f"{sum(host['changed'] for host in recap.values())} changes on {len(recap)} hosts")
    step("smoke checks", lambda: smoke(lab))
    print(f"    {time.monotonic() - started:.0f} s in all")
    farewell(lab)


class Memory:
    """The most memory a lab's containers used together, sampled while a block runs."""

    def __init__(self, lab: containers.Lab):
        self.lab, self.peak_mb, self._stop = lab, 0.0, threading.Event()

    def __enter__(self):
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(5):
            try:
                self.peak_mb = max(self.peak_mb, sum(map(self._used, self.lab.containers().values())))
            except (OSError, containers.LabError, engine.docker.errors.DockerException):
                continue

    @staticmethod
    def _used(container) -> float:
        stats = container.stats(stream=False, one_shot=True)["memory_stats"]
        detail = stats.get("stats", {})
        cache = detail.get("total_inactive_file", detail.get("inactive_file", 0))
        return (stats.get("usage", 0) - cache) / 2**20


def accelerated() -> dict[str, str]:
    """The environment in which Ansible runs its modules through mitogen."""
    plugins = Path(importlib.util.find_spec("ansible_mitogen").origin).parent / "plugins/strategy"
    return os.environ | {
        "ANSIBLE_STRATEGY": "mitogen_linear",
        "ANSIBLE_STRATEGY_PLUGINS": str(plugins),
        # It does not read the options with which the lab's overlay tells ssh to trust hosts made a minute ago.
        "ANSIBLE_HOST_KEY_CHECKING": "False",
    }


def to_be_read(fast: bool) -> dict[str, str]:
    """The environment of an ansible-playbook whose output is read by a program; ``fast`` takes the accelerator."""
    return (accelerated() if fast else dict(os.environ)) | {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_FORCE_COLOR": "false",
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }


def bench(lab: containers.Lab, tiers: dict[str, list[str]]) -> None:
    """Print the budgets, as measured here and now."""
    rows = []
    engine.ensure(say)
    lab.down(say)
    with Memory(lab) as memory:
        started = time.monotonic()
        demo(lab, tiers)
        rows.append(("demo from nothing", f"{time.monotonic() - started:.0f} s", "<= 900 s"))
        started = time.monotonic()
        recap = step("site.yml again", lambda: converge(lab))
        rows.append(("second run, pipelined SSH", f"{time.monotonic() - started:.0f} s", "<= 300 s"))
        started = time.monotonic()
        step("site.yml again, accelerated", lambda: converge(lab, environment=accelerated()))
        rows.append(("second run, accelerated", f"{time.monotonic() - started:.0f} s", "<= 120 s"))
    rows.append(("changed by the second run", str(sum(h["changed"] for h in recap.values())), "0"))
    busiest = max(recap, key=lambda name: recap[name]["ok"])
    rows.append((f"most tasks on a host ({busiest})", str(recap[busiest]["ok"]), "<= 70"))
    rows.append(("peak memory of the lab", f"{memory.peak_mb / 1024:.1f} GB", "<= 8 GB"))
    print("\n" + "\n".join(f"{what:<34} {figure:>10}   goal {goal}" for what, figure, goal in rows))
    lab.down(say)
