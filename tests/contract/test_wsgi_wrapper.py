"""The WSGI wrapper: what the load balancers and the roll read, and what it hands to the project."""

import importlib.util
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

ROLES = Path(__file__).resolve().parents[2] / "roles"
LIBRARY = "files/usr/local/lib/trestle/python"
WRAPPER = ROLES / "gunicorn" / LIBRARY / "trestle_wsgi.py"
IDENTITY = {"site": "newsroom", "host": "web1", "release": "abc", "digest": "def"}


@pytest.fixture
def wrapper(tmp_path, monkeypatch):
    for role in ("release", "gunicorn"):
        monkeypatch.syspath_prepend(ROLES / role / LIBRARY)
    spec = importlib.util.spec_from_file_location("trestle_wsgi", WRAPPER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.DRAIN_FOLDER = str(tmp_path / "drain")
    module.DEPLOY_FILE = str(tmp_path / "deploy")
    module.CANARY_FILE = str(tmp_path / "canary")
    return module


@pytest.fixture
def get(wrapper, tmp_path):
    """get(path): status and body of an answer; the project says 'project', with the status that the path asks for."""

    def project(environ, start_response):
        path = environ["PATH_INFO"]
        if path == "/raises":
            raise RuntimeError
        start_response(f"{path[1:]} Asked for" if path[1:].isdigit() else "200 OK", [])
        return [b"project"]

    application = wrapper.Health(project, IDENTITY, str(tmp_path / "questions"))

    def ask(path, method="GET", **headers):
        said = []
        environ = {"PATH_INFO": path, "REQUEST_METHOD": method, "REMOTE_ADDR": "192.0.2.7", **headers}
        body = b"".join(application(environ, lambda status, headers: said.append(status)))
        return int(said[0].split()[0]), body

    return ask


def test_live_says_what_runs(get):
    status, body = get("/health/live")
    requests = {"under_way": 0, "answered": 0, "failed": 0, "workers": {}}
    assert (status, json.loads(body)) == (200, {**IDENTITY, "requests": requests})


def test_live_counts_what_the_project_answers_in_every_worker(get):
    get("/"), get("/404"), get("/503"), get("/health/ready")
    with pytest.raises(RuntimeError):
        get("/raises")
    if (worker := os.fork()) == 0:
        get("/500"), get("/")
        os._exit(0)
    os.waitpid(worker, 0)
    # That a worker has ended takes nothing away.
    workers = {f"{os.getpid()}": 4}
    requests = {"under_way": 0, "answered": 6, "failed": 3, "workers": workers}
    assert json.loads(get("/health/live")[1])["requests"] == requests


def test_live_counts_what_is_under_way_but_not_of_a_worker_that_died(wrapper, tmp_path):
    counters = wrapper.Counters()

    def project(environ, start_response):
        assert counters.totals()["under_way"] == 2
        start_response("200 OK", [])
        return []

    application = wrapper.Health(project, IDENTITY, str(tmp_path / "questions"))
    application.counters = counters
    if (worker := os.fork()) == 0:
        counters.add(under_way=1)
        time.sleep(60)
    counters.add(under_way=1)
    while counters.totals()["under_way"] < 2:
        time.sleep(0.01)
    counters.add(under_way=-1)
    application({"PATH_INFO": "/"}, lambda *_: None)
    workers = {os.getpid(): 1, worker: 0}
    assert counters.totals() == {"under_way": 1, "answered": 1, "failed": 0, "workers": workers}
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)
    assert counters.totals()["under_way"] == 0


def test_ready_notes_who_asked_when_and_what_was_said(get, wrapper, tmp_path):
    get("/health/ready")
    (noted,) = (tmp_path / "questions").iterdir()
    first = noted.stat().st_mtime_ns
    assert noted.name == "192.0.2.7"
    time.sleep(0.02)
    get("/health/ready")
    assert noted.stat().st_mtime_ns > first
    for told in ("outdated 2/2", "up 1/2", "", "x" * 1000):
        get("/health/ready", HTTP_X_TRESTLE_POOL=told)
        assert noted.read_text().strip() == told[: wrapper.TOLD_BYTES]


