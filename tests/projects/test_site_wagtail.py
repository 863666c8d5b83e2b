"""A Wagtail site as `wagtail start` makes it: an editor's way through its own pages."""

from __future__ import annotations

import io
import re
import uuid

import pytest
from forms import TIMEOUT, submit
from pictures import picture
from trestle import derived_secret


@pytest.fixture(scope="module")
def editor(lab, sign_in):
    password = derived_secret(lab.secrets()["vault_site_key"], "wagtail", "editor")
    return sign_in("wagtail", "/admin/login/", "createsuperuser --noinput", username="editor", password=password)


@pytest.mark.parametrize("path", ["/admin/", "/django-admin/"])
def test_the_admin_lets_its_editor_in(editor, url, path):
    page = editor.get(url("wagtail", path), timeout=TIMEOUT)
    assert (page.status_code, page.url) == (200, url("wagtail", path)) and "logout" in page.text


def test_a_picture_is_uploaded_and_served_by_the_media_host(editor, front, url, from_media):
    mark = uuid.uuid4().hex
    image = picture(mark.encode())
    form = editor.get(url("wagtail", "/admin/images/add/"), timeout=TIMEOUT)
    listing = submit(editor, form, title=mark, files={"file": (f"{mark}.png", io.BytesIO(image), "image/png")})
    assert from_media("wagtail", f"/media/original_images/{mark}.png") == image
    # A small one, which Wagtail has made of what it has read from the media host.
    small = re.search(rf'"(/media/images/{mark}[^"]*)"', listing.text)[1]
    answer = front.session().get(url("wagtail", small), timeout=TIMEOUT)
    assert (answer.status_code, answer.content) == (200, from_media("wagtail", small))


def test_a_restart_of_memcached_logs_nobody_out(editor, host, url):
    assert host("dev1").run("systemctl restart memcached").rc == 0
    page = editor.get(url("wagtail", "/admin/"), timeout=TIMEOUT)
    assert (page.status_code, page.url) == (200, url("wagtail", "/admin/"))
