"""The cache tier: every host of the ring answers the web hosts."""

from __future__ import annotations

import uuid

import pytest
from conftest import hosts_of

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
