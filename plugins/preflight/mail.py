"""Mail: where it may leave, it has a way out."""

from __future__ import annotations

from collections.abc import Iterator

from plugins.preflight.inventory import Inventory


def check(inventory: Inventory) -> Iterator[str]:
    common = inventory.common
    if common.value("mail_swallow") is False and not common.value("mail_smarthost"):
        yield common.problem(
            "mail_smarthost", "is empty: name the host that mail leaves through, or set mail_swallow: true."
        )
