"""The ring of cache hosts: a host that is lost moves its own keys alone, fails nothing and takes them back."""

from __future__ import annotations

import importlib
import socketserver
import threading
import time
from types import SimpleNamespace

import programs
import pytest

KEYS = [f"page-{number}" for number in range(300)]


class Memcached(socketserver.ThreadingTCPServer):
    """As much of memcached as a cache asks of it: get and set."""

    allow_reuse_address = daemon_threads = True

    def __init__(self, port: int = 0):
        super().__init__(("127.0.0.1", port), Session)
        self.port, self.kept, self.sessions = self.server_address[1], {}, set()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def lose(self) -> None:
        self.shutdown()
        self.server_close()
        for session in list(self.sessions):
            session.shutdown(2)


class Session(socketserver.StreamRequestHandler):
    def handle(self):
        self.server.sessions.add(self.connection)
        for line in self.rfile:
            command, *words = line.split()
            if command == b"set":
                self.server.kept[words[0]] = (words[1], self.rfile.read(int(words[3]) + 2))
                self.wfile.write(b"STORED\r\n")
                continue
            found = [(key, *self.server.kept[key]) for key in words if key in self.server.kept]
            values = [b"VALUE %s %s %d\r\n%s" % (key, flags, len(value) - 2, value) for key, flags, value in found]
            self.wfile.write(b"".join([*values, b"END\r\n"]))


@pytest.fixture
def clock(monkeypatch):
    """The time by which the ring leaves a host out."""
    now = SimpleNamespace(seconds=time.time())
    monkeypatch.setattr("pymemcache.client.hash.time", SimpleNamespace(time=lambda: now.seconds))
    return now


@pytest.fixture
def ring(monkeypatch):
    """The cache of a site with three hosts, and these."""
    monkeypatch.syspath_prepend(programs.ROLES / "release/files/usr/local/lib/trestle/python")
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    module = importlib.import_module("trestle_cache")
    hosts = [Memcached() for _ in range(3)]
    yield module.RingCache([f"127.0.0.1:{host.port}" for host in hosts], {"KEY_FUNCTION": module.key}), hosts
    for host in hosts:
        host.shutdown()


def test_a_lost_host_moves_its_own_keys_alone_and_takes_them_back(ring, clock):
    cache, hosts = ring
    for key in KEYS:
        cache.set(key, key)
    shares = [len(host.kept) for host in hosts]
    assert sum(shares) == len(KEYS) and min(shares) > len(KEYS) / 6, shares

    hosts[0].lose()
    found = [key for key in KEYS if cache.get(key) == key]
    assert len(found) == len(KEYS) - shares[0], "the keys of the others stay where they are"
    for key in set(KEYS) - set(found):
        cache.set(key, key)
    assert all(cache.get(key) == key for key in KEYS), "the others have its keys meanwhile"

    hosts[0] = Memcached(hosts[0].port)
    clock.seconds += 11
    for key in KEYS:
        cache.set(key, key)
    assert len(hosts[0].kept) == shares[0]
    assert cache.get_many(KEYS) == dict(zip(KEYS, KEYS, strict=True))


def test_a_host_that_does_not_answer_costs_one_timeout_and_fails_nothing(ring, clock):
    cache, hosts = ring
    accepted = []
    for host in hosts:
        host.process_request = lambda request, address: accepted.append(request)
    began = time.monotonic()
    for _ in range(5):
        cache.set_many(dict.fromkeys(KEYS, "value"))
    assert cache.get_many(KEYS) == {}
    for key in KEYS:
        cache.set(key, key)
        assert cache.get(key) is None
    assert time.monotonic() - began < len(hosts) * 0.25
