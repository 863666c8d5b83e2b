"""playbooks/patch.yml with something to upgrade: packages of a higher version, in a repository on the host itself."""

from __future__ import annotations

import pytest
from conftest import ENV, TIERS, hosts_of, long
from runs import Visitor, ansible_playbook, recap
from test_web import health, sites

from tests import offers

CACHE, WEB = hosts_of("cache")[0], hosts_of("web")
SITE = sites()[0]
GUNICORN = f"/srv/{SITE}/current/venv/bin/gunicorn"


def patch(*options: str):
    return ansible_playbook(ENV, "playbooks/patch.yml", *options)


def flags(host, name: str) -> list[str]:
    return host(name).check_output("ls /var/lib/trestle/drain 2>/dev/null || :").split()


def version(host, name: str, package: str) -> str:
    return host(name).check_output("dpkg-query -W -f '${Version}' %s", package)


def started(host, name: str, unit: str) -> str:
    return host(name).check_output("systemctl show --property=ExecMainStartTimestampMonotonic --value %s", unit)


def changed(output: str) -> set[str]:
    return {name for name, counts in recap(output).items() if counts["changed"]}


@pytest.fixture
def offered(host):
    """A newer memcached for a cache host, a newer pgpool for the web hosts."""
    packages = {CACHE: "memcached"} | dict.fromkeys(WEB, "pgpool2")
    for name, package in packages.items():
        host(name).check_output(offers.offer([package]))
    yield packages
    host(WEB[0]).run(f"[ ! -e {GUNICORN}.whole ] || mv -f {GUNICORN}.whole {GUNICORN}")
    for name in packages:
        host(name).run(f"{offers.WITHDRAW} /run/reboot-required; rm -f /var/lib/trestle/drain/patch")
    for name in WEB:
        host(name).run("systemctl start supervisor")


@long
@pytest.mark.skipif(len(WEB) < 2 or len(TIERS[CACHE]) > 1, reason="a host at a time takes hosts of one tier, and two")
def test_hosts_are_patched_one_by_one_and_a_failed_run_is_finished_by_the_next(host, offered, front, settings):
    before = {name: version(host, name, package) for name, package in offered.items()}
    host(CACHE).check_output("touch /run/reboot-required")
    booted = host(CACHE).check_output("systemctl show --property=UserspaceTimestamp --value")

    said = patch("--check")
    assert said.returncode == 0, said.stdout[-3000:]
    assert "to upgrade: memcached" in said.stdout and "to upgrade: pgpool2" in said.stdout, said.stdout[-3000:]
    assert {name: version(host, name, package) for name, package in offered.items()} == before
    assert not changed(said.stdout), said.stdout[-3000:]

    # The first web host does not come up again.
    host(WEB[0]).check_output(f"mv {GUNICORN} {GUNICORN}.whole && cp /bin/false {GUNICORN}")
    url = f"https://{settings['sites'][SITE]['domains'][0]}/"
    with Visitor(front, url) as visitor:
        broken = patch("-e", "gunicorn_start_seconds=8", "--limit", f"{CACHE},{','.join(WEB)}")
        assert broken.returncode == 2, broken.stdout[-3000:]
        assert f"{WEB[0]} failed at" in broken.stdout, broken.stdout[-3000:]
        assert f"{CACHE} needs a reboot" not in broken.stdout, "the run went on"
        assert version(host, CACHE, "memcached") == before[CACHE] + offers.HIGHER
        assert host(CACHE).check_output("systemctl is-active memcached") == "active"
        assert flags(host, CACHE) == [] and flags(host, WEB[0]) == ["patch"] and flags(host, WEB[1]) == []
        assert version(host, WEB[1], "pgpool2") == before[WEB[1]], "the next host was touched"

        host(WEB[0]).check_output(f"mv -f {GUNICORN}.whole {GUNICORN}")
        pgpool = {name: started(host, name, "pgpool2") for name in WEB[1:]}
        mended = patch("-e", "patch_reboot=true")
        assert mended.returncode == 0, mended.stdout[-3000:]
        assert visitor.served > 20 and not visitor.failures, visitor.failures

    assert changed(mended.stdout) == {CACHE, *WEB}, "what had nothing pending was touched"
    for name, package in offered.items():
        assert version(host, name, package) == before[name] + offers.HIGHER, name
        assert flags(host, name) == [], name
    assert all(started(host, name, "pgpool2") != when for name, when in pgpool.items()), "pgpool runs the old version"
    assert all(health(host(name), SITE, "ready")[0] == 200 for name in WEB)
    assert host(CACHE).check_output("systemctl show --property=UserspaceTimestamp --value") != booted, "no reboot"

    again = patch("-e", "patch_reboot=true")
    assert again.returncode == 0, again.stdout[-3000:]
    assert not changed(again.stdout), again.stdout[-3000:]
