"""What a roll needs to know of all web hosts, and what it says of one."""

from __future__ import annotations


def this_deploy(records: list[str], wanted: list[str]) -> str:
    """``NUMBER SITE=ID...``: the newest of the hosts' records, with a number more where it holds other releases."""
    number, *releases = max((record.split() for record in records), key=lambda record: int(record[0]), default=["0"])
    return " ".join([str(int(number) + (releases != wanted)), *wanted])


def smoke_tests(sites: list[dict]) -> dict[str, dict]:
    """What a new release of each site must answer, under which name."""
    return {site["name"]: {"host": site["domains"][0], "smoke_paths": site["smoke_paths"]} for site in sites}


def canary(reasons: dict[str, list[str]]) -> str:
    """The host that goes first and is watched; none where some host already runs what is wanted."""
    return next(iter(reasons), "") if all(reasons.values()) else ""


def told_of_a_bad_release(result: dict, host: str, options: list[str]) -> str:
    """What to say of a failed roll: the sentence, and the log lines that tell why; nothing of a good one."""
    if "failed" not in result:
        return ""
    outcome = (
        "it went back to what ran before"
        if result["back"]
        else "it stays drained, since there is nothing before it that runs"
    )
    others = " No other host was touched." if options else ""
    return "\n".join([f"{host}: {result['failed']}: {outcome}.{others}", "The last of its logs:", *result["log"]])


class FilterModule:
    def filters(self):
        return {
            "this_deploy": this_deploy,
            "smoke_tests": smoke_tests,
            "canary": canary,
            "told_of_a_bad_release": told_of_a_bad_release,
        }
