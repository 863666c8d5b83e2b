"""The upload storage, against two small WebDAV servers in this process."""

import base64
import importlib.util
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from django.conf import settings
from django.core.files.base import ContentFile

STORAGE = Path(__file__).resolve().parents[2] / "roles/release/files/usr/local/lib/trestle/python/trestle_storage.py"
AUTHORIZATION = "Basic " + base64.b64encode(b"upload:secret").decode()


class Media(BaseHTTPRequestHandler):
    def answer(self, status, body=b""):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.broken or self.headers["Authorization"] != AUTHORIZATION:
            return self.answer(507 if self.server.broken else 401)
        self.server.files[self.path] = body
        return self.answer(201)

    def do_GET(self):
        found = self.path in self.server.files
        self.answer(200 if found else 404, self.server.files.get(self.path, b""))

    do_HEAD = do_GET

    def do_DELETE(self):
        self.answer(204 if self.server.files.pop(self.path, None) is not None else 404)

    def log_message(self, *_):
        pass


@pytest.fixture
def media():
    servers = []
    for _ in range(2):
        server = ThreadingHTTPServer(("127.0.0.1", 0), Media)
        server.files, server.broken = {}, False
        server.url = f"http://127.0.0.1:{server.server_port}/newsroom/"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
    yield servers
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def module():
    if not settings.configured:
        settings.configure()
    spec = importlib.util.spec_from_file_location("trestle_storage", STORAGE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def storage(media, module):
    return module.MediaStorage([server.url for server in media], "upload", "secret", "/media/")


def test_a_file_goes_to_every_host_and_comes_back(storage, media):
    big = bytes(range(256)) * 10_000
    name = storage.save("stories/a b.jpg", ContentFile(big))
    assert [server.files for server in media] == [{"/newsroom/stories/a%20b.jpg": big}] * 2
    assert storage.exists(name) and storage.size(name) == len(big)
    with storage.open(name) as file:
        assert file.read() == big
    assert storage.url(name) == "/media/stories/a%20b.jpg"


def test_text_is_stored_as_utf8(storage, media):
    storage.save("note.txt", ContentFile("naïve"))
    assert media[0].files["/newsroom/note.txt"].decode() == "naïve"


def test_a_taken_name_is_not_overwritten(storage, media):
    first = storage.save("a.txt", ContentFile(b"1"))
    second = storage.save("a.txt", ContentFile(b"2"))
    assert first != second and len(media[0].files) == 2


def test_one_host_is_enough(storage, media):
    media[0].broken = True
    name = storage.save("a.txt", ContentFile(b"1"))
    assert media[1].files and not media[0].files
    assert storage.exists(name) and storage.open(name).read() == b"1"


def test_no_host_is_an_error(storage, media, module):
    for server in media:
        server.broken = True
    with pytest.raises(module.MediaError, match="507"):
        storage.save("a.txt", ContentFile(b"1"))


def test_absent_files(storage):
    assert not storage.exists("nowhere.txt")
    with pytest.raises(FileNotFoundError):
        storage.open("nowhere.txt")


def test_unreachable_is_not_absent(module):
    storage = module.MediaStorage(["http://127.0.0.1:9/newsroom/"], "upload", "secret", "/media/")
    with pytest.raises(module.MediaError):
        storage.exists("a.txt")


def test_delete_is_everywhere(storage, media):
    name = storage.save("a.txt", ContentFile(b"1"))
    storage.delete(name)
    assert not any(server.files for server in media)
