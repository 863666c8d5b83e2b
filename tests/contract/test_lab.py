"""What the lab makes of the remains of an earlier lab, and of hosts that are away."""

from __future__ import annotations

from types import SimpleNamespace
from unittest.mock import Mock, call

import docker
import pytest

from lab import containers


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A lab of no containers yet: ``make`` gives it one."""
    lab, found = containers.Lab("production", "test"), {}
    lab.public_key = tmp_path / "id_ed25519.pub"
    lab.public_key.write_text("our key\n")
    lab.secrets_file = tmp_path / "secrets.yml"
    lab.secrets_file.touch()

    def make(name: str, key: str = "our key", status: str = "running") -> Mock:
        found[name] = Mock(status=status, labels={containers.KEY_LABEL: key})
        return found[name]

    lab.make = make
    monkeypatch.setattr(lab, "containers", lambda: found)
    return lab


@pytest.mark.parametrize(
    ("network", "hosts", "key", "whole"),
    [
        (True, ["web1", "web2"], "our key", True),
        (True, ["web1", "web2", "gone"], "our key", True),
        (True, ["web1"], "our key", False),  # a run was cut short
        (True, [], "our key", False),  # only the network is left
        (True, ["web1", "web2"], "another", False),  # made from another checkout
        (False, [], "our key", False),
    ],
)
def test_a_lab_is_whole_with_its_network_and_a_container_of_this_checkout_for_each_host(
    lab, network, hosts, key, whole, monkeypatch
):
    monkeypatch.setattr(lab, "network", lambda: "a network" if network else None)
    for host in hosts:
        lab.make(host, key)
    assert lab.whole(["web1", "web2"]) is whole


@pytest.mark.parametrize("lost", ["public_key", "secrets_file"])
def test_a_lab_without_its_key_or_its_secrets_is_not_whole(lab, lost, monkeypatch):
    monkeypatch.setattr(lab, "network", lambda: "a network")
    lab.make("web1")
    assert lab.whole(["web1"])
    getattr(lab, lost).unlink()
    assert not lab.whole(["web1"])


@pytest.mark.parametrize(
    ("name", "key", "status", "removed"),
    [
        ("web1", "our key", "running", False),
        ("web1", "our key", "exited", False),
        ("web1", "our key", "paused", False),
        # The engine was stopped while it removed it, and starts it no more.
        ("web1", "our key", "dead", True),
        ("web1", "our key", "removing", True),
        # Another checkout has made it: with this one's key nobody gets in.
        ("web1", "another", "running", True),
        ("gone", "our key", "running", True),
    ],
)
def test_what_is_left_of_earlier_labs_is_removed_where_it_is_of_no_use(lab, name, key, status, removed):
    container = lab.make(name, key, status)
    lab._remove_remains(["web1", "web2"], Mock())
    assert container.remove.called is removed


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


@pytest.mark.parametrize("refusals", [0, 1, containers.FREEZE_ATTEMPTS])
def test_a_host_that_the_engine_cannot_freeze_at_once_is_frozen_all_the_same(refusals):
    refused = docker.errors.APIError("500 Server Error", explanation="unable to freeze")
    host = Mock()
    host.configure_mock(name="web1", **{"pause.side_effect": [refused] * refusals + [None]})
    if refusals < containers.FREEZE_ATTEMPTS:
        containers.Lab.freeze(host)
    else:
        with pytest.raises(containers.LabError, match=r"^web1 cannot be frozen: unable to freeze$"):
            containers.Lab.freeze(host)
    assert host.pause.call_count == min(refusals + 1, containers.FREEZE_ATTEMPTS)
