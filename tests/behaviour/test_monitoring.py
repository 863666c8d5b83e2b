"""The monitor, through the front door: who may look, what is watched, and that a fault shows and heals."""

from __future__ import annotations

import re
import time

import pytest
import requests
from conftest import ENV, TIERS, hosts_of
from runs import ansible_playbook, wait

SETTLE_SECONDS = 120
FAULT_SECONDS = 60


class NoState(Exception):
    """Nagios's pages have no state to tell, as while it starts."""


class Monitor:
    def __init__(self, session, url, host):
        self.session, self.url, self.host = session, url, host

    def get(self, path: str):
        return self.session.get(self.url + path, timeout=20)

    def services(self) -> dict[tuple[str, str], dict]:
        answer = self.get("/status.json")
        try:
            answer.raise_for_status()
            listed = answer.json()["data"]["servicelist"]
        except (requests.RequestException, KeyError) as error:
            raise NoState(f"{answer.status_code}: {answer.text[:500]}") from error
        return {(host, name): state for host, states in listed.items() for name, state in states.items()}

    def check_now(self, *services: tuple[str, str]) -> None:
        """Nagios makes these checks at once instead of within a minute."""
        lines = "".join(f"[0] SCHEDULE_FORCED_SVC_CHECK;{host};{name};0\n" for host, name in services)
        self.host.run_expect([0], "printf %%s %s > /var/lib/nagios4/rw/nagios.cmd", lines)

    def wait_for(self, wanted: dict[tuple[str, str], str], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        asked = 0.0
        while True:
            found = self.services()
            wrong = [key for key, status in wanted.items() if found[key]["status"] != status]
            if not wrong:
                return
            if time.monotonic() > deadline:
                pytest.fail("\n".join(f"{k[0]} {k[1]}: {found[k]['status']}: {output(found[k])}" for k in wrong))
            if time.monotonic() - asked > 10:
                self.check_now(*wrong)
                asked = time.monotonic()
            time.sleep(1)


def output(service: dict) -> str:
    return f"{service['plugin_output']} {service['long_plugin_output']}".strip()


@pytest.fixture(scope="module")
def monitor(front, settings, lab, host) -> Monitor:
    session = front.session()
    session.auth = ("admin", lab.secrets()["vault_monitor_password"])
    return Monitor(session, f"https://{settings['monitor_domain']}", host(hosts_of("monitor")[0]))


@pytest.mark.parametrize("path", ["/", "/nagios4/", "/munin/", "/status.json", "/cgi-bin/nagios4/cmd.cgi"])
def test_nobody_looks_without_the_password(front, settings, path):
    session = front.session()
    url = f"https://{settings['monitor_domain']}{path}"
    assert session.get(url, timeout=20).status_code == 401
    assert session.get(url, timeout=20, auth=("admin", "wrong")).status_code == 401


@pytest.mark.parametrize(
    ("path", "shows"),
    [
        ("/", "/munin/"),
        ("/nagios4/", "Nagios"),
        ("/nagios4/side.php", "status.cgi"),
        ("/cgi-bin/nagios4/tac.cgi", "Logged in as <i>admin</i>"),
        ("/munin/", "Munin"),
    ],
)
def test_the_pages_are_there_with_it(monitor, path, shows):
    answer = monitor.get(path)
    assert answer.status_code == 200
    assert shows in answer.text


def test_nagios_watches_every_host_of_the_inventory_and_no_other(monitor):
    assert {host for host, _ in monitor.services()} == set(TIERS)


def test_every_service_is_ok(monitor):
    monitor.wait_for(dict.fromkeys(monitor.services(), "ok"), SETTLE_SECONDS)


def test_munin_draws_every_host_of_the_inventory_and_no_other(monitor):
    pages = dict(re.findall(r'href="(\w+/([^/"]+))/index.html"', monitor.get("/munin/").text))
    assert sorted(pages.values()) == sorted(TIERS)
    for page, name in pages.items():
        graph = monitor.get(f"/munin/{page}/cpu-day.png")
        assert graph.status_code == 200, (
            f"{name}: {monitor.host.run('tail -n 5 /var/log/munin/munin-update.log').stdout}"
        )
        assert graph.headers["Content-Type"] == "image/png"
        assert graph.content.startswith(b"\x89PNG\r\n") and len(graph.content) > 2000


def test_a_run_waits_where_cron_is_drawing_the_first_graphs(monitor):
    """Munin refuses to be run twice at a time, and its lock is a file with the number of a process."""
    page, lock = "/var/cache/munin/www/index.html", "/run/munin/munin-update.lock"
    monitor.host.check_output(f"rm {page}")
    monitor.host.check_output(f"runuser -u munin -- sh -c 'sleep 25 >/dev/null 2>&1 & echo $! > {lock}'")
    done = ansible_playbook(ENV, "site.yml", "--tags", "munin", "--limit", hosts_of("monitor")[0], fast=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert monitor.host.file(page).exists


def test_a_fault_shows_and_heals(monitor, host):
    name = hosts_of("cache")[0]
    cache = host(name)
    try:
        cache.run_expect([0], "systemctl stop memcached")
        monitor.wait_for({(name, "memcached"): "critical", (name, "system units"): "critical"}, FAULT_SECONDS)
        assert "memcached" in output(monitor.services()[(name, "system units")])
    finally:
        cache.run_expect([0], "systemctl start memcached")
    monitor.wait_for({(name, "memcached"): "ok", (name, "system units"): "ok"}, FAULT_SECONDS)


@pytest.mark.skipif(len(hosts_of("web")) < 2, reason="whether the other hosts still ring takes another web host")
def test_of_a_drained_host_nobody_is_told_until_it_is_restored(monitor, host):
    """The same fault on two hosts, one of them drained: what Nagios says of the other proves that it would have."""
    drained, other = hosts_of("web")[:2]
    fault = "munin_node"
    flag = "/var/lib/trestle/drain/manual"
    began = int(monitor.host.check_output("wc -l < /var/log/nagios4/nagios.log"))

    def log() -> str:
        return monitor.host.check_output(f"tail -n +{began + 1} /var/log/nagios4/nagios.log")

    def told(name: str) -> bool:
        return f"SERVICE NOTIFICATION: admin;{name};{fault};CRITICAL" in log()

    def found(name: str, since: float) -> bool:
        """Nagios has made up its mind about the fault, and looked again after that moment."""
        try:
            state = monitor.services()[(name, fault)]
        except NoState:  # it was restarted
            return False
        if (state["status"], state["state_type"]) == ("critical", "hard") and state["last_check"] > since * 1000:
            return True
        monitor.check_now((name, fault))
        return False

    try:
        host(drained).check_output(f"touch {flag}")
        monitor.wait_for({(drained, "system drained"): "warning"}, FAULT_SECONDS)
        assert "manual" in output(monitor.services()[(drained, "system drained")])
        for name in (drained, other):
            host(name).check_output("systemctl stop munin-node")
        assert wait(FAULT_SECONDS, lambda: found(drained, 0) and found(other, 0), 2), log()
        assert wait(FAULT_SECONDS, lambda: told(other), 2), log()
        monitor.host.check_output("systemctl restart nagios4")
        restarted = time.time() + 1
        assert wait(FAULT_SECONDS, lambda: found(drained, restarted), 2), log()
        assert not told(drained), log()

        host(drained).check_output(f"rm {flag}")
        monitor.wait_for({(drained, "system drained"): "ok"}, FAULT_SECONDS)
        assert wait(2 * FAULT_SECONDS, lambda: told(drained), 2), log()
    finally:
        host(drained).run(f"rm -f {flag}")
        for name in (drained, other):
            host(name).run("systemctl start munin-node")
    monitor.wait_for({(name, fault): "ok" for name in (drained, other)}, FAULT_SECONDS)
