"""The upload storage, against three small media hosts in this process, of which a test uses two or all."""

import base64
import importlib.util
import threading
import time
import tracemalloc
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from django.conf import settings
from django.core.exceptions import SuspiciousFileOperation
from django.core.files.base import ContentFile
from django.core.files.uploadedfile import UploadedFile

STORAGE = Path(__file__).resolve().parents[2] / "roles/release/files/usr/local/lib/trestle/python/trestle_storage.py"
VERSION = "X-Media-Version"
NOWHERE = "http://127.0.0.1:9/newsroom/"
AUTHORIZATION = "Basic " + base64.b64encode(b"upload:secret").decode()


class Media(BaseHTTPRequestHandler):
    def answer(self, status, body=b""):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if self.path in self.server.versions:
            self.send_header(VERSION, str(self.server.versions[self.path]))
        if changed := self.server.changed.get(self.path):
            self.send_header("Last-Modified", changed)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def is_newest(self):
        """Whether the request has the newest version of its path, which then is the one that is remembered."""
        version = int(self.headers[VERSION])
        self.server.versions[self.path] = newest = max(version, self.server.versions.get(self.path, 0))
        return version == newest

    def do_PUT(self):
        if self.server.frozen:
            return self.server.frozen.wait()
        length = int(self.headers["Content-Length"])
        if self.server.status or self.headers["Authorization"] != AUTHORIZATION:
            while length:
                length -= len(self.rfile.read(min(length, 65536)))
            return self.answer(self.server.status or 401)
        body = self.rfile.read(length)
        if not self.is_newest():
            return self.answer(409)
        self.server.files[self.path] = body
        self.server.changed[self.path] = "Mon, 02 Mar 2026 10:00:00 GMT"
        return self.answer(201)

    def do_GET(self):
        found = self.path in self.server.files
        if self.server.frozen and self.path == "/":
            return self.server.frozen.wait()
        self.server.log.append(self.command)
        body = self.server.files.get(self.path, b"")
        if self.server.dies and self.command == "GET":
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            return self.wfile.write(body[: len(body) // 2])
        return self.answer(200 if found else 404, body)

    do_HEAD = do_GET

    def do_DELETE(self):
        if not self.is_newest():
            return self.answer(409)
        self.server.files.pop(self.path, None)
        return self.answer(self.server.status or 204)

    def log_message(self, *_):
        pass


def start() -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Media)
    server.files, server.changed, server.versions, server.log = {}, {}, {}, []
    server.status, server.frozen, server.dies = None, None, False
    server.url = f"http://127.0.0.1:{server.server_port}/newsroom/"
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    return server


@pytest.fixture
def servers():
    servers = [start() for _ in range(3)]
    yield servers
    for server in servers:
        if server.frozen:
            server.frozen.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def media(servers):
    return servers[:2]


@pytest.fixture
def module():
    if not settings.configured:
        settings.configure()
    spec = importlib.util.spec_from_file_location("trestle_storage", STORAGE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def storage_of(module, tmp_path):
    return lambda *urls: module.MediaStorage(urls, "upload", "secret", "/media/", tmp_path)


@pytest.fixture
def storage(storage_of, media):
    return storage_of(*(server.url for server in media))


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


def test_two_of_three_hosts_have_it_and_every_one_has_its_share(storage_of, servers):
    storage = storage_of(*(server.url for server in servers))
    for number in range(30):
        name = storage.save(f"{number}.txt", ContentFile(b"1"))
        assert sum(f"/newsroom/{name}" in server.files for server in servers) == 2
    assert all(len(server.files) > 5 for server in servers)


def test_a_third_host_takes_what_one_that_is_away_cannot(storage_of, servers):
    storage = storage_of(servers[0].url, NOWHERE, servers[1].url)
    for number in range(10):
        storage.save(f"{number}.txt", ContentFile(b"1"))
    assert len(servers[0].files) == len(servers[1].files) == 10


def test_with_one_of_two_away_a_file_is_stored_and_a_warning_written(storage_of, servers, caplog):
    storage = storage_of(NOWHERE, servers[0].url)
    name = storage.save("a.txt", ContentFile(b"1"))
    assert storage.exists(name) and storage.open(name).read() == b"1"
    assert "only one copy" in caplog.text


@pytest.mark.parametrize("status", [401, 413, 500, 507])
def test_a_host_that_refuses_is_not_away(storage, media, module, status):
    media[0].status = status
    with pytest.raises(module.MediaError, match=str(status)):
        storage.save("a.txt", ContentFile(b"1"))


def test_a_host_whose_service_is_down_is_away(storage, media):
    media[0].status = 502
    storage.save("a.txt", ContentFile(b"1"))
    assert media[1].files and not media[0].files


def test_a_frozen_host_is_waited_for_once_and_taken_back_when_it_answers(storage, media, module, monkeypatch):
    monkeypatch.setattr(module, "TRANSFER_SECONDS", 0.5)
    monkeypatch.setattr(module, "SIGN_SECONDS", 0.1)
    frozen = media[0].frozen = threading.Event()
    big = ContentFile(b"x" * 30_000_000)
    began = time.monotonic()
    storage.save("a.txt", big)
    first, began = time.monotonic() - began, time.monotonic()
    storage.save("b.txt", ContentFile(b"1"))
    assert 0.5 < first < 2 and time.monotonic() - began < 0.4
    media[0].frozen = None
    time.sleep(0.2)
    storage.save("c.txt", ContentFile(b"1"))
    frozen.set()
    assert set(media[0].files) == {"/newsroom/c.txt"} and len(media[1].files) == 3


def test_no_host_is_an_error(storage_of, module):
    for storage in (storage_of(NOWHERE), storage_of()):
        with pytest.raises(module.MediaError):
            storage.save("a.txt", ContentFile(b"1"))


def test_what_is_written_last_is_newest_whatever_the_clocks_say(storage, media):
    future = time.time_ns() + 10**12
    for server in media:
        server.versions["/newsroom/a.txt"] = future
    name = storage.save("a.txt", ContentFile(b"1"))
    assert [server.files for server in media] == [{"/newsroom/a.txt": b"1"}] * 2
    assert media[0].versions == media[1].versions and media[0].versions["/newsroom/a.txt"] > future
    storage.delete(name)
    assert not media[0].files and media[0].versions["/newsroom/a.txt"] > future + 1


def test_an_upload_is_read_from_where_django_put_it_and_never_wholly_in_memory(storage, media, tmp_path):
    media[0].status = media[1].status = 507  # they keep nothing, and share this process's memory
    path = tmp_path / "big"
    path.write_bytes(b"x" * 20_000_000)
    with UploadedFile(path.open("rb"), "big") as upload:
        tracemalloc.start()
        with pytest.raises(OSError, match="507"):
            storage.save("big", upload)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 2_000_000, f"{peak} bytes"


def test_a_host_that_dies_while_it_answers_is_replaced_by_another(storage, media, module):
    name = storage.save("a.txt", ContentFile(b"x" * 1000))
    for server in media:
        media[0].dies, media[1].dies = server is media[0], server is media[1]
        module.last_away.clear()
        assert storage.open(name).read() == b"x" * 1000


def test_absent_files(storage):
    assert not storage.exists("nowhere.txt")
    with pytest.raises(FileNotFoundError):
        storage.open("nowhere.txt")


def test_unreachable_is_not_absent(module):
    storage = module.MediaStorage([NOWHERE], "upload", "secret", "/media/")
    with pytest.raises(module.MediaError):
        storage.exists("a.txt")


def test_delete_is_everywhere(storage, media):
    name = storage.save("a.txt", ContentFile(b"1"))
    storage.delete(name)
    assert not any(server.files for server in media)


def test_a_deletion_that_no_host_takes_is_an_error_and_one_is_enough(storage_of, servers, module):
    storage = storage_of(NOWHERE, servers[0].url)
    name = storage.save("a.txt", ContentFile(b"1"))
    storage.delete(name)
    assert not servers[0].files
    with pytest.raises(module.MediaError, match="not deleted"):
        storage_of(NOWHERE).delete(name)


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
    assert (media[0].log + media[1].log).count("GET") == 1
    for server in media:
        server.files["/newsroom/a.png"] = b"2"
        server.changed["/newsroom/a.png"] = "Tue, 03 Mar 2026 10:00:00 GMT"
    assert Path(storage.path(name)).read_bytes() == b"2"
    storage.delete(str(path))
    assert not path.exists() and not media[0].files


def test_a_copy_that_cannot_be_fetched_leaves_nothing(storage, tmp_path, module, monkeypatch):
    name = storage.save("a.png", ContentFile(b"1"))

    def broken(source, target):
        target.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.shutil, "copyfileobj", broken)
    with pytest.raises(OSError, match="No space"):
        storage.path(name)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_not_stored_yet_has_a_path(storage, tmp_path):
    assert storage.path("new.png") == str(tmp_path / "new.png") and not (tmp_path / "new.png").exists()


def test_a_path_is_within_the_uploads(storage):
    with pytest.raises(SuspiciousFileOperation):
        storage.path("../etc/environment")
