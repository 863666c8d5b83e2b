"""The WSGI application that gunicorn runs: the project's own, with the health answers before it.

GET /health/live   200 {"site", "host", "release", "digest", "requests": {"under_way", "answered", "failed",
                   "workers"}}; failed are answers of status 500 and above, of all workers since the start, and workers
                   has what each process that lives has answered
GET /health/ready  200 with "ready": true, or 503 with "ready": false and "reasons"; "deploy" is the number of the last
                   deploy that this host took part in to the end, and "canary": true says that its release is watched

They come before the project's code, so that neither ALLOWED_HOSTS nor a TLS redirect can fool a probe. A request that
goes on to the project has its X-Request-ID, which the load balancers set, in trestle_logging.request_id.
"""

import importlib
import json
import mmap
import os
import struct
import sys
import threading

import trestle_patience
from trestle_logging import request_id

DRAIN_FOLDER = "/var/lib/trestle/drain"
CANARY_FILE = "/var/lib/trestle/canary"
# A page waits for the database so much less than a load balancer waits for the page.
MARGIN_SECONDS = 5
DEPLOY_FILE = "/var/lib/trestle/deploy"
TOLD_BYTES = 32


def drained():
    """Whether anyone, an engineer or a run, keeps this host out of the pool."""
    try:
        return bool(os.listdir(DRAIN_FOLDER))
    except FileNotFoundError:
        return False


