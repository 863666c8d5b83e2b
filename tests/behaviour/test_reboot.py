"""Every host comes back by itself."""

from __future__ import annotations

import time

import requests

from lab import redundancy
from lab.status import inactive

SECONDS = 150


def test_every_host_comes_back_by_itself_after_a_reboot(lab, front, settings):
    """All at once, as after a power cut: no order helps, and nobody logs in. Whole again is every host in its place."""
    found = lab.containers()
    for container in found.values():
        container.kill()
    for container in found.values():
        container.start()
    url = f"https://{next(iter(settings['sites'].values()))['domains'][0]}/"
    deadline = time.monotonic() + SECONDS
    while True:
        answer, missing = page(front, url), redundancy.missing(lab)
        if not missing and answer == "200":
            return
        assert time.monotonic() < deadline, f"{url}: {answer}; after {SECONDS} s: {missing}\n{journal(lab)}"
        time.sleep(2)


def page(front, url: str) -> str:
    try:
        return str(front.session().get(url, timeout=5).status_code)
    except requests.RequestException as error:
        return error.__class__.__name__


def journal(lab) -> str:
    found = lab.containers()
    down = {name: bad for name, c in found.items() if (bad := inactive(c, lab.table_tiers(found, name)))}
    return "\n".join(
        found[name].exec_run(["journalctl", "-n", "15", "-u", units[0]]).output.decode() for name, units in down.items()
    )
