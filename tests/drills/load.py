"""Visitors: mixed requests at a steady rate, each with a time when it is due, whatever became of those before it."""

from __future__ import annotations

import asyncio
import os
import random
import re
import ssl
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field

import requests

from tests.behaviour.pictures import picture
from tests.drills.client import Answer, BadAnswer, Client
from tests.drills.ledger import Ledger, Tally

# Of a hundred requests. A page that is slow holds a thread of gunicorn for SLOW_SECONDS.
MIX = {"page": 64, "static": 18, "picture": 6, "write": 7, "upload": 3, "slow": 2}
SLOW_SECONDS = 5
UPLOAD_BYTES = 64 * 1024
# An attempt that takes longer has failed: the load balancers give up after 30 s.
PATIENCE_SECONDS = 35
# So long a visitor waits before the second attempt, as a browser does with a page that it could not load.
AGAIN_SECONDS = 1
MOST_IN_FLIGHT = 1500
# So long may a page stay open before the browser asks for a file that it names.
OPEN_SECONDS = 90
# Who comes for the first time connects anew.
NEW_VISITORS = 0.05
REPEATABLE = ("GET", "HEAD")
STATIC = re.compile(rb'(?:href|src)="(/static/[^"]+)"')
BOUNDARY = "a-story-of-the-drill"
NOISE = random.Random(4).randbytes(UPLOAD_BYTES)


@dataclass
class Target:
    """The site as the load sees it: where it is, what there is to read, and an editor's session."""

    address: str
    name: str
    context: ssl.SSLContext | None
    pages: list[str]
    pictures: list[str]
    editor: dict[str, str] = field(default_factory=dict)
    csrf_token: str = ""
    port: int = 443


@dataclass(frozen=True)
class Request:
    kind: str
    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    token: str = ""
    # What a good answer's body holds.
    holds: bytes = b""


def visit(session: requests.Session, address: str, domain: str, ca_file: str, password: str) -> Target:
    """Look around at the front door and log in as the editor."""
    url = f"https://{domain}"
    front = session.get(f"{url}/", timeout=20).text
    stories = sorted(set(re.findall(r'href="(/stories/[\w-]+/)"', front)))
    stories = [path for path in stories if "/drill-" not in path and path != "/stories/add/"]
    form = session.get(f"{url}/login/", timeout=20).text
    login = {"username": "editor", "password": password, "csrfmiddlewaretoken": token_of(form)}
    answer = session.post(f"{url}/login/", data=login, headers={"Referer": f"{url}/login/"}, timeout=20)
    answer.raise_for_status()
    form = session.get(f"{url}/stories/add/", timeout=20)
    cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in session.cookies)
    return Target(
        address,
        domain,
        ssl.create_default_context(cafile=ca_file),
        pages=["/", "/", "/about/", "/login/", *stories],
        pictures=sorted(set(re.findall(r'src="(/media/[^"]+)"', front)) - {""}),
        editor={"Cookie": cookies, "Referer": f"{url}/stories/add/"},
        csrf_token=token_of(form.text),
    )


def token_of(form: str) -> str:
    return re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form)[1]


def multipart(fields: dict[str, str], filename: str, content: bytes) -> bytes:
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    parts.append(
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="picture"; filename="{filename}"\r\n'
        "Content-Type: image/png\r\n\r\n"
    )
    return "".join(parts).encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()


def content_of(kind: str, token: str) -> bytes:
    """The picture that a story comes with; no two are the same."""
    return picture(token.encode() + (NOISE if kind == "upload" else b""))


