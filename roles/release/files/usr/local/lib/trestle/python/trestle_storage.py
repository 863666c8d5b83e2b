"""Django storages: uploads on the media hosts, and static files with names that change with their content.

MediaStorage has saved a file when two media hosts have it, or one where no other answers; the rest fetch it from them.
Each write and deletion has a version, so that the newest wins on a host that was away. Without arguments it reads
MEDIA_UPLOAD_URLS (a comma list), MEDIA_UPLOAD_USER, MEDIA_UPLOAD_PASSWORD and MEDIA_URL.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import itertools
import logging
import os
import secrets
import shutil
import tempfile
import time
import zlib
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

COPIES = 2
CONNECT_SECONDS = 2
# Without any progress. Then the host is taken for one that is away.
TRANSFER_SECONDS = 5
# What a media host is thought to bring on its disk at the least, before it answers.
DISK_BYTES_A_SECOND = 10_000_000
# A host that was away is asked for a sign of life first, for so long.
AWAY_SECONDS, SIGN_SECONDS = 60, 0.5
# Answers of an nginx that is up while media-sync is not.
AWAY_STATUSES = (502, 503, 504)
VERSION = "X-Media-Version"
CHUNK = 64 * 1024
IN_MEMORY = 1024 * 1024


class MediaError(OSError):
    """No media host did what was asked."""


class Newer(Exception):
    """A host has a newer version of the name."""

    def __init__(self, version):
        super().__init__(version)
        self.version = version


def is_binary(content):
    """Whether it is a file of bytes that can be read twice."""
    try:
        content.seek(0)
        return content.read(0) == b""
    except (AttributeError, OSError):
        return False


# When each host was last away, for all threads.
last_away = {}


class Exchange:
    """One request to one media host, a step at a time; ``failure`` says why it went no further.

    A host that is away, and not one that refuses, may be done without.
    """

    def __init__(self, url, method, path, headers, seconds=None):
        self.url, self.failure, self.away, self.status, self.answer = url, None, False, None, None
        parts = urlsplit(url)
        self.connection = http.client.HTTPConnection(
            parts.hostname, parts.port or 80, timeout=seconds or CONNECT_SECONDS
        )
        with self._failing():
            self.connection.connect()
            self.connection.sock.settimeout(seconds or TRANSFER_SECONDS)
            self.connection.putrequest(method, path)
            for name, value in headers.items():
                self.connection.putheader(name, value)
            self.connection.endheaders()

    @contextlib.contextmanager
    def _failing(self):
        try:
            yield
        except (OSError, http.client.HTTPException) as error:
            self.fail(error, away=True)

    def fail(self, why, away=False):
        self.failure, self.away = f"{self.url}: {why}", away
        if away:
            last_away[self.url] = time.monotonic()

    def send(self, chunk):
        if self.failure:
            return
        try:
            self.connection.send(chunk)
        except (BrokenPipeError, ConnectionResetError) as error:
            # It may have answered before it hung up: that it refuses.
            self.fail(error, away=True)
            self._read()
        except OSError as error:
            self.fail(error, away=True)

    def finish(self, good=(200, 201, 204), more_seconds=0):
        """The exchange, with its answer where the status is good."""
        if not self.failure:
            self.connection.sock.settimeout(self.connection.sock.gettimeout() + more_seconds)
            self._read()
        if self.status is not None and self.status not in good:
            self.fail(f"it answered {self.status}", away=self.status in AWAY_STATUSES)
        return self

    def _read(self):
        with self._failing():
            self.answer = self.connection.getresponse()
            self.status, self.failure = self.answer.status, None


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
    def _ask(self, method, urls, name, **headers):
        """An exchange with each of the hosts; their connections end with the block."""
        with contextlib.ExitStack() as stack:
            exchanges = []
            for url in urls:
                path = urlsplit(url).path + quote(self._relative(name).lstrip("/"))
                exchange = Exchange(url, method, path, {"Authorization": self.authorization} | headers)
                stack.callback(exchange.connection.close)
                exchanges.append(exchange)
            yield exchanges

    def _hosts(self, name):
        """The hosts in an order of the name's own, so that all have their share. One that was away comes last, and
        only when it gives a sign of life: nobody waits for it again and again."""
        first = zlib.crc32(self._relative(name).encode()) % max(1, len(self.urls))
        urls = self.urls[first:] + self.urls[:first]
        away = [url for url in urls if time.monotonic() - last_away.get(url, -AWAY_SECONDS) < AWAY_SECONDS]
        yield from (url for url in urls if url not in away)
        yield from filter(self._is_back, away)

    @staticmethod
    def _is_back(url):
        if time.monotonic() - last_away.get(url, 0) < SIGN_SECONDS:
            return False
        sign = Exchange(url, "HEAD", "/", {}, SIGN_SECONDS).finish(good=range(500))
        sign.connection.close()
        if not sign.failure:
            last_away.pop(url, None)
        return not sign.failure

    @staticmethod
    def _versioned(action):
        """Does what is given a version with one that is newer than any that is found."""
        version = 0
        while True:
            version = max(time.time_ns(), version) + 1 + secrets.randbelow(1000)
            try:
                return action(str(version))
            except Newer as newer:
                version = newer.version

    def _save(self, name, content):
        if not self.urls:
            raise MediaError("MEDIA_UPLOAD_URLS names no media host")
        with self._binary(content) as source:
            self._versioned(lambda version: self._put(name, source, version))
        return name

    def _put(self, name, source, version):
        wanted, hosts, failed, stored = min(COPIES, len(self.urls)), self._hosts(name), [], 0
        while stored < wanted and (urls := list(itertools.islice(hosts, wanted - stored))):
            exchanges = self._send(urls, name, source, version)
            failed += [exchange for exchange in exchanges if exchange.failure]
            stored += sum(not exchange.failure for exchange in exchanges)
        why = "; ".join(exchange.failure for exchange in failed)
        if not stored or (stored < wanted and not all(exchange.away for exchange in failed)):
            raise MediaError(f"{name} was not stored: {why or 'no media host answers'}")
        if stored < wanted:
            logger.warning("%s has only one copy for now: %s", name, why or "no other media host answers")

    def _send(self, urls, name, source, version):
        """The content, read once and sent to all of them."""
        length = source.seek(0, io.SEEK_END)
        headers = {"Content-Length": str(length), VERSION: version}
        with self._ask("PUT", urls, name, **headers) as exchanges:
            source.seek(0)
            while chunk := source.read(CHUNK):
                for exchange in exchanges:
                    exchange.send(chunk)
            return [self._finished(exchange, length / DISK_BYTES_A_SECOND) for exchange in exchanges]

    @staticmethod
    def _finished(exchange, more_seconds=0):
        exchange.finish(more_seconds=more_seconds)
        if exchange.status == 409:
            raise Newer(int(exchange.answer.getheader(VERSION)))
        return exchange

    @staticmethod
    @contextlib.contextmanager
    def _binary(content):
        """The content as a seekable binary file: itself where it is one, and never wholly in memory."""
        if is_binary(content):
            yield content
            return
        with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY) as copy:
            for chunk in content.chunks():
                copy.write(chunk.encode() if isinstance(chunk, str) else chunk)
            yield copy

    def _read(self, method, name, read):
        """What ``read`` makes of the first good answer; FileNotFoundError where a host answers and none has it."""
        failures, absent = [], False
        for url in self._hosts(name):
            with self._ask(method, [url], name) as (exchange,):
                if not exchange.finish(good=(200,)).failure:
                    try:
                        return read(exchange.answer)
                    except (OSError, http.client.HTTPException) as error:
                        exchange.fail(error, away=True)
                absent = absent or exchange.status in (404, 410)
                failures.append(exchange.failure)
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
            if answer.length:
                raise http.client.IncompleteRead(b"", answer.length)
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
        with self._open(name) as file, tempfile.TemporaryDirectory(dir=copy.parent) as scratch:
            whole = Path(scratch, copy.name)
            with whole.open("wb") as target:
                shutil.copyfileobj(file, target)
            os.utime(whole, (changed, changed))
            os.replace(whole, copy)

    def _relative(self, name):
        """A project that has asked for a path gives that as the name."""
        return str(name).removeprefix(f"{self.location}/")

    def delete(self, name):
        Path(safe_join(self.location, self._relative(name))).unlink(missing_ok=True)
        self._versioned(lambda version: self._delete(name, version))

    def _delete(self, name, version):
        """One host that remembers it is enough: the others hear of it."""
        with self._ask("DELETE", self._hosts(name), name, **{VERSION: version}) as exchanges:
            failed = [exchange.failure for exchange in map(self._finished, exchanges) if exchange.failure]
        why = "; ".join(failed)
        if len(failed) == len(exchanges):
            raise MediaError(f"{name} was not deleted: {why or 'no media host answers'}")
        if failed:
            logger.warning("%s was not deleted everywhere yet: %s", name, why)

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
