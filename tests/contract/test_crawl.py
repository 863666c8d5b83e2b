"""The crawl after a deploy, of a site that a server of the test's own plays over TLS."""

import http.server
import json
import socket
import ssl
import subprocess
import sys
import threading
import time

import pytest
from environments import REAL, environment, resolve_offline
from programs import ROLES

from tools import secrets

PROGRAM = ROLES / "release/files/usr/local/lib/trestle/site-crawl"
NAME = "shop.example.com"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """The environment's own authority, and a certificate of the site's that it signed."""
    folder = tmp_path_factory.mktemp("authority")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    made = secrets.make("dev")
    (folder / "ca.key").write_text(made["vault_certificates_ca_key"])
    (folder / "ca.crt").write_text(made["vault_certificates_ca_certificate"])
    (folder / "names").write_text(f"subjectAltName=DNS:{NAME}\n")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "key", "-out", "request", "-subj", f"/CN={NAME}")
    signed_by = ["-CA", "ca.crt", "-CAkey", "ca.key", "-extfile", "names"]
    openssl("x509", "-req", "-in", "request", "-out", "certificate", "-days", "2", *signed_by)
    return folder


class Shop(http.server.ThreadingHTTPServer):
    """Answers with what a test puts in `pages`: a text, (status, text), or a function; and keeps what was asked."""

    daemon_threads = True

    def __init__(self, authority):
        super().__init__(("127.0.0.1", 0), Visit)
        self.pages, self.asked, self.hosts = {"/": ""}, [], set()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(authority / "certificate", authority / "key")
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.ca = (authority / "ca.crt").read_text()


