"""The WSGI wrapper: what the load balancers and the roll read, and what it hands to the project."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROLES = Path(__file__).resolve().parents[2] / "roles"
LIBRARY = "files/usr/local/lib/trestle/python"
WRAPPER = ROLES / "gunicorn" / LIBRARY / "trestle_wsgi.py"
IDENTITY = {"site": "newsroom", "host": "web1", "release": "abc", "digest": "def"}


@pytest.fixture
def wrapper(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROLES / "release" / LIBRARY)
    spec = importlib.util.spec_from_file_location("trestle_wsgi", WRAPPER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.DRAIN_FOLDER = str(tmp_path / "drain")
    module.DEPLOY_FILE = str(tmp_path / "deploy")
    return module


@pytest.fixture
def get(wrapper):
    """get(path): status and body of an answer, where the project says 'project'."""

    def project(environ, start_response):
        start_response("200 OK", [])
        return [b"project"]

    def ask(path, method="GET"):
        said = []
        body = b"".join(
            wrapper.Health(project, IDENTITY)(
                {"PATH_INFO": path, "REQUEST_METHOD": method}, lambda status, headers: said.append(status)
            )
        )
        return int(said[0].split()[0]), body

    return ask


def test_live_says_what_runs(get):
    status, body = get("/health/live")
    assert (status, json.loads(body)) == (200, IDENTITY)


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
