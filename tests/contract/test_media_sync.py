"""media-sync on several hosts of this process, each with an HTTP server that does what nginx does for it."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from http.client import HTTPConnection
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
from environments import ROOT
from programs import load

# The second imports the first.
media_journal = load("media", "media_journal.py")
media_sync = load("media", "media_sync.py")
CHECK = ROOT / "roles/media/files/usr/local/lib/nagios/plugins/check_media"
DAY = 24 * 60 * 60


class Nginx(media_sync.Handler):
    """media-sync's requests, with the bodies in files, and the host's own files for its peers."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self):
        body = self.server.journal.scratch / f"body{time.monotonic_ns()}"
        if content := self.rfile.read(int(self.headers["Content-Length"])):
            body.write_bytes(content)
            self.headers["X-Media-Body"] = str(body)
        super().do_PUT()
        body.unlink(missing_ok=True)

    def do_GET(self):
        site, _, rest = unquote(self.path).lstrip("/").partition("/uploads/")
        if not rest:
            return super().do_GET()
        file = self.server.journal.root / site / "uploads" / rest
        return self.answer(200, file.read_text()) if file.is_file() else self.answer(404)


class Host:
    """A media host, its nginx, and what it knows of the others."""

    def __init__(self, root: Path):
        for folder in (".unfinished", ".journal", "blog/uploads"):
            (root / folder).mkdir(parents=True)
        self.root, self.journal, self.peers = root, media_journal.Journal(root), []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Nginx)
        self.server.daemon_threads = True
        self.server.journal, self.server.scanned = self.journal, threading.Event()
        self.server.scanned.set()
        threading.Thread(target=self.server.serve_forever, args=[0.01], daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.server_port}"

    def request(self, method: str, name: str, text: str | None = None, version: int | None = None) -> int:
        connection = HTTPConnection(self.address, timeout=5)
        headers = {media_sync.VERSION: str(version)} if version is not None else {}
        connection.request(method, f"/blog/{name}", text, headers)
        status = connection.getresponse().status
        connection.close()
        return status

    def put(self, name: str, text: str, version: int | None = None) -> None:
        assert self.request("PUT", name, text, version) == 201

    def delete(self, name: str, version: int | None = None) -> None:
        assert self.request("DELETE", name, version=version) == 204

    def follow(self, *others: Host) -> None:
        self.peers = [media_sync.Peer(other.address, self.journal) for other in others]

    def catch_up(self) -> None:
        for peer in self.peers:
            peer.read()
            peer.fetch_all()

    def files(self) -> dict[str, tuple[str, int]]:
        uploads = self.root / "blog/uploads"
        found = [path for path in uploads.rglob("*") if path.is_file()]
        return {str(path.relative_to(uploads)): (path.read_text(), path.stat().st_mtime_ns) for path in found}

    def texts(self) -> dict[str, str]:
        return {name: text for name, (text, _) in self.files().items()}


@pytest.fixture
def hosts(tmp_path, monkeypatch):
    monkeypatch.setattr(media_journal, "sync", lambda path: None)  # for speed alone
    hosts = [Host(tmp_path / name) for name in "abc"]
    for host in hosts:
        host.follow(*(other for other in hosts if other is not host))
    yield hosts
    for host in hosts:
        host.server.shutdown()
        host.server.server_close()
        # The answer goes first.
        deadline = time.monotonic() + 5
        while left := [*host.journal.scratch.iterdir()]:
            assert time.monotonic() < deadline, f"unfinished, and left: {left}"
            time.sleep(0.01)


def test_what_one_host_took_every_host_has_with_the_same_time(hosts):
    a, b, _ = hosts
    a.put("a%20b/%C3%BC.txt", "a story")
    a.put("empty", "")
    b.catch_up()
    assert b.files() == a.files() and b.texts() == {"a b/ü.txt": "a story", "empty": ""}
    assert b.journal.lag()[0] == 0


@pytest.mark.parametrize("name", ["x", "nowhere/../x"])
def test_nobody_is_answered_who_has_gone(tmp_path, capfd, name):
    """As nginx has, with the last header, and where its client gave up."""
    (tmp_path / "blog/uploads").mkdir(parents=True)
    for folder in (".unfinished", ".journal"):
        (tmp_path / folder).mkdir()
    server = media_sync.Server(str(tmp_path / "socket"), media_journal.Journal(tmp_path))
    with closing(socket.socket(socket.AF_UNIX)) as client:
        client.connect(str(tmp_path / "socket"))
        client.sendall(f"PUT /blog/uploads/{name} HTTP/1.0\r\n\r\n".encode())
    server.daemon_threads = False
    server.handle_request()
    server.server_close()
    assert capfd.readouterr() == ("", "")