class Visit(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.asked.append(f"{self.command} {self.path}")
        self.server.hosts.add(self.headers["Host"].split(":")[0])
        page = self.server.pages.get(self.path, (404, ""))
        status, text = (page() if callable(page) else page) if not isinstance(page, str) else (200, page)
        body = b"" if self.command == "HEAD" else text.encode()
        self.send_response(status)
        if status in (301, 302):
            self.send_header("Location", text)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def shop(authority):
    server = Shop(authority)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def crawl(shop, **options):
    site = {"name": "shop", "domains": [NAME, f"www.{NAME}"]}
    job = {"address": "127.0.0.1", "port": shop.server_port, "ca": shop.ca, "pages": 30, "seconds": 20, "sites": [site]}
    done = subprocess.run(
        [sys.executable, PROGRAM, json.dumps(job | options)], capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout, done.stderr


def test_a_site_that_is_well_is_read_by_its_name_and_costs_little(shop):
    shop.pages |= {"/": '<a href="/news/">', "/news/": '<a href="one">two</a>', "/news/one": "<p>"}
    started = time.monotonic()
    status, out, err = crawl(shop)
    assert (status, err) == (0, "")
    assert out.startswith("shop: 3 addresses in 0.")
    assert shop.asked == ["GET /", "GET /news/", "GET /news/one"]
    assert shop.hosts == {NAME}
    assert time.monotonic() - started < 3


def test_a_page_that_fails_is_named_with_its_status_and_the_page_that_leads_to_it(shop):
    shop.pages |= {"/": '<a href="/a/">', "/a/": '<a href="/b/?page=2#top">', "/b/?page=2": (500, ""), "/c/": (503, "")}
    shop.pages["/a/"] += '<img src="/c/">'
    status, _, err = crawl(shop)
    assert status == 1
    assert err.startswith("shop: 2 of 4 addresses fail through 127.0.0.1: ")
    assert "/b/?page=2 (500, linked from /a/)" in err
    assert "/c/ (503, linked from /a/)" in err
    assert len(err.splitlines()) == 1


def test_a_first_page_that_fails_was_linked_from_nowhere(shop):
    shop.pages["/"] = (502, "")
    assert "fail through 127.0.0.1: / (502): nothing was undone" in crawl(shop)[2]


@pytest.mark.parametrize("status", [301, 401, 403, 404, 410])
def test_what_a_site_refuses_is_no_fault(shop, status):
    shop.pages |= {"/": '<a href="/a/">', "/a/": (status, "/login/")}
    assert crawl(shop)[0] == 0


def test_a_redirect_leads_on_and_is_named(shop):
    shop.pages |= {"/": (302, f"http://www.{NAME}/en/"), "/en/": (500, "")}
    assert "/en/ (500, linked from /)" in crawl(shop)[2]


@pytest.mark.parametrize(
    "link",
    [
        *("https://elsewhere.example.com/", "ftp://shop.example.com/", "mailto:a@example.com", "tel:1", "https://["),
        *("#top", "", "javascript:void(0)", "data:text/html,x", "/logout/", "/sign-out", "/stories/1/delete/"),
    ],
)
def test_what_leads_elsewhere_or_changes_something_is_not_followed(shop, link):
    shop.pages["/"] = f'<a href="{link}"><img src="{link}">'
    assert crawl(shop)[0] == 0
    assert shop.asked == ["GET /"]


def test_every_kind_of_link_is_followed_once_and_files_are_not_fetched(shop):
    shop.pages["/"] = (
        '<base href="/deep/"><a href="a"><a href="a"><area href="//shop.example.com/b"><iframe src="c"></iframe>'
        '<link href="d.css"><script src="e.js"></script><img src="/f g.png"><a href="https://www.shop.example.com/h">'
    )
    crawl(shop)
    pages, files = ["GET /deep/a", "GET /b", "GET /deep/c", "GET /h"], ["/deep/d.css", "/deep/e.js", "/f%20g.png"]
    assert sorted(shop.asked) == sorted(["GET /", *pages, *(f"HEAD {path}" for path in files)])


def test_pages_without_end_end(shop):
    """A calendar links to the next day for ever, by its query or by its path."""
    shop.pages["/"] = "".join(f'<a href="/?day={day}"><a href="/day/{day}/">' for day in range(100))
    status, out, _ = crawl(shop, pages=12)
    assert (status, len(shop.asked)) == (0, 12)
    assert out.startswith("shop: 12 addresses")
    assert sum("?" in asked for asked in shop.asked) == 1


def test_the_time_is_bounded_and_what_was_not_reached_is_no_fault(shop):
    def slow():
        time.sleep(0.5)
        return 200, ""

    shop.pages |= {"/": "".join(f'<a href="/{n}/">' for n in range(30))} | {f"/{n}/": slow for n in range(30)}
    started = time.monotonic()
    assert crawl(shop, seconds=1.2)[0] == 0
    assert time.monotonic() - started < 3
    assert len(shop.asked) < 20


def test_a_page_that_never_answers_is_a_fault(shop):
    def hang():
        time.sleep(4)
        return 200, ""

    shop.pages |= {"/": '<a href="/hangs/">', "/hangs/": hang}
    status, _, err = crawl(shop, answer_seconds=1)
    assert status == 1
    assert "/hangs/ (no answer: " in err
    assert "linked from /)" in err


def test_a_load_balancer_that_does_not_answer_is_a_fault(shop):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        status, _, err = crawl(shop, port=free.getsockname()[1])
    assert status == 1
    assert "/ (no answer: " in err


def test_a_certificate_of_another_authority_is_refused_where_there_is_one(shop, authority):
    other = secrets.make("dev")["vault_certificates_ca_certificate"]
    assert "certificate verify failed" in crawl(shop, ca=other)[2]
    assert crawl(shop, ca="")[0] == 0


def test_all_sites_are_read_at_once_and_each_fault_is_its_site_s(shop):
    shop.pages["/"] = (500, "")
    sites = [{"name": name, "domains": [NAME]} for name in ("one", "two")]
    status, _, err = crawl(shop, sites=sites)
    assert status == 1
    assert [line.split(":")[0] for line in err.splitlines()] == ["one", "two"]


@pytest.mark.parametrize("name", REAL)
def test_a_host_is_told_the_floating_address_the_authority_and_every_site(name):
    here = environment(name)
    host, play = here.hosts_with("release")[0]
    job = here.templar(here.role_vars("release", host, play)).template(here.expression("__release_crawl"))
    floating = here.value(host, "lb_vip")
    first = here.value(host, "tier_members.lb[0].address")
    assert job["address"] == (resolve_offline(floating) if floating else first)
    assert job["ca"].startswith("-----BEGIN") == (here.value(host, "certificates_source") == "ca")
    assert (job["pages"], job["seconds"]) == (30, 20)
    assert {site["name"] for site in job["sites"]} == set(here.value(host, "sites"))
    assert all(site.keys() == {"name", "domains"} for site in job["sites"])
