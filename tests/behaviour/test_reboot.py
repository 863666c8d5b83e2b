"""Every host comes back by itself."""

from __future__ import annotations

import time

import pytest
import requests
from conftest import hosts_of, long

from lab import redundancy
from lab.status import inactive, units_of

SECONDS = 150
# So long is one part up before the next one is.
APART_SECONDS = 15
DB, WEB = hosts_of("db"), hosts_of("web")


def test_every_host_comes_back_by_itself_after_a_reboot(lab, front, url):
    """All at once, as after a power cut: no order helps, and nobody logs in. Whole again is every host in its place."""
    found = lab.containers()
    for container in found.values():
        lab.power_off(container)
    for container in found.values():
        container.start()
    await_whole(lab, front, url)


def test_every_service_comes_back_by_itself_after_its_processes_were_killed(lab, front, url):
    """Of every host, all at once: no unit of the table is one that stays down."""
    found = lab.containers()
    for name, container in found.items():
        command = ["systemctl", "kill", "--signal=KILL", *units_of(lab.table_tiers(found, name))]
        assert container.exec_run(command).exit_code == 0
    await_whole(lab, front, url)


# What is down in the beginning, and what is started then, one after another.
ORDERS = {
    "databases, last to first": (DB, DB[::-1]),
    "databases, then web hosts": ([*DB, *WEB], [*DB, *WEB]),
    "web hosts, then databases": ([*DB, *WEB], [*WEB, *DB]),
    "pgpool alone while no database is there": (DB, ["pgpool2", *DB]),
    "pgpool and who tells it, the databases being there": ([], ["pgpool2", "pgpool-follower"]),
}


@long
@pytest.mark.parametrize("order", ORDERS)
def test_pgpool_a_web_host_and_the_databases_may_come_back_in_any_order(lab, front, url, order):
    found, (down, up) = lab.containers(), ORDERS[order]
    for name in set(down):  # a host may be both
        lab.power_off(found[name])
    for what in up:
        if what in found:
            found[what].start()
        else:
            for name in WEB:
                assert found[name].exec_run(["systemctl", "restart", what]).exit_code == 0
        time.sleep(APART_SECONDS)
    await_whole(lab, front, url)


def await_whole(lab, front, url: str) -> None:
    deadline = time.monotonic() + SECONDS
    while True:
        answer, missing = page(front, url), redundancy.missing(lab)
        if not missing and answer == "200":
            return
        assert time.monotonic() < deadline, f"{url}: {answer}; after {SECONDS} s: {missing}\n{journal(lab)}"
        time.sleep(2)


def page(front, url: str) -> str:
    try:
        return str(front.session().get(url, timeout=5).status_code)
    except requests.RequestException as error:
        return error.__class__.__name__


def journal(lab) -> str:
    found = lab.containers()
    down = {name: bad for name, c in found.items() if (bad := inactive(c, lab.table_tiers(found, name)))}
    return "\n".join(
        found[name].exec_run(["journalctl", "-n", "15", "-u", units[0]]).output.decode() for name, units in down.items()
    )