def test_a_host_whose_release_is_watched_says_so(get, wrapper):
    assert "canary" not in json.loads(get("/health/ready")[1])
    Path(wrapper.CANARY_FILE).touch()
    assert json.loads(get("/health/ready")[1])["canary"] is True


def test_ready_without_a_drain_folder(get):
    status, body = get("/health/ready")
    assert (status, json.loads(body)) == (200, {**IDENTITY, "ready": True})


def test_ready_says_which_deploy_was_the_last(get, wrapper):
    Path(wrapper.DEPLOY_FILE).write_text("7 newsroom=abc\n")
    assert json.loads(get("/health/ready")[1])["deploy"] == 7
    Path(wrapper.DEPLOY_FILE).write_text("")
    assert "deploy" not in json.loads(get("/health/ready")[1])


@pytest.mark.parametrize("flag", ["manual", "deploy"])
def test_any_flag_drains_and_taking_it_down_restores(get, wrapper, flag):
    folder = Path(wrapper.DRAIN_FOLDER)
    folder.mkdir()
    (folder / flag).touch()
    status, body = get("/health/ready")
    assert (status, json.loads(body)) == (503, {**IDENTITY, "ready": False, "reasons": ["drained"]})
    assert get("/health/live")[0] == 200, "a drained process still lives"
    (folder / flag).unlink()
    assert get("/health/ready")[0] == 200


def test_head_has_no_body(get):
    assert get("/health/ready", "HEAD") == (200, b"")


@pytest.mark.parametrize("path", ["/", "/health", "/health/ready/", "/health/readyz"])
def test_everything_else_is_the_project_s(get, path):
    assert get(path) == (200, b"project")


class Streamed(list):
    streaming = True


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ([], [b"whole"], 200),
        ([("Content-Length", "5")], iter([b"whole"]), 200),
        ([], iter([b"pie", b"ces"]), 504),
        ([("Content-Length", "6")], Streamed([b"pie", b"ces"]), 504),
    ],
)
def test_what_comes_in_pieces_is_refused_where_another_host_can_be_asked(wrapper, tmp_path, headers, body, status):
    """Once it has begun nobody else can be asked, and a first try's time is short."""

    def project(environ, start_response):
        assert "HTTP_X_TRESTLE_FIRST_TRY" not in environ
        start_response("200 OK", headers)
        return body

    def ask(**environ):
        said = []
        application = wrapper.Health(project, IDENTITY, str(tmp_path))
        text = b"".join(application({"PATH_INFO": "/"} | environ, lambda status, headers: said.append(status)))
        return int(said[0].split()[0]), text

    first, text = ask(HTTP_X_TRESTLE_FIRST_TRY="1")
    assert first == status
    assert text == (b"whole" if status == 200 else b"")
    if status == 504:
        assert ask() == (200, b"pieces")


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/__init__.py").touch()
    yield tmp_path / "shop"
    for name in [name for name in sys.modules if name.split(".")[0] == "shop"]:
        del sys.modules[name]


def test_module_and_attribute(wrapper, project):
    (project / "web.py").write_text("application = 'a'\nother = 'b'\n")
    assert wrapper.load("shop.web", "wsgi") == "a"
    assert wrapper.load("shop.web:other", "wsgi") == "b"


def test_django_without_a_wsgi_module(wrapper, project, monkeypatch):
    fake = type(sys)("django.core.wsgi")
    fake.get_wsgi_application = lambda: "django's own"
    for name in ("django", "django.core"):
        monkeypatch.setitem(sys.modules, name, type(sys)(name))
    monkeypatch.setitem(sys.modules, "django.core.wsgi", fake)
    monkeypatch.setenv("TRESTLE_SETTINGS_MODULE", "shop.settings.production")
    assert wrapper.load("shop.wsgi", "django") == "django's own"
    with pytest.raises(ModuleNotFoundError):
        wrapper.load("shop.asgi:app", "django")  # nobody leaves that out


@pytest.mark.parametrize(("app_type", "text"), [("wsgi", None), ("django", "import nowhere_to_be_found\n")])
def test_what_cannot_be_imported_is_said(wrapper, project, app_type, text):
    if text:
        (project / "wsgi.py").write_text(text)
    with pytest.raises(ModuleNotFoundError):
        wrapper.load("shop.wsgi", app_type)
