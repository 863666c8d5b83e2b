"""What holds for every project, whoever wrote it."""

from __future__ import annotations

import re
import time

import pytest
from conftest import SITES

DJANGO = [name for name, site in SITES.items() if site.get("app_type") != "wsgi"]
LOGIN = {"wagtail": "/admin/login/", "pretalx": "/orga/login/", "ara": "/admin/login/"}
HASHED = re.compile(r"/static/[\w./-]+\.[0-9a-f]{12}\.css")


@pytest.mark.parametrize("site", SITES)
def test_the_front_page_is_shown(front, url, host, site):
    answer = front.session().get(url(site), timeout=30)
    assert answer.status_code == 200, (
        host("dev1").run(f"journalctl -n 40 --no-pager; tail -n 40 /srv/{site}/log/*").stdout
    )


@pytest.mark.parametrize("site", DJANGO)
def test_static_files_have_names_that_change_with_their_content(front, url, site):
    session = front.session()
    sheets = HASHED.findall(session.get(url(site), timeout=30).text)
    assert sheets, "the front page has no style sheet whose name has a hash"
    answer = session.get(url(site, sheets[0]), timeout=30)
    assert answer.status_code == 200 and answer.headers["Content-Type"].startswith("text/css")
    assert "immutable" in answer.headers["Cache-Control"]


@pytest.mark.parametrize("site", DJANGO)
def test_a_command_is_run_in_its_environment(manage, site):
    said = manage(site, "showmigrations sessions").stdout
    assert "[X] 0001_initial" in said, said


@pytest.mark.parametrize("site", DJANGO)
def test_what_it_logs_is_in_the_journal_with_the_request_s_id(front, url, host, site):
    """A form without its token is refused by every Django project, and logged."""
    answer = front.session().post(url(site, LOGIN[site]), headers={"Referer": url(site)}, timeout=30)
    assert answer.status_code == 403
    deadline = time.monotonic() + 10
    while "Forbidden" not in (
        said := host("dev1").run(f"journalctl --no-pager -g {answer.headers['X-Request-ID']}").stdout
    ):
        assert time.monotonic() < deadline, said + host("dev1").run("journalctl --no-pager -n 40").stdout
        time.sleep(1)
