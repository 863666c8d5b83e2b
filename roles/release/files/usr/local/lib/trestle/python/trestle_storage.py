"""Django storages: uploads on the media hosts, and static files with names that change with their content.

MediaStorage writes by WebDAV to every media host and reads from any. Without arguments it reads MEDIA_UPLOAD_URLS (a
comma list), MEDIA_UPLOAD_USER, MEDIA_UPLOAD_PASSWORD and MEDIA_URL. One media host that accepts a file is enough: the
others fetch from it what they lack.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import logging
import os
import shutil
import tempfile
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

from django.contrib.staticfiles.storage import ManifestStaticFilesStorage
from django.contrib.staticfiles.utils import matches_patterns
from django.core.exceptions import SuspiciousFileOperation
from django.core.files.base import File
from django.core.files.storage import Storage
from django.utils._os import safe_join
from django.utils.deconstruct import deconstructible
from django.utils.encoding import filepath_to_uri

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 2
TRANSFER_SECONDS = 20
CHUNK = 64 * 1024
IN_MEMORY = 1024 * 1024


class MediaError(OSError):
    """No media host did what was asked."""


@deconstructible(path="trestle_storage.MediaStorage")
class MediaStorage(Storage):
    def __init__(self, urls=None, user=None, password=None, base_url=None, location=None):
        urls = os.environ.get("MEDIA_UPLOAD_URLS", "").split(",") if urls is None else urls
        self.urls = [url.rstrip("/") + "/" for url in urls if url]
        self.base_url = base_url or os.environ.get("MEDIA_URL", "/media/")
        self.location = Path(location or os.environ.get("MEDIA_ROOT", "uploads")).absolute()
        user = user or os.environ.get("MEDIA_UPLOAD_USER", "upload")
        password = password or os.environ.get("MEDIA_UPLOAD_PASSWORD", "")
        self.authorization = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    @contextlib.contextmanager
    def _request(self, method, url, name, body=None, length=None):
        """One answer of one media host; the connection ends with the block."""
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=CONNECT_SECONDS)
        try:
            connection.connect()
            connection.sock.settimeout(TRANSFER_SECONDS)
            headers = {"Authorization": self.authorization}
            if length is not None:
                headers["Content-Length"] = str(length)
            path = parts.path + quote(self._relative(name).lstrip("/"))
            connection.request(method, path, body=body, headers=headers)
            yield connection.getresponse()
        finally:
            connection.close()

    def _save(self, name, content):
        if not self.urls:
            raise MediaError("MEDIA_UPLOAD_URLS names no media host")
        with self._binary(content) as source:
            length = source.seek(0, io.SEEK_END)
            failures = [failure for url in self.urls if (failure := self._put(url, name, source, length))]
        if len(failures) == len(self.urls):
            raise MediaError(f"No media host took {name}: " + "; ".join(failures))
        for failure in failures:
            logger.warning("%s was not stored everywhere: %s", name, failure)
        return name

    def _put(self, url, name, source, length):
        """None, or why this host did not take it."""
        source.seek(0)
        try:
            with self._request("PUT", url, name, iter(lambda: source.read(CHUNK), b""), length) as answer:
                return None if answer.status in (200, 201, 204) else f"{url} answered {answer.status}"
        except (OSError, http.client.HTTPException) as error:
            return f"{url}: {error}"

    @staticmethod
    @contextlib.contextmanager
    def _binary(content):
        """The content as a seekable binary file that is never wholly in memory."""
        with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY) as copy:
            for chunk in content.chunks():
                copy.write(chunk.encode() if isinstance(chunk, str) else chunk)
            yield copy

    def _read(self, method, name, read):
        """What ``read`` makes of the first good answer; FileNotFoundError where a host answers and none has it."""
        failures, absent = [], False
        for url in self.urls:
            try:
                with self._request(method, url, name) as answer:
                    if answer.status == 200:
                        return read(answer)
                    absent = absent or answer.status in (404, 410)
                    failures.append(f"{url} answered {answer.status}")
            except (OSError, http.client.HTTPException) as error:
                failures.append(f"{url}: {error}")
        if absent:
            raise FileNotFoundError(name)
        raise MediaError(f"No media host answered for {name}: " + "; ".join(failures))

    def _open(self, name, mode="rb"):
        if mode != "rb":
            raise ValueError("A file on the media hosts is opened for reading; save() writes it.")

        def read(answer):
            copy = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 (the caller closes the File)
            while chunk := answer.read(CHUNK):
                copy.write(chunk)
            copy.seek(0)
            return copy

        return File(self._read("GET", name, read), name)

    def exists(self, name):
        try:
            return self._read("HEAD", name, lambda answer: True)
        except FileNotFoundError:
            return False

    def size(self, name):
        return int(self._read("HEAD", name, lambda answer: answer.getheader("Content-Length", "0")))

    def get_modified_time(self, name):
        moment = self._read("HEAD", name, lambda answer: answer.getheader("Last-Modified"))
        return parsedate_to_datetime(moment) if moment else datetime.now(UTC)

    def path(self, name):
        """Where a copy of the file is on this host, for projects that read uploads by their path.

        What the media hosts keep is changed by save() and delete() alone.
        """
        copy = Path(safe_join(self.location, self._relative(name)))
        with contextlib.suppress(FileNotFoundError):
            changed = self.get_modified_time(name).timestamp()
            if not copy.is_file() or copy.stat().st_mtime != changed:
                self._fetch(name, copy, changed)
        return str(copy)

    def _fetch(self, name, copy, changed):
        copy.parent.mkdir(parents=True, exist_ok=True)
        with self._open(name) as file, tempfile.NamedTemporaryFile(dir=copy.parent, delete=False) as whole:
            shutil.copyfileobj(file, whole)
        os.utime(whole.name, (changed, changed))
        os.replace(whole.name, copy)

    def _relative(self, name):
        """A project that has asked for a path gives that as the name."""
        return str(name).removeprefix(f"{self.location}/")

    def delete(self, name):
        Path(safe_join(self.location, self._relative(name))).unlink(missing_ok=True)
        for url in self.urls:
            try:
                with self._request("DELETE", url, name) as answer:
                    if answer.status not in (200, 204, 404):
                        logger.warning("%s was not deleted: %s answered %s", name, url, answer.status)
            except (OSError, http.client.HTTPException) as error:
                logger.warning("%s was not deleted: %s: %s", name, url, error)

    def url(self, name):
        return urljoin(self.base_url, filepath_to_uri(self._relative(name)).lstrip("/"))


class StaticStorage(ManifestStaticFilesStorage):
    """Django's own, but nothing that went unnoticed in development stops it: a reference to a file that is not there
    is left alone, and what is not UTF-8 or not in the manifest keeps its name."""

    def hashed_name(self, name, content=None, filename=None):
        try:
            return super().hashed_name(name, content, filename)
        except (ValueError, SuspiciousFileOperation):
            return name

    def stored_name(self, name):
        try:
            return super().stored_name(name)
        except ValueError:
            return name

    def post_process(self, paths, dry_run=False, **options):
        readable = {name: place for name, place in paths.items() if self._readable(*place)}
        for name, hashed_name, processed in super().post_process(readable, dry_run, **options):
            if isinstance(processed, Exception):
                logger.warning("%s: %s", name, processed)
            else:
                yield name, hashed_name, processed

    def _readable(self, storage, path):
        """Whether Django, which looks into files of these kinds, can read it."""
        if not matches_patterns(path, self._patterns):
            return True
        with storage.open(path) as file:
            try:
                file.read().decode()
            except UnicodeDecodeError as error:
                logger.warning("%s is not UTF-8, and keeps its name: %s", path, error)
                return False
        return True
