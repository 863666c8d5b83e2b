"""media-fill between two nginx-like servers: roles/media/files/usr/local/lib/trestle/media-fill."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from environments import ROOT

FILE = ROOT / "roles/media/files/usr/local/lib/trestle/media-fill"
loader = importlib.machinery.SourceFileLoader("media_fill", str(FILE))
media_fill = importlib.util.module_from_spec(importlib.util.spec_from_loader("media_fill", loader))
loader.exec_module(media_fill)

TIME = "Fri, 20 Nov 2026 21:09:50 GMT"


@pytest.fixture
def peer(tmp_path):
    """A peer's address and its folder."""
    root = tmp_path / "peer"
    (root / "blog/uploads").mkdir(parents=True)

    class Peer(SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(root))

        def list_directory(self, path):
            """As nginx's autoindex_format json."""
            kinds = {True: "directory", False: "file"}
            found = [{"name": p.name, "type": kinds[p.is_dir()], "mtime": TIME} for p in Path(path).iterdir()]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps([*found, {"name": "gone", "type": "file", "mtime": TIME}]).encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Peer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}", root / "blog/uploads"
    server.shutdown()


@pytest.fixture
def host(tmp_path):
    root = tmp_path / "host"
    (root / "blog/uploads").mkdir(parents=True)
    (root / ".unfinished").mkdir()
    return root


def test_what_is_missing_comes_with_its_time_and_what_is_there_stays(peer, host):
    address, theirs = peer
    (theirs / "a b/ü").mkdir(parents=True)
    (theirs / "a b/ü/c.txt").write_text("theirs")
    (theirs / "kept.txt").write_text("theirs")
    (host / "blog/uploads/kept.txt").write_text("ours")
    assert media_fill.main(str(host), address) == 0
    fetched = host / "blog/uploads/a b/ü/c.txt"
    assert fetched.read_text() == "theirs"
    assert fetched.stat().st_mtime == 1795208990
    assert (host / "blog/uploads/kept.txt").read_text() == "ours"
    assert not list((host / ".unfinished").iterdir()), "nothing unfinished is left"


def test_one_peer_that_answers_is_enough_and_none_is_a_failure(peer, host):
    assert media_fill.main(str(host), "127.0.0.1:9", peer[0]) == 0
    assert media_fill.main(str(host), "127.0.0.1:9") == 1
    assert media_fill.main(str(host)) == 0, "the only media host lacks nothing"
