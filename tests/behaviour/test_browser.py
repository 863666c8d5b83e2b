"""The pages in a real browser: they load whole, styled, with their pictures, and complain of nothing."""

from __future__ import annotations

import shutil

import pytest
from playwright.sync_api import sync_playwright

OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--ignore-certificate-errors",  # the other tests hold the certificates against the authority
]


@pytest.fixture(scope="module")
def browser(front):
    chromium = shutil.which("chromium")
    assert chromium, "Debian's chromium is missing: make test installs it"
    with sync_playwright() as playwright:
        rules = f"--host-resolver-rules=MAP * {front.address}"
        browser = playwright.chromium.launch(executable_path=chromium, args=[*OPTIONS, rules])
        yield browser
        browser.close()


def open_page(context, url: str):
    """The page, and everything it complained of while it loaded."""
    page, complaints = context.new_page(), []
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.on("response", lambda r: complaints.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    page.on("requestfailed", lambda r: complaints.append(f"{r.failure} {r.url}"))
    page.goto(url, wait_until="networkidle", timeout=45_000)
    return page, complaints


def test_the_front_page_loads_whole(browser, sites):
    for site in sites:
        context = browser.new_context()
        page, complaints = open_page(context, f"https://{site['domains'][0]}/")
        assert not complaints, complaints
        widths = page.eval_on_selector_all("main img", "images => images.map(i => i.naturalWidth)")
        assert widths and all(widths), f"pictures that did not load: {widths}"
        assert page.evaluate("document.styleSheets.length") >= 1
        context.close()


def test_nagios_and_munin_load_with_the_password(browser, lab, settings):
    password = lab.secrets()["vault_monitor_password"]
    context = browser.new_context(http_credentials={"username": "admin", "password": password})
    for path in ("/", "/nagios4/", "/munin/"):
        page, complaints = open_page(context, f"https://{settings['monitor_domain']}{path}")
        assert not complaints, f"{path}: {complaints}"
        assert page.title(), path
    context.close()
