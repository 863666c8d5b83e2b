"""What the lab's overlay makes of the remains of an earlier lab."""

from __future__ import annotations

import pytest

from lab import containers


@pytest.mark.parametrize(
    ("network", "hosts", "secrets", "whole"),
    [
        (True, ["web1", "web2"], True, True),
        (True, ["web1", "web2", "gone"], True, True),
        (True, ["web1"], True, False),  # a run was cut short
        (True, [], True, False),  # only the network is left
        (True, ["web1", "web2"], False, False),  # made from another checkout
        (False, [], True, False),
    ],
)
def test_a_lab_is_whole_with_its_network_a_container_for_each_host_and_its_secrets(
    network, hosts, secrets, whole, tmp_path, monkeypatch
):
    lab = containers.Lab("production", "test")
    lab.secrets_file = tmp_path / "secrets.yml"
    if secrets:
        lab.secrets_file.touch()
    monkeypatch.setattr(lab, "network", lambda: "a network" if network else None)
    monkeypatch.setattr(lab, "containers", lambda: dict.fromkeys(hosts))
    assert lab.whole(["web1", "web2"]) is whole