def test_an_interrupted_write_of_the_same_version_is_done_again(hosts):
    a, b, _ = hosts
    for host in (a, b):
        host.put("x", "1", 7)
    b.catch_up()
    b.put("x", "1", 7)
    assert a.files() == b.files() == {"x": ("1", 7)}


def test_a_host_that_was_away_learns_of_changes_and_deletions(hosts):
    a, b, _ = hosts
    for name in ("kept", "changed", "deleted", "folder/deleted", "deleted and written"):
        a.put(name.replace(" ", "%20"), "1")
    b.catch_up()
    for name in ("deleted", "folder/deleted", "deleted%20and%20written"):
        a.delete(name)
    a.put("changed", "2")
    a.put("deleted%20and%20written", "2")
    a.put("folder", "a file now")
    b.catch_up()
    assert b.files() == a.files()
    assert b.texts() == {"kept": "1", "changed": "2", "deleted and written": "2", "folder": "a file now"}


def test_the_newest_wins_whoever_hears_of_it_first(hosts):
    a, b, _ = hosts
    a.put("x", "old", 10)
    b.put("x", "new", 20)
    assert b.request("PUT", "x", "old", 10) == b.request("DELETE", "x", version=19) == 409
    a.catch_up()
    b.catch_up()
    assert a.files() == b.files() == {"x": ("new", 20)}


def test_a_deletion_is_remembered_of_a_file_that_never_came(hosts):
    a, b, c = hosts
    a.put("x", "1", 10)
    b.delete("x", 20)
    b.catch_up()
    c.follow(a)
    c.catch_up()
    c.follow(a, b)
    c.catch_up()
    a.catch_up()
    assert not a.files() and not b.files() and not c.files()


def test_a_file_that_its_own_host_has_lost_meanwhile_is_fetched_from_another(hosts):
    a, b, c = hosts
    a.put("x", "1")
    b.catch_up()
    c.follow(a)
    c.peers[0].read()
    (a.root / "blog/uploads/x").unlink()
    c.catch_up()
    assert not c.files() and c.journal.lag()[0] == 1
    c.follow(b)
    c.catch_up()
    assert c.files() == b.files() and c.journal.lag()[0] == 0


def test_what_came_by_hand_is_told_and_what_went_by_hand_comes_back(hosts):
    a, b, _ = hosts
    a.put("gone", "1")
    a.put("damaged", "whole")
    b.catch_up()
    uploads = a.root / "blog/uploads"
    (uploads / "by hand").write_text("2")
    (uploads / "gone").unlink()
    version = (uploads / "damaged").stat().st_mtime_ns
    (uploads / "damaged").write_text("wh")
    os.utime(uploads / "damaged", ns=(version, version))
    assert a.journal.scan() == 3 and a.journal.scan() == 0
    a.catch_up()
    b.catch_up()
    assert a.files() == b.files() and a.texts() == {"gone": "1", "damaged": "whole", "by hand": "2"}


def test_a_deletion_that_was_cut_short_is_finished(hosts):
    a, *_ = hosts
    a.put("x", "1", 10)
    os.link(a.root / "blog/uploads/x", a.root / "kept")
    a.delete("x", 20)
    os.link(a.root / "kept", a.root / "blog/uploads/x")
    assert a.journal.scan() == 1 and not a.files()


def test_a_long_journal_is_read_page_by_page_and_a_new_one_from_its_beginning(hosts, monkeypatch, tmp_path):
    monkeypatch.setattr(media_journal, "PAGE", 3)
    a, b, c = hosts
    for number in range(10):
        a.put(f"{number}", "1")
    b.catch_up()
    assert len(b.files()) == 10
    blank = Host(tmp_path / "blank")
    blank.put("other", "2")
    blank.follow(a)
    blank.catch_up()
    assert len(blank.files()) == 11
    # It takes a's place, with fewer changes than b has read of a.
    blank.server.server_close()
    a.server.journal = c.journal
    c.put("other", "2")
    b.catch_up()
    assert len(b.files()) == 11


