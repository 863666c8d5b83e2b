"""What the lab makes of the remains of an earlier lab, and of hosts that are away."""

from __future__ import annotations

from types import SimpleNamespace
from unittest.mock import Mock, call

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


@pytest.mark.parametrize("status", ["running", "exited", "created", "paused", "removing", "dead"])
def test_a_container_that_was_being_removed_when_the_engine_was_stopped_is_removed(status, monkeypatch):
    """The engine starts it no more ("container is marked for removal")."""
    lab, found = containers.Lab("production", "test"), {name: Mock(status=status) for name in ("web1", "gone")}
    monkeypatch.setattr(lab, "containers", lambda: found)
    lab._remove_remains(["web1", "web2"], Mock())
    assert found["gone"].remove.called
    assert found["web1"].remove.called is (status in ("removing", "dead"))


@pytest.mark.parametrize(
    ("status", "connected", "done"),
    [
        ("running", True, []),
        ("exited", True, [call.start()]),
        ("created", True, [call.start()]),
        ("paused", True, [call.unpause()]),
        ("running", False, [call.connect("its own address"), call.exec_run(["sh", "-c", containers.OURS_AGAIN])]),
        ("exited", False, [call.connect("its own address"), call.start()]),
    ],
)
def test_a_host_that_is_away_is_put_back_under_its_own_address(status, connected, done, monkeypatch):
    lab, host = containers.Lab("production", "test"), Mock(status=status, labels={"trestle.address": "its own address"})
    host.attrs = {"NetworkSettings": {"Networks": {lab.prefix: {}} if connected else {"bridge": {}}}}
    network = SimpleNamespace(connect=lambda container, ipv4_address: container.connect(ipv4_address))
    monkeypatch.setattr(lab, "network", lambda: network)
    lab.put_back(host)
    assert host.mock_calls[: len(done)] == done
    assert host.mock_calls[len(done) :] in ([], [call.exec_run(["sh", "-c", containers.OURS_AGAIN])])
