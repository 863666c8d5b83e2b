"""A host that is down: nothing changes on the others, and the run says so at the end."""

import importlib.util
import os
import sys
from types import SimpleNamespace

import pytest
from ansible.executor.stats import AggregateStats
from environments import ROLES, ROOT, Environment, environment, rendered


def load(path: str):
    spec = importlib.util.spec_from_file_location(path.rpartition("/")[2].removesuffix(".py"), ROOT / path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


hosts_down = load("plugins/callback/trestle_hosts_down.py")
this_deploy = load("roles/gunicorn/filter_plugins/deploys.py").this_deploy


@pytest.fixture(scope="module")
def with_one_of_each_tier_down():
    os.chdir(ROOT)
    return Environment("production", down=("lb2", "web3", "db1", "cache2", "media2", "monitor1"))


@pytest.mark.parametrize("role", ROLES)
def test_the_files_of_the_others_stay_as_they_are(with_one_of_each_tier_down, role):
    down = with_one_of_each_tier_down.value("web1", "hosts_down")
    before = {str(file): file.text for file in rendered("production", role) if file.host not in down}
    after = {str(file): file.text for file in with_one_of_each_tier_down.render(role, but=down)}
    assert after == before


def test_what_is_remembered_of_a_host_that_is_down_is_handed_on(with_one_of_each_tier_down):
    known = environment("production").value("web1", "hosts_remembered")
    assert with_one_of_each_tier_down.value("web1", "hosts_remembered") == known


class Playbook:
    """A playbook of two plays, as far as the callback asks."""

    def __init__(self, name: str):
        self.name = name

    def get_name(self) -> str:
        return self.name

    def get_plays(self) -> list:
        return [Playbook("first"), Playbook("last")]


def end_of_run(dark=(), failures=(), last="last", **task) -> int:
    callback, stats = hosts_down.CallbackModule(), AggregateStats()
    callback.v2_playbook_on_start(Playbook("site"))
    callback.v2_playbook_on_play_start(Playbook(last))
    if task:
        keys = {"run_once": False, "delegate_to": None, "ignore_unreachable": False} | task
        callback.v2_runner_on_unreachable(SimpleNamespace(task=SimpleNamespace(**keys)))
    for host in dark:
        stats.increment("dark", host)
    for host in failures:
        stats.increment("failures", host)
    try:
        callback.v2_playbook_on_stats(stats)
    except SystemExit as end:
        return end.code
    return 0


def test_hosts_that_are_down_have_a_status_of_their_own():
    assert end_of_run() == 0
    assert end_of_run(dark=["web3"]) == end_of_run(dark=["web3", "db2"]) == 3


def test_a_failure_is_not_hidden_by_a_host_that_is_down():
    assert end_of_run(dark=["web3"], failures=["web1"]) == 2


@pytest.mark.parametrize("key", [{"run_once": True}, {"delegate_to": "db1"}])
def test_a_host_that_was_to_act_for_others_is_a_failure(key):
    assert end_of_run(dark=["web1"], **key) == 2
    assert end_of_run(dark=["web1"], ignore_unreachable=True, **key) == 3


def test_a_run_that_was_cut_short_is_a_failure():
    assert end_of_run(dark=["lb2"], last="first") == 2


@pytest.mark.parametrize(
    ("names", "text"), [(["web3"], "web3"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")]
)
def test_the_hosts_are_listed_as_a_person_would(names, text):
    assert hosts_down.listed(names) == text


A, B = ["newsroom=a"], ["newsroom=b"]


@pytest.mark.parametrize(
    ("records", "wanted", "record"),
    [
        ([], A, "1 newsroom=a"),
        (["1 newsroom=a", "1 newsroom=a"], A, "1 newsroom=a"),
        (["1 newsroom=a", "1 newsroom=a"], B, "2 newsroom=b"),
        (["2 newsroom=b", "1 newsroom=a"], B, "2 newsroom=b"),
        (["2 newsroom=b", "1 newsroom=a"], A, "3 newsroom=a"),
        (["9 newsroom=a", "10 newsroom=b"], B, "10 newsroom=b"),
    ],
)
def test_a_deploy_has_a_number_of_its_own(records, wanted, record):
    assert this_deploy(records, wanted) == record