def test_who_was_away_for_longer_than_deletions_are_remembered_is_neither_asked_nor_told(hosts):
    a, b, _ = hosts
    a.put("x", "1")
    b.catch_up()
    a.delete("x")
    time.sleep(0.01)
    a.journal.forget(0)
    with pytest.raises(media_journal.Stale):
        b.peers[0].read()
    with pytest.raises(OSError, match="410"):
        a.peers[0].read()
    assert b.files() and not a.files()


def test_who_knows_of_every_deletion_is_not_stale_when_it_is_forgotten(hosts):
    a, b, _ = hosts
    a.put("x", "1")
    b.catch_up()
    a.delete("x")
    b.catch_up()
    a.journal.forget(0)
    b.catch_up()
    a.catch_up()
    assert b.journal.forgotten() == a.journal.forgotten() > 0
    assert not a.files() and not b.files()


def test_no_path_leads_out_of_the_uploads(hosts):
    a, *_ = hosts
    for name in ("../x", "%2e%2e/x", "a/../../x", "a//b", "", "a%00"):
        assert a.request("PUT", name, "1") == 400, name
    connection = HTTPConnection(a.address)
    connection.request("PUT", "/nosite/x", "1")
    assert connection.getresponse().status == 404


def test_peers_are_told_nothing_before_the_disk_was_looked_at(hosts):
    a, b, _ = hosts
    a.server.scanned.clear()
    with pytest.raises(OSError, match="503"):
        b.peers[0].read()


def test_what_interrupted_uploads_left_goes_after_a_day(hosts):
    scratch = hosts[0].journal.scratch
    (scratch / "old").write_text("x")
    (scratch / "folder").mkdir()
    os.utime(scratch / "old", (0, 0))
    os.utime(scratch / "folder", (0, 0))
    (scratch / "new").write_text("x")
    hosts[0].journal.tidy(DAY)
    assert [path.name for path in scratch.iterdir()] == ["new"]
    (scratch / "new").unlink()


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_in_whatever_order_all_hosts_end_alike(hosts, seed):
    """Writes and deletions reach some hosts, others hear of them late: the newest of each name is what is left."""
    chance, newest = random.Random(seed), {}
    for version in range(1, 120):
        name = f"{chance.choice('xyz')}/{chance.choice('123')}"
        for host in chance.sample(hosts, chance.choice([1, 2])):
            text = f"{version}" if chance.random() < 0.7 else None
            text = newest.setdefault((version, name), text)
            host.request("DELETE" if text is None else "PUT", name, text, version)
        if chance.random() < 0.3:
            chance.choice(chance.choice(hosts).peers).read()
        if chance.random() < 0.2:
            chance.choice(chance.choice(hosts).peers).fetch_all()
    for host in hosts * 3:
        host.catch_up()
    last = {name: text for (_, name), text in newest.items()}
    assert hosts[0].texts() == {name: text for name, text in last.items() if text is not None}
    assert hosts[0].files() == hosts[1].files() == hosts[2].files()
    assert not any(host.journal.scan() for host in hosts)


# The check.


def check(tmp_path: Path, **state) -> tuple[int, str]:
    text = CHECK.read_text()
    program, file = tmp_path / "check_media", tmp_path / "state.json"
    program.write_text(text.replace("/run/media-sync/state.json", str(file)))
    if state:
        file.write_text(json.dumps({"time": time.time(), "wanted": 0, "since": 0, "peers": {}} | state))
    done = subprocess.run([sys.executable, program], capture_output=True, text=True)
    return done.returncode, done.stdout


def test_the_check_tells_a_host_that_lags_from_one_that_has_no_peer(tmp_path):
    now = time.time()
    assert check(tmp_path)[0] == 2, "no state at all"
    assert check(tmp_path, peers={"b": {"seen": now, "problem": ""}}) == (
        0,
        "OK: 0 files lacking, for 0 s | wanted=0 lag=0s\n",
    )
    assert check(tmp_path, wanted=5, since=now - 10)[0] == 0
    assert check(tmp_path, wanted=5, since=now - 100)[0] == 2
    assert check(tmp_path, time=now - 1000)[0] == 2
    code, said = check(tmp_path, peers={"b": {"seen": now - 100, "problem": "timed out"}})
    assert code == 1 and "b (timed out)" in said


def test_the_state_is_what_the_check_reads(hosts, tmp_path):
    a, b, _ = hosts
    a.put("x", "1")
    b.peers[0].read()
    assert check(tmp_path, **media_sync.state(b.journal, b.peers))[0] == 1, "it has never caught up with its peers"
    told = media_sync.state(b.journal, b.peers)
    assert told["wanted"] == 1 and time.time() - told["since"] < 5
