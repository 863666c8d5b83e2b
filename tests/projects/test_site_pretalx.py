"""pretalx, a conference from its call for papers on: an organiser's way through its own pages, and its mail."""

from __future__ import annotations

import io
import re
import time
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from forms import TIMEOUT, submit
from pictures import picture
from trestle import derived_secret

EMAIL = "organiser@example.net"


@pytest.fixture(scope="module")
def organiser(lab, sign_in):
    password = derived_secret(lab.secrets()["vault_site_key"], "pretalx", "organiser")
    return sign_in("pretalx", "/orga/login/", "init --noinput", login_email=EMAIL, login_password=password)


@pytest.fixture(scope="module")
def event(organiser, url) -> str:
    """The slug of an event with a logo, whose call for papers ended an hour ago; made page by page."""
    slug, now = f"event{uuid.uuid4().hex[:10]}", datetime.now(UTC)
    logo = {"display-logo": ("logo.png", io.BytesIO(picture(slug.encode())), "image/png")}
    page = organiser.get(url("pretalx", "/orga/event/new/"), timeout=TIMEOUT)
    page = submit(organiser, page, **{"initial-locales": "en"})
    page = submit(organiser, page, **{"basics-name_0": slug, "basics-slug": slug, "basics-email": EMAIL})
    dates = {"date_from": now + timedelta(30), "date_to": now + timedelta(31)}
    timeline = {f"timeline-{name}": f"{date:%Y-%m-%d}" for name, date in dates.items()}
    timeline["timeline-deadline"] = f"{now - timedelta(hours=1):%Y-%m-%dT%H:%M}"
    page = submit(organiser, page, **timeline)
    page = submit(organiser, page, files=logo, **{"display-primary_color": "#336699"})
    assert page.url.startswith(url("pretalx", f"/orga/event/{slug}/")), page.text[:2000]
    return slug


def test_an_upload_is_worked_on_and_served_by_the_media_host(organiser, event, front, url, from_media):
    """pretalx makes a WebP of it, which it reads and writes by the path of the file."""
    page = organiser.get(url("pretalx", f"/{event}/"), timeout=TIMEOUT)
    logo = re.search(rf"/media/{event}/img/logo_\w+\.webp", page.text)[0]
    answer = front.session().get(url("pretalx", logo), timeout=TIMEOUT)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/webp")
    assert answer.content == from_media("pretalx", logo) and answer.content[8:12] == b"WEBP"


def test_what_was_uploaded_can_be_saved_again(organiser, event, url):
    """On every save pretalx compares the paths of the old files and the new."""
    form = organiser.get(url("pretalx", f"/orga/event/{event}/settings/"), timeout=TIMEOUT)
    page = submit(organiser, form, email="other@example.net")
    assert "other@example.net" in page.text


def test_the_periodic_program_writes_to_the_organiser(event, host):
    """It notices that the call for papers has ended; the mail goes through the host's relay, into its mailbox."""
    deadline = time.monotonic() + 90
    while host("dev1").run(f"grep -r -s {event} /var/mail /var/spool/mail").rc != 0:
        said = host("dev1").run("supervisorctl status; journalctl --no-pager -n 40; mailq").stdout
        assert time.monotonic() < deadline, said
        time.sleep(3)


def test_a_restart_of_memcached_logs_nobody_out(organiser, host, url):
    assert host("dev1").run("systemctl restart memcached").rc == 0
    page = organiser.get(url("pretalx", "/orga/event/"), timeout=TIMEOUT)
    assert (page.status_code, page.url) == (200, url("pretalx", "/orga/event/"))