def note_question(folder, address, told):
    """When this address last asked whether the host is ready, and what it said of it: site-roll waits for that."""
    try:
        os.makedirs(folder, exist_ok=True)
        file = os.open(os.path.join(folder, address.replace("/", "")), os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            # Over what was there, so that nobody finds half of it.
            os.pwrite(file, told[:TOLD_BYTES].ljust(TOLD_BYTES).encode("ascii", "replace"), 0)
        finally:
            os.close(file)
    except OSError:
        # A full disk must not make a host unready.
        pass


def deploy():
    """The number of the last deploy that was finished here, for an answer; nothing where there was none."""
    try:
        with open(DEPLOY_FILE) as file:
            return {"deploy": int(file.read().split()[0])}
    except (OSError, ValueError, IndexError):
        return {}


def set_up_django():
    """Before the project's wsgi module is imported: one that sets DJANGO_SETTINGS_MODULE itself comes too late."""
    import django

    # Management commands have no such marks, and no such limits.
    os.environ["TRESTLE_SERVES_REQUESTS"] = "true"
    django.setup()


def usual_wsgi_module():
    settings = os.environ.get("TRESTLE_SETTINGS_MODULE") or os.environ.get("DJANGO_SETTINGS_MODULE", "")
    return settings.split(".")[0] + ".wsgi"


def load(name, app_type):
    """The project's application: ``module`` or ``module:attribute``."""
    module, _, attribute = name.partition(":")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A Django project need not have the usual wsgi module; one that was asked for, or fails inside, must say so.
        missing = module == error.name or module.startswith(f"{error.name}.")
        if app_type != "django" or not missing or name != usual_wsgi_module():
            raise
        from django.core.wsgi import get_wsgi_application

        return get_wsgi_application()
    return getattr(found, attribute or "application")


def is_whole(body, headers):
    """Whether all of an answer is there, so that nothing can pause while it is sent."""
    if hasattr(body, "streaming"):  # Django's
        return not body.streaming
    return isinstance(body, (list, tuple)) or "content-length" in map(str.lower, headers)


class Counters:
    """The project's requests, counted in memory that the workers share: they are forked after it was made."""

    # Workers have numbers near each other, and so a slot each; two in one slot would now and then lose a count.
    SLOTS = 512
    SLOT = struct.Struct("qqqq")

    def __init__(self):
        self.memory, self.lock = mmap.mmap(-1, self.SLOTS * self.SLOT.size), threading.Lock()

    def add(self, under_way=0, answered=0, failed=0):
        process = os.getpid()
        offset = process % self.SLOTS * self.SLOT.size
        with self.lock:
            holder, *counts = self.SLOT.unpack_from(self.memory, offset)
            if holder != process:
                # It has ended, and answers no more.
                counts[0] = 0
            counts = [count + more for count, more in zip(counts, (under_way, answered, failed), strict=True)]
            self.SLOT.pack_into(self.memory, offset, process, *counts)

    def totals(self):
        slots = list(self.SLOT.iter_unpack(self.memory))
        alive = [slot for slot in slots if slot[0] and os.path.exists(f"/proc/{slot[0]}")]
        return {
            "under_way": sum(slot[1] for slot in alive),
            "answered": sum(slot[2] for slot in slots),
            "failed": sum(slot[3] for slot in slots),
            "workers": {slot[0]: slot[2] for slot in alive},
        }


class Health:
    """WSGI middleware that answers /health/live and /health/ready, and counts what the project answers."""

    def __init__(self, project, identity, questions):
        self.project, self.identity, self.questions = project, identity, questions
        self.counters = Counters()

    def ready(self, address, told):
        # First: who is noted has been answered with what was so after that.
        note_question(self.questions, address, told)
        reasons = ["drained"] if drained() else []
        canary = {"canary": True} if os.path.exists(CANARY_FILE) else {}
        return {
            **self.identity,
            **deploy(),
            **canary,
            "ready": not reasons,
            **({"reasons": reasons} if reasons else {}),
        }

    def pass_on(self, environ, start_response):
        """The project's answer, counted."""

        def counted(status, *arguments, **options):
            self.counters.add(answered=1, failed=status >= "500")
            return start_response(status, *arguments, **options)

        # Until the thread's next request: a body that is streamed comes after this call.
        request_id.set(environ.get("HTTP_X_REQUEST_ID", "-"))
        self.counters.add(under_way=1)
        try:
            return self.project(environ, counted)
        except Exception:
            self.counters.add(answered=1, failed=1)
            raise
        finally:
            self.counters.add(under_way=-1)

    def first_try(self, environ, start_response):
        """The project's answer to what a load balancer can ask of another host, if this one does not answer soon.

        An answer that comes in pieces may pause later, when nobody else can be asked: it is refused, and the other host
        has all the time.
        """
        said = []
        environ[trestle_patience.FIRST_TRY] = True
        body = self.pass_on(environ, lambda *answer: said.__setitem__(slice(None), answer))
        if said and is_whole(body, dict(said[1])):
            start_response(*said)
            return body
        if hasattr(body, "close"):
            body.close()
        start_response("504 Gateway Timeout", [("Content-Length", "0")])
        return []

    def __call__(self, environ, start_response):
        path = environ.get("PATH_INFO", "")
        if path == "/health/live":
            status, answer = "200 OK", {**self.identity, "requests": self.counters.totals()}
        elif path == "/health/ready":
            answer = self.ready(environ.get("REMOTE_ADDR", ""), environ.get("HTTP_X_TRESTLE_POOL", ""))
            status = "200 OK" if answer["ready"] else "503 Service Unavailable"
        elif environ.pop("HTTP_X_TRESTLE_FIRST_TRY", ""):
            return self.first_try(environ, start_response)
        else:
            return self.pass_on(environ, start_response)
        body = json.dumps(answer).encode()
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
        ]
        start_response(status, headers)
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else [body]


def make_application():
    """What gunicorn loads, once, before it forks its workers."""
    env = os.environ
    if env["TRESTLE_APP_TYPE"] == "django":
        set_up_django()
    project = load(env["TRESTLE_WSGI"], env["TRESTLE_APP_TYPE"])
    if "django.db" in sys.modules and "DJANGO_SETTINGS_MODULE" in env:
        # A connection opened while the project was imported must not be shared by the workers.
        connections = sys.modules["django.db"].connections
        connections.close_all()
        if connections["default"].vendor == "postgresql":
            project = trestle_patience.Patience(project, int(env["GUNICORN_TIMEOUT"]) - MARGIN_SECONDS)
    names = {"site": "TRESTLE_SITE", "host": "SITE_HOST", "release": "RELEASE", "digest": "TRESTLE_DIGEST"}
    identity = {key: env.get(name, "") for key, name in names.items()}
    return Health(project, identity, os.path.join(env.get("TMPDIR", "/tmp"), "questions"))
