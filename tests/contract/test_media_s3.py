"""media_storage: s3, from the site's entry to the requests, against a server that keeps what it is given.

It checks no signature and is nobody's S3: what a real service says is not tested here.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest
from django.conf import settings
from django.core.files.base import ContentFile
from environments import ROOT, rendered

STORAGE = ROOT / "roles/release/files/usr/local/lib/trestle/python/trestle_s3.py"


class Bucket(BaseHTTPRequestHandler):
    def answer(self, status, body=b""):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.files[unquote(self.path)] = (self.headers["Authorization"], body)
        self.answer(200)

    def do_GET(self):
        _, body = self.server.files.get(unquote(self.path), (None, None))
        self.answer(200 if body is not None else 404, body or b"")

    do_HEAD = do_GET

    def do_DELETE(self):
        self.server.files.pop(unquote(self.path), None)
        self.answer(204)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
    server.files = {}
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """What the site shop-2 finds, as a shell reads it."""
    file = next(file for file in rendered("elsewhere", "release") if file.dest == "/srv/shop-2/etc/environment")
    shell = ["env", "-i", "/bin/sh", "-c", f"set -a\n{file.text}\nexec /usr/bin/env -0"]
    done = subprocess.run(shell, capture_output=True, text=True, check=True)
    return dict(entry.split("=", 1) for entry in done.stdout.split("\0") if entry)


@pytest.fixture
def storage(environment, server, monkeypatch):
    if not settings.configured:
        settings.configure()
    for name, value in environment.items():
        if name.startswith(("MEDIA_", "AWS_")):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("MEDIA_S3_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    return module().S3MediaStorage()


def module():
    spec = importlib.util.spec_from_file_location("trestle_s3", STORAGE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_entry_is_in_the_environment(environment):
    assert environment["MEDIA_STORAGE"] == "trestle_s3.S3MediaStorage"
    assert environment["MEDIA_S3_ENDPOINT"] == "https://s3.example.org"
    assert "MEDIA_UPLOAD_PASSWORD" not in environment, "the media hosts are none of its business"


def test_a_file_goes_to_the_bucket_signed_and_comes_back(storage, server, environment):
    name = storage.save("stories/a b.jpg", ContentFile(b"picture"))
    authorization, body = server.files["/shop/stories/a b.jpg"]
    assert body == b"picture" and f"Credential={environment['MEDIA_S3_ACCESS_KEY']}/" in authorization
    assert storage.exists(name) and storage.open(name).read() == b"picture"
    assert storage.save(name, ContentFile(b"another")) != name, "a name that is taken is not written again"
    storage.delete(name)
    assert not storage.exists(name)


def test_an_address_is_signed_unless_the_bucket_has_a_domain(storage, server, monkeypatch):
    port = server.server_port
    assert re.match(rf"http://127\.0\.0\.1:{port}/shop/a%20b\.jpg\?.*Signature=", storage.url("a b.jpg"))
    monkeypatch.setenv("MEDIA_S3_DOMAIN", "files.example.org")
    assert module().S3MediaStorage().url("a b.jpg") == "https://files.example.org/a%20b.jpg"


def test_a_service_that_does_not_answer_is_an_error_and_no_endless_wait(storage, monkeypatch):
    monkeypatch.setenv("MEDIA_S3_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Exception, match=r"127\.0\.0\.1:9"):
        module().S3MediaStorage().exists("a.jpg")
