# Ansible managed: role postgresql
"""This host's Patroni, for the programs beside it."""

import json
import urllib.request
from base64 import b64encode
from pathlib import Path

import yaml

CONFIGURATION = "/etc/patroni/config.yml"
PATIENCE_SECONDS = 5


def settings_of(path: str) -> dict:
    return yaml.safe_load(Path(path).read_text())


def wake(restapi: dict) -> None:
    """It goes through its loop at once.

    patronictl has no command for that; a PATCH of the cluster's settings that changes none of them wakes Patroni too.
    """
    login = restapi["authentication"]
    token = b64encode(f"{login['username']}:{login['password']}".encode()).decode()
    request = urllib.request.Request(
        f"http://{restapi['connect_address']}/config",
        # To remove a setting that is not there.
        data=json.dumps({"patroni_wake": None}).encode(),
        headers={"Authorization": f"Basic {token}", "Content-Type": "application/json"},
        method="PATCH",
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS):
        pass
