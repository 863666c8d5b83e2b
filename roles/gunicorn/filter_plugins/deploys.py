"""What a roll needs to know of all web hosts, and what it says of one."""

from __future__ import annotations

import re

# Of a host that serves nobody yet, or nobody any more: site-roll.
NEW = "host: has run no release yet"
DRAINED = "drain: an earlier roll left this host drained"
# Of a host on which no visitor would try a release.
UNSEEN = "visitors: none come here after a roll either, since it is drained by others or missed a deploy"
# Of a host that was rolled by a run which did not come to its crawl, or whose crawl found something.
NOT_CRAWLED = "no crawl has gone well since the last roll"
# Of a host that was not asked.
NOTHING = {"stdout_lines": []}
IDLE, SERVES, LAST = range(3)


def this_deploy(records: list[str], wanted: list[str]) -> str:
    """``NUMBER SITE=ID...``: the newest of the hosts' records, with a number more where it holds other releases."""
    number, *releases = max((record.split() for record in records), key=lambda record: int(record[0]), default=["0"])
    return " ".join([str(int(number) + (releases != wanted)), *wanted])


def smoke_tests(sites: list[dict]) -> dict[str, dict]:
    """What a new release of each site must answer, under which name."""
    return {site["name"]: {"host": site["domains"][0], "smoke_paths": site["smoke_paths"]} for site in sites}


def reasons(status: dict) -> list[str]:
    """Why a host is rolled, by what site-roll said; of a host that has no site-roll, nothing is known."""
    return [line for line in status.get("stdout_lines", []) if re.match(r"[^ ]+: ", line)]


def rank(lines: list[str]) -> int:
    """When a host is rolled: those that serve nobody first, since that may mend what is wrong with them, and the others
    wait for them; last those on which no visitor would try a release."""
    if UNSEEN in lines:
        return LAST
    return IDLE if any(line in (NEW, DRAINED) or line.endswith(": does not answer") for line in lines) else SERVES


def canaries(statuses: dict[str, dict]) -> list[str]:
    """The hosts that are watched: the first one that serves, and those that are rolled before it; none where some host
    already runs what is wanted, or none serves yet."""
    told = {host: reasons(status) for host, status in statuses.items() if is_there(status)}
    if not all(told.values()) or all(NEW in lines for lines in told.values()):
        return []
    ranks = {host: rank(lines) for host, lines in told.items()}
    order = sorted(ranks, key=ranks.get)
    serving = [host for host in order if ranks[host] == SERVES]
    return order[: order.index(serving[0]) + 1] if serving else order[:1]


def web_canaries(hosts: list[str], hostvars: dict) -> list[str]:
    """The canaries of a roll; a host that could not be asked takes no part in it."""
    asked = {host: hostvars.get(host, {}).get("__gunicorn_status", {"failed": True}) for host in hosts}
    return canaries({host: status for host, status in asked.items() if "stdout" in status and not status.get("failed")})


def web_roll_order(hosts: list[str], hostvars: dict) -> list[str]:
    """The hosts that follow the canaries, the first one first."""
    watched = web_canaries(hosts, hostvars)
    left = [host for host in hosts if host not in watched]
    return sorted(left, key=lambda host: rank(reasons(hostvars.get(host, {}).get("__gunicorn_status", NOTHING))))


def is_there(status: dict) -> bool:
    """Whether the host has a site-roll; a blank one has none."""
    return not status["stdout"].startswith("skipped")


def is_crawled(hosts: list[str], hostvars: dict) -> bool:
    """Whether a crawl has gone well since the last roll, which may be one of an earlier run."""
    found = [hostvars[host] for host in hosts]
    rolled = [one for one in found if "skipped" not in one.get("__gunicorn_rolled", {"skipped": True})]
    return not rolled and not any(NOT_CRAWLED in one.get("__gunicorn_status", NOTHING)["stdout_lines"] for one in found)


def told_of_a_bad_release(result: dict, host: str, watched: list[str]) -> str:
    """What to say of a failed roll: the sentence, and the log lines that tell why; nothing of a good one."""
    if "failed" not in result:
        return ""
    if not result["changed"]:
        outcome = "nothing was changed there"
    elif result["back"]:
        outcome = "it went back to what ran before"
    else:
        outcome = "it stays drained, since there is nothing before it that runs"
    others = " No other host was touched." if host in watched[:1] else ""
    return "\n".join([f"{host}: {result['failed']}: {outcome}.{others}", "The last of its logs:", *result["log"]])


class FilterModule:
    def filters(self):
        return {
            "this_deploy": this_deploy,
            "smoke_tests": smoke_tests,
            "web_canaries": web_canaries,
            "web_roll_order": web_roll_order,
            "reasons": reasons,
            "is_there": is_there,
            "is_crawled": is_crawled,
            "told_of_a_bad_release": told_of_a_bad_release,
        }