class Load(threading.Thread):
    """Asks until it is stopped, or ``seconds`` are over; ``tally`` is that of the operation under way."""

    def __init__(self, target: Target, rate: float, ledger: Ledger, name: str, seconds: float, mix: dict | None = None):
        super().__init__(name="load", daemon=True)
        self.target, self.rate, self.ledger, self.run_name, self.bound = target, rate, ledger, name, seconds
        self.mix = mix or MIX
        self.dice = random.Random(name)
        self.tally = Tally()
        self.total = self.failed = self.first_failures = 0
        self.news: deque[tuple[str, bytes]] = deque(maxlen=20)
        # The static files that pages named, and when one last did.
        self.named: dict[str, float] = {}
        self.processor_seconds = self.ran_seconds = 0.0
        self.problem: Exception | None = None
        self._stop_asked = threading.Event()

    def stop(self) -> None:
        """Ask no more, and wait for what is under way."""
        self._stop_asked.set()
        self.join(PATIENCE_SECONDS * 2 + 10)

    def next_tally(self) -> Tally:
        """From now on requests are counted elsewhere; the tally they were counted in until now."""
        before, self.tally = self.tally, Tally()
        return before

    def run(self) -> None:
        # A load that waits for the processor would measure itself.
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), -10)
        began = time.monotonic()
        try:
            asyncio.run(self.main())
        except Exception as error:
            self.problem = error
        self.ran_seconds, self.processor_seconds = time.monotonic() - began, time.thread_time()
        self.ledger.flush()

    async def main(self) -> None:
        target, loop = self.target, asyncio.get_running_loop()
        self.client = Client(target.address, target.port, target.name, target.context)
        self.clock = time.time() - loop.time()
        begun, number, flushed = loop.time(), 0, loop.time()
        under_way: set[asyncio.Task] = set()
        while not self._stop_asked.is_set() and loop.time() - begun < self.bound:
            due = begun + number / self.rate
            await asyncio.sleep(max(0.0, due - loop.time()))
            while len(under_way) >= MOST_IN_FLIGHT:
                await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            tally = self.tally
            tally.begin()
            task = asyncio.create_task(self.serve(number, due, tally))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            number += 1
            if loop.time() - flushed > 1:
                self.ledger.flush()
                flushed = loop.time()
        if under_way:
            await asyncio.wait(under_way, timeout=PATIENCE_SECONDS * 2)
        self.client.close()

    def make(self, number: int) -> Request:
        """The request of that number: which kind it is, and of what, is left to dice that always fall the same."""
        kind = self.dice.choices(list(self.mix), list(self.mix.values()))[0]
        if kind in ("write", "upload"):
            return self.make_story(kind, f"drill-{self.run_name}-{number}")
        if kind == "slow":
            return Request(kind, "GET", f"/drill/slow/{SLOW_SECONDS}/")
        if kind == "page":
            if self.news and self.dice.random() < 0.2:
                path, token = self.dice.choice(self.news)
                return Request(kind, "GET", path, holds=token)
            return Request(kind, "GET", self.dice.choice(self.target.pages), holds=b"</html>")
        if kind == "static":
            self.named = {path: at for path, at in self.named.items() if time.monotonic() - at < OPEN_SECONDS}
            return Request(kind, "GET", self.dice.choice([*self.named] or ["/"]))
        return Request(kind, "GET", self.dice.choice(self.target.pictures))

    def make_story(self, kind: str, token: str) -> Request:
        content = content_of(kind, token)
        fields = {
            "headline": token,
            "summary": "Written while the release changed.",
            "body": f"{token}.",
            "author": "The drill",
            "csrfmiddlewaretoken": self.target.csrf_token,
        }
        headers = self.target.editor | {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        body = multipart(fields, f"{token}.png", content)
        return Request(kind, "POST", "/stories/add/", headers, body, token)

    def learn(self, request: Request, answer: Answer) -> None:
        """What visitors go to next: the files that a page names, and the story that was just written."""
        if request.kind == "page":
            self.named |= dict.fromkeys((path.decode() for path in STATIC.findall(answer.body)), time.monotonic())
        elif request.token:
            self.news.append((answer.headers["location"], request.token.encode()))

    async def serve(self, number: int, due: float, tally: Tally) -> None:
        loop = asyncio.get_running_loop()
        request = self.make(number)
        started, problems, answer = loop.time(), [], None
        while True:
            new = bool(problems) or self.dice.random() < NEW_VISITORS
            try:
                answer = await self.client.request(
                    request.method, request.path, request.headers, request.body, PATIENCE_SECONDS, new
                )
                problem = wrong(request, answer)
            except TimeoutError:
                answer, problem = None, f"no answer in {PATIENCE_SECONDS} s"
            except (OSError, EOFError, ValueError, BadAnswer, asyncio.LimitOverrunError) as error:
                answer, problem = None, f"{type(error).__name__}: {error}"[:120]
            if not problem:
                break
            problems.append(problem)
            if request.method not in REPEATABLE or len(problems) > 1:
                break
            await asyncio.sleep(AGAIN_SECONDS)
        ended, failed = loop.time(), bool(problem)
        record = {
            "due": round(due + self.clock, 4),
            "started": round(started + self.clock, 4),
            "ended": round(ended + self.clock, 4),
            "kind": request.kind,
            "method": request.method,
            "path": request.path,
            "status": answer.status if answer else 0,
            "bytes": len(answer.body) if answer else 0,
            "host": answer.headers.get("x-served-by", "") if answer else "",
        }
        if answer and failed:
            record["id"] = answer.headers.get("x-request-id", "")
        if request.token:
            record["token"] = request.token

        if problems:
            # A POST has no second attempt: its failure counts once.
            record |= {"first": problems[0]} if request.method in REPEATABLE else {}
            record |= {"error": problems[-1]} if failed else {}
        if not failed:
            self.learn(request, answer)
        self.ledger.add(record)
        self.total += 1
        self.failed += failed
        self.first_failures += "first" in record
        tally.add(record)


def wrong(request: Request, answer: Answer) -> str:
    """What is wrong with an answer, or nothing."""
    wanted = 302 if request.method == "POST" else 200
    if answer.status != wanted:
        return f"status {answer.status}"
    if request.method == "POST":
        return "" if answer.headers.get("location", "").startswith("/stories/") else "leads nowhere"
    return "" if request.holds in answer.body else "another page than was asked for"
