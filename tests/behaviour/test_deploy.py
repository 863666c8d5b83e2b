"""The drill in short (tests/drills): a good deploy, a bad one and the way back, and no visitor notices any of it."""

from __future__ import annotations

import contextlib

import pytest
from conftest import ENV, hosts_of

from tests.drills.deploy import Drill, Step
from tests.drills.load import MIX

RATE = 20
BAD = "ready, then 500s"
# Only the drill's own releases have slow pages.
USUAL = {kind: share for kind, share in MIX.items() if kind != "slow"}
WEB = hosts_of("web")
# Nobody would try the bad release on a host that an engineer has drained; it takes two others.
CANARY = WEB[1] if len(WEB) > 2 else WEB[0]

pytestmark = pytest.mark.skipif(len(WEB) < 2, reason="one web host cannot be rolled unnoticed")


@contextlib.contextmanager
def drained_by_hand(lab, name: str):
    flag, container = "/var/lib/trestle/drain/manual", lab.containers()[name]
    container.exec_run(["touch", flag])
    try:
        yield
    finally:
        container.exec_run(["rm", flag])


@pytest.fixture(scope="module")
def drilled(lab, tmp_path_factory) -> dict[str, dict]:
    """What became of each operation, and of the round of visitors as a whole."""
    folder = tmp_path_factory.mktemp("drill")
    drill = Drill(lab, folder, RATE)
    good, bad = (
        ("-e", f"@{drill.versions.write_sites(ENV, folder)}", "-e", "site=newsroom", "-e", f"release_version={tag}")
        for tag in (drill.versions.good(1), drill.versions.bad(BAD))
    )
    drill.begin(USUAL)
    found = {}
    try:
        found["good"] = drill.take(Step("deploy", "a good release", "", good))
        with drained_by_hand(lab, WEB[0]) if WEB[0] != CANARY else contextlib.nullcontext():
            # Though all of them may be rolled at once.
            found["bad"] = drill.take(Step("bad", BAD, "", (*bad, "-e", f"rolling_batch={len(WEB)}")))
    finally:
        # The tests that follow know the environment's own release.
        found["back"] = drill.take(Step("deploy", "the environment's own", "", ()))
        found["visitors"] = drill.end()
    return found


def said(done: dict) -> str:
    """What a person would ask for next."""
    return f"{done['problems']}\n{done['failures']}\n{done['events']}\n{done['sentence']}"


def test_a_good_release_goes_to_every_host_and_no_request_fails(drilled):
    for done in (drilled["good"], drilled["back"]):
        assert done["problems"] == [], said(done)
        assert done["touched"] == WEB and done["requests"] > RATE


def test_a_bad_release_touches_the_canary_alone_and_is_gone_within_seconds(drilled):
    done = drilled["bad"]
    assert done["problems"] == [], said(done)
    assert done["touched"] == [CANARY] and done["back"] < 10
    # That it names what was bad is one of the problems.
    assert CANARY in done["sentence"], done["sentence"]


def test_every_visitor_was_served_and_every_story_is_there_once(drilled):
    visitors = drilled["visitors"]
    assert visitors["requests"] > 0 and visitors["failed"] == 0, visitors
    assert visitors["writes"] > 0 and visitors["uploads"] > 0, visitors
    assert visitors["compared"] and not (visitors["lost"] or visitors["twice"] or visitors["uploads_wrong"]), visitors
