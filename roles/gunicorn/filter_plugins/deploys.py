"""The number of a deploy, by which the load balancers know a host that missed it."""

from __future__ import annotations


def this_deploy(records: list[str], wanted: list[str]) -> str:
    """``NUMBER SITE=ID...``: the newest of the hosts' records, with a number more where it holds other releases."""
    number, *releases = max((record.split() for record in records), key=lambda record: int(record[0]), default=["0"])
    return " ".join([str(int(number) + (releases != wanted)), *wanted])


class FilterModule:
    def filters(self):
        return {"this_deploy": this_deploy}
