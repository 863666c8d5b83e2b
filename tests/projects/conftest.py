"""What the tests of other people's projects share: the behaviour tests' fixtures, and the scenario's own sites."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from forms import TIMEOUT, submit

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "behaviour")]
pytest_plugins = ["behaviour.conftest"]

SCENARIO = HERE.parents[1] / "molecule" / os.environ.get("MOLECULE_SCENARIO_NAME", "projects")
SITES_FILE = SCENARIO / "vars/sites.yml"
SITES: dict[str, dict] = yaml.safe_load(SITES_FILE.read_text())["sites"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A module that is named after a site is of a scenario that has it."""
    named = {item: item.path.stem.removeprefix("test_site_") for item in items}
    items[:] = [item for item in items if named[item] == item.path.stem or named[item] in SITES]


@pytest.fixture(scope="session")
def ansible():
    """ansible("site.yml", "--check"): a playbook against the scenario's sites, and what it said."""

    root = HERE.parents[1]
    program = str(Path(sys.executable).parent / "ansible-playbook")

    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [program, "-i", "dev", "-i", "lab", "-e", f"@{SITES_FILE}", *arguments]
        environment = os.environ | {"ANSIBLE_CONFIG": str(root / "ansible.cfg"), "ANSIBLE_FORCE_COLOR": "false"}
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
        return done

    return run


@pytest.fixture(scope="session")
def url():
    """url("wagtail", "/admin/"): where a page of a site is."""
    return lambda site, path="/": f"https://{SITES[site]['domains'][0]}{path}"


@pytest.fixture(scope="session")
def manage(ansible):
    """manage("wagtail", "migrate --plan"): a management command, run as an engineer would; what it said."""
    return lambda site, command: ansible("playbooks/manage.yml", "-e", json.dumps({"site": site, "command": command}))


@pytest.fixture(scope="session")
def sign_in(front, url, manage):
    """A session of the user that ``create`` makes of the site's environment, unless an earlier run has."""

    def sign_in(site: str, path: str, create: str, **credentials: str):
        session = front.session()
        for attempt in (1, 2):
            form = session.get(url(site, path), timeout=TIMEOUT)
            if submit(session, form, **credentials).url != form.url:
                return session
            if attempt == 1:
                manage(site, create)
        raise AssertionError(f"{site} does not accept {credentials}")

    return sign_in


@pytest.fixture(scope="session")
def from_media(host, lab):
    """from_media("wagtail", "/media/a.png"): the file as the media host itself serves it to the load balancers."""
    address = lab.address(lab.containers()["dev1"])

    def fetch(site: str, path: str) -> bytes:
        said = host("dev1").run(f"set -o pipefail; curl -sSf -m 10 'http://{address}:8081/{site}{path}' | base64")
        assert said.rc == 0, said.stderr + host("dev1").run("tail -n 5 /var/log/nginx/error.log").stdout
        return base64.b64decode(said.stdout)

    return fetch
