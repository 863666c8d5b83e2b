"""The cache tier: every host of the ring answers the web hosts, and the loss of one is hardly felt."""

from __future__ import annotations

import contextlib
import re
import time
import uuid

import pytest
import test_site
from conftest import hosts_of, is_spare, long
from runs import wait

ASK = """python3 - <<'E'
import socket
with socket.create_connection(("{address}", 11211), timeout=3) as s:
    f = s.makefile("rwb")
    for line in {lines!r}:
        f.write(line.encode() + b"\\r\\n")
    f.flush()
    s.shutdown(socket.SHUT_WR)
    print(f.read().decode())
E"""


@pytest.fixture(scope="module")
def ask(host, lab):
    containers = lab.containers()

    def ask(web: str, cache: str, *lines: str) -> str:
        done = host(web).run(ASK.format(address=lab.address(containers[cache]), lines=list(lines)))
        unit = host(cache).run("systemctl status memcached --no-pager -n 5").stdout if done.rc else ""
        assert done.rc == 0, f"{cache} from {web}: {done.stderr}\n{unit}"
        return done.stdout

    return ask


@pytest.mark.parametrize("cache", hosts_of("cache"))
def test_every_web_host_reaches_every_cache_host(ask, cache):
    for web in hosts_of("web"):
        assert ask(web, cache, "version").startswith("VERSION 1."), web


@pytest.mark.parametrize("cache", hosts_of("cache"))
def test_what_one_web_host_keeps_another_finds(ask, cache):
    key, value = f"trestle-test-{uuid.uuid4()}", "a page"
    first, last = hosts_of("web")[0], hosts_of("web")[-1]
    assert "STORED" in ask(first, cache, f"set {key} 0 60 {len(value)}", value)
    assert value in ask(last, cache, f"get {key}")
    assert "DELETED" in ask(last, cache, f"delete {key}")


@pytest.mark.parametrize("cache", hosts_of("cache"))
def test_a_cache_that_is_killed_comes_back(host, ask, cache):
    assert host(cache).run("systemctl kill -s KILL memcached").rc == 0
    host(cache).run("for i in $(seq 50); do systemctl is-active -q memcached && exit 0; sleep 0.1; done")
    host(cache).run("for i in $(seq 50); do ss -ltn | grep -q :11211 && exit 0; sleep 0.1; done")
    assert ask(hosts_of("web")[0], cache, "version").startswith("VERSION 1."), "memcached did not come back"


@pytest.mark.parametrize("cache", hosts_of("cache"))
def test_a_cache_does_not_answer_udp(host, cache):
    assert "11211" not in host(cache).run("ss -lun").stdout


# The loss of one, measured at the front door.

SLOWER_SECONDS, ROUNDS, PAGES = 0.25, 12, 10
BLACK_HOLE = "; ".join(
    [
        "add table ip away",
        "add chain ip away input { type filter hook input priority -300; }",
        "add rule ip away input tcp dport 11211 drop",
    ]
)


@contextlib.contextmanager
def lost(how: str, lab, host, container):
    """The cache host is frozen, dead, or reached by nothing."""
    if how == "black-holed":
        host.check_output(f"nft '{BLACK_HOLE}'")
    elif how == "frozen":
        lab.freeze(container)
    else:
        container.kill()
    try:
        yield
    finally:
        if how == "black-holed":
            host.check_output("nft delete table ip away")
        else:
            getattr(container, {"frozen": "unpause", "killed": "start"}[how])()


@pytest.fixture(scope="module")
def slowest(front, lab, sites, ask):
    """slowest(hosts): the seconds of the slowest of many pages, which come well, and as a logged-in editor sees them.

    One site takes its cache from the environment, one has it laid over its own settings. These cache hosts are emptied
    now and then, so that the pages have new keys, which may belong to any host.
    """
    sessions = {site["domains"][0]: test_site.editor(front, lab, site) for site in sites}

    def seconds(domain: str) -> float:
        began = time.monotonic()
        answer = sessions[domain].get(f"https://{domain}/", timeout=10)
        took = time.monotonic() - began
        assert answer.status_code == 200, answer.text[:500]
        assert "Log out" in answer.text, f"{domain} has logged the editor out"
        return took

    def slowest(caches: list[str], rounds: int = ROUNDS) -> float:
        found = 0.0
        for _ in range(rounds):
            for cache in caches:
                ask(hosts_of("web")[0], cache, "flush_all")
            found = max(found, *(seconds(domain) for domain in list(sessions) * PAGES))
        return found

    return slowest


def between_munin_s_rounds() -> None:
    """Each five minutes it asks all hosts at once for all their figures, which takes a lab's cores for some seconds."""
    while not 15 < time.time() % 300 < 270:
        time.sleep(1)


@long
@pytest.mark.skipif(not is_spare("cache"), reason="this environment has one cache host")
@pytest.mark.parametrize("how", ["frozen", "killed", "black-holed"])
def test_a_lost_cache_host_fails_no_page_slows_none_logs_nobody_out_and_takes_its_share_back(host, lab, slowest, how):
    every = hosts_of("cache")
    cache, others = every[-1], every[:-1]
    container = lab.containers()[cache]
    between_munin_s_rounds()
    usual = slowest(every)
    with lost(how, lab, host(cache), container):
        without = slowest(others)
    print(f"{cache} {how}: slowest {without:.3f} s, before {usual:.3f} s")
    assert without < usual + SLOWER_SECONDS, f"{without:.3f} s, where {usual:.3f} s was the slowest before"

    def asked() -> int | None:
        """How often it was asked for a key since it started."""
        said = host(hosts_of("web")[0]).run(ASK.format(address=lab.address(container), lines=["stats"])).stdout
        found = re.search(r"STAT cmd_get (\d+)", said)
        return int(found[1]) if found else None

    assert wait(30, lambda: asked() is not None), f"{cache} does not answer"
    before = asked()
    assert wait(60, lambda: slowest(others, 1) and asked() > before), f"{cache} is not asked again"
