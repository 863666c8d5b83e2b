"""The site as its readers and its editor see it: every tier takes part in a story."""

from __future__ import annotations

import io
import re
import time
import uuid

import pytest
from conftest import hosts_of
from pictures import picture
from trestle import derived_secret

pytestmark = pytest.mark.usefixtures("rested")


@pytest.fixture(scope="module")
def site(sites) -> dict:
    return next(s for s in sites if s["name"] == "newsroom")


@pytest.fixture(scope="module")
def rested(front, site) -> None:
    """The tests before this one may have left a host drained for a second."""
    deadline = time.monotonic() + 60
    while front.session().get(f"https://{site['domains'][0]}/", timeout=20).status_code != 200:
        assert time.monotonic() < deadline, "the front page does not answer 200"
        time.sleep(1)


def editor(front, lab, site):
    """A session logged in as the editor."""
    session, url = front.session(), f"https://{site['domains'][0]}/login/"
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', session.get(url, timeout=20).text)[1]
    password = derived_secret(lab.secrets()["vault_site_key"], site["name"], "editor")
    answer = session.post(
        url,
        data={"username": "editor", "password": password, "csrfmiddlewaretoken": token},
        headers={"Referer": url},
        timeout=20,
    )
    assert answer.status_code == 200 and "/login/" not in answer.url, f"login failed: {answer.status_code} {answer.url}"
    return session


@pytest.fixture(scope="module")
def story(front, lab, site) -> dict:
    """A story with a picture, posted through the front door."""
    session, url = editor(front, lab, site), f"https://{site['domains'][0]}/stories/add/"
    form = session.get(url, timeout=20).text
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form)[1]
    mark = uuid.uuid4().hex
    image = picture(mark.encode())
    answer = session.post(
        url,
        data={
            "headline": f"Story {mark}",
            "summary": "A test's story.",
            "body": f"Body {mark}.",
            "author": "A test",
            "csrfmiddlewaretoken": token,
        },
        files={"picture": (f"{mark}.png", io.BytesIO(image), "image/png")},
        headers={"Referer": url},
        timeout=30,
    )
    assert answer.status_code == 200 and mark in answer.text, f"{answer.status_code} {answer.url}\n{answer.text[:2000]}"
    path = re.search(r"https://[^/]+(/.*)", answer.url)[1]
    source = re.search(rf'src="(/media/[^"]*{mark}[^"]*)"', answer.text)[1]
    return {"mark": mark, "path": path, "picture": source, "bytes": image}


def fetch(host, member: str, port: int, path: str, domain: str) -> str:
    """What one host answers, asked from a load balancer; binary as hex."""
    balancer = host(hosts_of("lb")[0])
    command = f"curl -s -m 10 -H 'Host: {domain}' -H 'X-Forwarded-Proto: https' 'http://{member}:{port}{path}'"
    return balancer.check_output(f"{command} | od -An -v -tx1 | tr -d ' \\n'")


def test_a_story_is_read_back_through_every_web_host(host, lab, site, story):
    containers = lab.containers()
    for web in hosts_of("web"):
        page = bytes.fromhex(fetch(host, lab.address(containers[web]), site["port"], story["path"], site["domains"][0]))
        assert f"Body {story['mark']}".encode() in page, f"{web} does not show the story:\n{page[:1500]!r}"
        assert web.encode() in page, f"the footer of {web} does not name it"


def test_its_picture_comes_from_every_media_host(front, host, lab, site, story):
    containers = lab.containers()
    for media in hosts_of("media"):
        path = f"/{site['name']}{story['picture']}"
        got = bytes.fromhex(fetch(host, lab.address(containers[media]), 8081, path, site["domains"][0]))
        assert got == story["bytes"], f"{media} does not serve {path}: {got[:300]!r}"
    answer = front.session().get(f"https://{site['domains'][0]}{story['picture']}", timeout=10)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/png")
    assert answer.content == story["bytes"]


def test_the_front_page_is_served_from_memcached(front, host, lab, site, story):
    url, session = f"https://{site['domains'][0]}/", front.session()

    def cached() -> list[str]:
        return [session.get(url, timeout=10).headers["X-Cache"] for _ in range(6)]

    assert cached()[1:] == ["hit"] * 5, "six readers in a row, through any web host"
    found = lab.containers()
    for cache in hosts_of("cache"):
        talk = f"exec 3<>/dev/tcp/{lab.address(found[cache])}/11211; cat >&3; cat <&3"
        flush = f"printf 'flush_all\\r\\nquit\\r\\n' | timeout 3 bash -c '{talk}'"
        assert "OK" in host(hosts_of("web")[0]).check_output(flush)
    assert cached()[0] == "miss", "the page was not in memcached after all"


def test_two_sites_share_the_tiers_and_nothing_else(front, sites, story):
    if len(sites) == 1:
        pytest.skip("this environment has one site")
    other = next(s for s in sites if s["name"] != "newsroom")
    answer = front.session().get(f"https://{other['domains'][0]}{story['path']}", timeout=10)
    assert answer.status_code == 404, "a story of one site is seen on the other"
    assert front.session().get(f"https://{other['domains'][0]}/", timeout=10).status_code == 200


def test_static_pages_stand_beside_djangos(front, site):
    session, base = front.session(), f"https://{site['domains'][0]}"
    assert "X-Served-By" not in session.get(f"{base}/robots.txt", timeout=10).headers
    assert session.get(f"{base}/colophon.html", timeout=10).status_code == 200
    assert "X-Served-By" in session.get(f"{base}/about/", timeout=10).headers


def test_static_files_are_kept_for_ever(front, site):
    session, base = front.session(), f"https://{site['domains'][0]}"
    page = session.get(f"{base}/", timeout=10).text
    sheet = re.search(r'href="(/static/[^"]+\.[0-9a-f]{8,}\.css)"', page)[1]
    answer = session.get(base + sheet, timeout=10)
    assert answer.status_code == 200 and answer.headers["Content-Type"].startswith("text/css")
    assert "immutable" in answer.headers["Cache-Control"]
