"""The WSGI application that gunicorn runs: the project's own, with the health answers before it.

GET /health/live   200 {"site", "host", "release", "digest"}
GET /health/ready  200 with "ready": true, or 503 with "ready": false and "reasons"; "deploy" is the number of the last
                   deploy that this host took part in to the end

They come before the project's code, so that neither ALLOWED_HOSTS nor a TLS redirect can fool a probe. A request that
goes on to the project has its X-Request-ID, which the load balancers set, in trestle_logging.request_id.
"""

import importlib
import json
import os
import sys

from trestle_logging import request_id

DRAIN_FOLDER = "/var/lib/trestle/drain"
DEPLOY_FILE = "/var/lib/trestle/deploy"


def drained():
    """Whether anyone, an engineer or a run, keeps this host out of the pool."""
    try:
        return bool(os.listdir(DRAIN_FOLDER))
    except FileNotFoundError:
        return False


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


class Health:
    """WSGI middleware that answers /health/live and /health/ready and passes everything else on."""

    def __init__(self, project, identity):
        self.project, self.identity = project, identity

    def __call__(self, environ, start_response):
        path = environ.get("PATH_INFO", "")
        if path == "/health/live":
            status, answer = "200 OK", self.identity
        elif path == "/health/ready":
            reasons = ["drained"] if drained() else []
            status = "503 Service Unavailable" if reasons else "200 OK"
            answer = {**self.identity, **deploy(), "ready": not reasons, **({"reasons": reasons} if reasons else {})}
        else:
            # Until the thread's next request: a body that is streamed comes after this call.
            request_id.set(environ.get("HTTP_X_REQUEST_ID", "-"))
            return self.project(environ, start_response)
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
        sys.modules["django.db"].connections.close_all()
    names = {"site": "TRESTLE_SITE", "host": "SITE_HOST", "release": "RELEASE", "digest": "TRESTLE_DIGEST"}
    return Health(project, {key: env.get(name, "") for key, name in names.items()})
