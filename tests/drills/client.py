"""A frugal HTTP/1.1 client: a thousand requests must cost the load less than they cost the site."""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass, field

# The load balancers close what has been idle for 65 s; a browser lets go earlier too.
IDLE_SECONDS = 50
# After so many a visitor has left, and the next one connects anew.
REQUESTS_A_CONNECTION = 100


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class BadAnswer(Exception):
    """What came back is not HTTP."""


@dataclass
class Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    requests: int = 0
    used: float = field(default_factory=time.monotonic)

    def fresh(self) -> bool:
        """Whether it may carry another request, as far as this side can see."""
        closed = self.reader.at_eof() or self.writer.is_closing()
        return not closed and self.requests < REQUESTS_A_CONNECTION and time.monotonic() - self.used < IDLE_SECONDS

    def close(self) -> None:
        self.writer.close()

    async def exchange(self, method: str, request: bytes) -> Answer:
        self.writer.write(request)
        await self.writer.drain()
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        words = head[0].split(" ", 2)
        if not words[0].startswith("HTTP/1.") or not words[1].isdecimal():
            raise BadAnswer(f"began with {head[0][:60]!r}")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await self.body(method, int(words[1]), headers)
        self.requests, self.used = self.requests + 1, time.monotonic()
        if headers.get("connection", "").lower() == "close":
            self.requests = REQUESTS_A_CONNECTION
        return Answer(int(words[1]), headers, body)

    async def body(self, method: str, status: int, headers: dict[str, str]) -> bytes:
        if method == "HEAD" or status in (204, 304):
            return b""
        if headers.get("transfer-encoding", "").lower() == "chunked":
            parts = []
            while size := int((await self.reader.readuntil(b"\r\n")).split(b";")[0], 16):
                parts.append((await self.reader.readexactly(size + 2))[:-2])
            await self.reader.readuntil(b"\r\n")
            return b"".join(parts)
        if "content-length" in headers:
            return await self.reader.readexactly(int(headers["content-length"]))
        self.requests = REQUESTS_A_CONNECTION
        return await self.reader.read()


class Client:
    """Keep-alive connections to one address, under one name."""

    def __init__(self, address: str, port: int, name: str, context: ssl.SSLContext | None):
        self.address, self.port, self.name, self.context = address, port, name, context
        self.idle: list[Connection] = []
        self.opened = 0

    async def connection(self, new: bool) -> Connection:
        while self.idle and not new:
            found = self.idle.pop()
            if found.fresh():
                return found
            found.close()
        self.opened += 1
        tls = {"ssl": self.context, "server_hostname": self.name} if self.context else {}
        return Connection(*await asyncio.open_connection(self.address, self.port, **tls))

    async def request(
        self, method: str, path: str, headers: dict[str, str], body: bytes, seconds: float, new: bool
    ) -> Answer:
        """One attempt; ``new``: on a connection of its own."""
        lines = {"Host": self.name, "User-Agent": "trestle-drill", **headers}
        if body:
            lines["Content-Length"] = str(len(body))
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        connection = None
        try:
            async with asyncio.timeout(seconds):
                connection = await self.connection(new)
                answer = await connection.exchange(method, head.encode() + b"\r\n" + body)
        except BaseException as error:
            if connection:
                connection.close()
            if isinstance(error, ConnectionError):  # who lost one to that address trusts the others no more
                self.close()
            raise
        if connection.fresh():
            self.idle.append(connection)
        else:
            connection.close()
        return answer

    def close(self) -> None:
        for connection in self.idle:
            connection.close()
        self.idle.clear()
