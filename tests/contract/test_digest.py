"""What `make test` tells again of a step that failed: the lines that name what failed, and why."""

from __future__ import annotations

from tools import test

SAID = """PLAY [Set up monitoring] ****

TASK [nagios : Have the pages] ****
changed: [web1]
fatal: [monitor1]: FAILED! =>
    changed: false
    msg: Nagios did not answer

TASK [nagios : Another] ****
ok: [monitor1]
tests/behaviour/test_web.py::test_one PASSED
FAILED tests/behaviour/test_web.py::test_two - assert 1 == 2
E   assert 1 == 2
""".splitlines()


def told(said: list[str]) -> list[str]:
    text = test.digest(said)
    return text.partition("--- what failed:\n")[2].partition("\n--- its last lines:")[0].splitlines()


def test_a_failed_task_is_told_with_its_reason_and_a_failed_test_with_what_it_found():
    assert told([*SAID, *["ok: [web1]"] * test.LAST_LINES]) == [
        "fatal: [monitor1]: FAILED! =>",
        "    changed: false",
        "    msg: Nagios did not answer",
        "FAILED tests/behaviour/test_web.py::test_two - assert 1 == 2",
        "E   assert 1 == 2",
    ]


def test_a_reason_without_end_is_cut():
    endless = ["fatal: [web1]: FAILED! =>", *(f"    line {number}" for number in range(100))]
    assert len(told([*endless, "", *["ok"] * test.LAST_LINES])) == test.REASON_LINES
