"""The upload storage, against two small WebDAV servers in this process."""

import base64
import importlib.util
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from django.conf import settings
from django.core.exceptions import SuspiciousFileOperation
from django.core.files.base import ContentFile

STORAGE = Path(__file__).resolve().parents[2] / "roles/release/files/usr/local/lib/trestle/python/trestle_storage.py"
AUTHORIZATION = "Basic " + base64.b64encode(b"upload:secret").decode()


class Media(BaseHTTPRequestHandler):
    def answer(self, status, body=b""):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if changed := self.server.changed.get(self.path):
            self.send_header("Last-Modified", changed)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.broken or self.headers["Authorization"] != AUTHORIZATION:
            return self.answer(507 if self.server.broken else 401)
        self.server.files[self.path] = body
        self.server.changed[self.path] = "Mon, 02 Mar 2026 10:00:00 GMT"
        return self.answer(201)

    def do_GET(self):
        found = self.path in self.server.files
        self.server.log.append(self.command)
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
        server.files, server.changed, server.log, server.broken = {}, {}, [], False
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
def storage(media, module, tmp_path):
    return module.MediaStorage([server.url for server in media], "upload", "secret", "/media/", tmp_path)


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


def test_a_path_is_that_of_a_copy(storage, tmp_path):
    name = storage.save("logos/a.png", ContentFile(b"1"))
    path = storage.path(name)
    assert path == str(tmp_path / "logos/a.png") and Path(path).read_bytes() == b"1"
    assert storage.exists(path) and storage.open(path).read() == b"1"
    assert storage.url(path) == "/media/logos/a.png"


def test_a_copy_is_fetched_once_and_anew_when_the_file_changes(storage, media):
    name = storage.save("a.png", ContentFile(b"1"))
    path = Path(storage.path(name))
    storage.path(name)
    assert media[0].log.count("GET") == 1
    for server in media:
        server.files["/newsroom/a.png"] = b"2"
        server.changed["/newsroom/a.png"] = "Tue, 03 Mar 2026 10:00:00 GMT"
    assert Path(storage.path(name)).read_bytes() == b"2"
    storage.delete(str(path))
    assert not path.exists() and not media[0].files


def test_a_file_that_is_not_stored_yet_has_a_path(storage, tmp_path):
    assert storage.path("new.png") == str(tmp_path / "new.png") and not (tmp_path / "new.png").exists()


def test_a_path_is_within_the_uploads(storage):
    with pytest.raises(SuspiciousFileOperation):
        storage.path("../etc/environment")
