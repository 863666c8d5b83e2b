"""What may be done with the members of the database tier, given what each one's Patroni says (GET /patroni).

``asked`` is what roles/postgresql/tasks/members.yml registers: an answer for each member, or none.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from plugins.filter.patching import patch_work

# A standby must not have less of these than its primary: a smaller value has to reach the primary first.
PRIMARY_FIRST = {
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_wal_senders",
    "max_worker_processes",
}
MB = 2**20


def _answers(asked: list[dict]) -> dict[str, dict]:
    return {reply["item"]["name"]: reply.get("json") or {} for reply in asked}


def _leads(answer: dict) -> bool:
    return answer.get("state") == "running" and answer.get("role") in ("primary", "master")


def db_leader(asked: list[dict]) -> str:
    """Who leads; nobody where none or several say so."""
    leaders = [name for name, answer in _answers(asked).items() if _leads(answer)]
    return leaders[0] if len(leaders) == 1 else ""


def db_problems(asked: list[dict], lag_mb: int, without: Sequence[str] = ()) -> list[str]:
    """Why members are not in health, a sentence for each; ``without`` is left out."""
    answers, leader = _answers(asked), db_leader(asked)
    if not leader:
        silent = _all([name for name, answer in answers.items() if not answer])
        return [f"Not one of the database hosts leads{f' ({silent}: no answer)' * bool(silent)}: see patronictl list."]
    standbys = [name for name in answers if name not in (leader, *without)]
    found = [_problem(name, answers[name], answers[leader], int(lag_mb)) for name in standbys]
    return [problem for problem in found if problem]


def _problem(name: str, answer: dict, leader: dict, lag_mb: int) -> str:
    if not answer:
        return f"{name} does not answer: mend it first."
    if answer.get("replication_state") != "streaming":
        return f"{name} is {answer.get('state')} as {answer.get('role')}, and does not stream: mend it first."
    if _behind(answer, leader) > lag_mb * MB:
        return f"{name} is {_behind(answer, leader) // MB} MB behind the primary: wait until it has caught up."
    return ""


def _behind(answer: dict, leader: dict) -> int:
    """Bytes of the primary's log that a standby has not replayed."""
    return leader["xlog"]["location"] - (answer["xlog"]["replayed_location"] or 0)


def db_candidates(asked: list[dict], lag_mb: int, candidate: str = "") -> list[str]:
    """Who can be made the primary, the nearest to it first; of them only ``candidate``, if it is named."""
    answers, leader = _answers(asked), db_leader(asked)
    standbys = {name: answers[name] for name in answers if leader and name != leader and candidate in ("", name)}
    sound = {
        n: _behind(a, answers[leader]) for n, a in standbys.items() if not _problem(n, a, answers[leader], int(lag_mb))
    }
    return sorted(sound, key=lambda name: (sound[name], name))


def switchover_problem(asked: list[dict], lag_mb: int, candidate: str) -> str:
    """Why nobody, or not the candidate, can be made the primary."""
    names = sorted(_answers(asked))
    if candidate not in ("", *names):
        return f"candidate={candidate} is no database host: {_all(names)} {'are' if names[1:] else 'is'}."
    if len(names) == 1:
        return f"{names[0]} is the only database host: there is nobody to switch to."
    if (candidate and candidate == db_leader(asked)) or db_candidates(asked, lag_mb, candidate):
        return ""
    problems = db_problems(asked, lag_mb)
    return " ".join([p for p in problems if candidate and p.startswith(f"{candidate} ")] or problems)


def db_waiting(asked: list[dict], name: str) -> list[str]:
    """The settings of a member that wait for a restart."""
    answer = _answers(asked).get(name, {})
    return sorted(answer.get("pending_restart_reason", {})) or ["a setting"] * bool(answer.get("pending_restart"))


def db_primary_first(asked: list[dict], name: str) -> bool:
    """Whether one of them goes down, and must reach the primary before the standbys can take it up."""
    reasons = _answers(asked).get(name, {}).get("pending_restart_reason", {})
    return any(
        int(reason["new_value"]) < int(reason["old_value"])
        for setting, reason in reasons.items()
        if setting in PRIMARY_FIRST
    )


def roll_work(asked: list[dict], name: str, patches: dict[str, str]) -> list[str]:
    """What is to be done with a member, a sentence for each; ``patches``: what patch-status says, by host."""
    waiting = db_waiting(asked, name)
    restart = [f"to restart, since it waits for {', '.join(waiting)}"] if waiting else []
    return restart + (patch_work(patches[name], False) if name in patches else [])


def roll_order(asked: list[dict], patches: dict[str, str]) -> list[str]:
    """The members with something to do: first one that an earlier run left, and the primary last."""
    leader, left = db_leader(asked), _left(patches)
    names = [name for name in _answers(asked) if roll_work(asked, name, patches)]
    return sorted(names, key=lambda name: (name == leader, name not in left, name))


def roll_problems(asked: list[dict], lag_mb: int, patches: dict[str, str]) -> list[str]:
    """Why the tier cannot be rolled; one that an earlier run left is there to be mended."""
    return db_problems(asked, lag_mb, _left(patches))


def _left(patches: dict[str, str]) -> list[str]:
    return [name for name, said in patches.items() if json.loads(said)["flagged"]]


def db_primary_address(cluster: dict) -> str:
    """Where the leader of GET /cluster listens."""
    return next((member["host"] for member in cluster["members"] if member["role"] == "leader"), "")


def _all(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


class FilterModule:
    def filters(self):
        return {
            "db_candidates": db_candidates,
            "db_leader": db_leader,
            "db_problems": db_problems,
            "db_waiting": db_waiting,
            "db_primary_first": db_primary_first,
            "db_primary_address": db_primary_address,
            "roll_order": roll_order,
            "roll_problems": roll_problems,
            "roll_work": roll_work,
            "switchover_problem": switchover_problem,
        }
