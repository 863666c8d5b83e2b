"""httpbin, a plain WSGI application, which answers with the request that reached it."""

from __future__ import annotations

from forms import TIMEOUT


def test_a_request_reaches_it_whole(front, url):
    """It keeps headers of proxies to itself unless it is asked with show_env."""
    answer = front.session().post(url("httpbin", "/post?show_env=1"), data={"b": "2"}, timeout=TIMEOUT)
    seen = answer.json()
    assert (answer.status_code, seen["args"], seen["form"]) == (200, {"show_env": "1"}, {"b": "2"})
    assert seen["headers"]["Host"] == "httpbin.dev.example.com"
    assert seen["headers"]["X-Request-Id"] == answer.headers["X-Request-ID"]


def test_nothing_of_django_is_said_to_it(host):
    said = host("dev1").run("/usr/local/lib/trestle/site-run httpbin current env")
    assert said.rc == 0, said.stderr
    assert "DJANGO_SETTINGS_MODULE" not in said.stdout
