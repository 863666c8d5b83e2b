"""The table of faults: what is hit, how, and for how long writes may fail after it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

# What happens to a host as a whole, and with it to everything that it carries. Loss: of the packets that reach it.
HOST_ACTS = ("kill", "pause", "partition", "loss")
LOSS_PERCENT = 5


@dataclass(frozen=True)
class Fault:
    name: str
    # What the host that is hit is at that moment: see roles().
    role: str
    # One of HOST_ACTS, or a playbook, or a command that is run on the host.
    act: str
    # So many seconds after it a write may fail, or be missed.
    window: float
    # After so many seconds the host is put back.
    hold: float = 0

    @property
    def tier(self) -> str:
        return self.role.partition("-")[0]


def killed(unit: str) -> str:
    return f"systemctl kill --signal=KILL {unit}"


FAULTS = (
    Fault("db-primary-kill", "db-primary", "kill", 12, 40),
    Fault("db-primary-pause", "db-primary", "pause", 12, 40),
    Fault("db-primary-partition", "db-primary", "partition", 12, 40),
    Fault("db-primary-loss", "db-primary", "loss", 0, 60),
    Fault("db-standby-kill", "db-standby", "kill", 5, 15),
    Fault("db-standby-pause", "db-standby", "pause", 10, 15),
    Fault("db-standby-partition", "db-standby", "partition", 10, 15),
    Fault("db-postmaster-kill", "db-primary", "pkill -KILL --oldest --exact postgres", 8),
    Fault("db-patroni-kill", "db-primary", "systemctl kill --kill-whom=main --signal=KILL patroni", 5),
    Fault("db-etcd-kill", "db-primary", killed("etcd"), 5),
    Fault("db-switchover", "db-primary", "playbooks/switchover.yml", 0),
    Fault("lb-holder-kill", "lb-holder", "kill", 2, 10),
    Fault("lb-holder-pause", "lb-holder", "pause", 2, 10),
    Fault("lb-holder-partition", "lb-holder", "partition", 2, 10),
    Fault("lb-holder-loss", "lb-holder", "loss", 0, 30),
    Fault("lb-spare-kill", "lb-spare", "kill", 0, 10),
    Fault("lb-spare-loss", "lb-spare", "loss", 0, 30),
    Fault("lb-nginx-kill", "lb-holder", killed("nginx"), 2),
    Fault("lb-keepalived-kill", "lb-holder", killed("keepalived"), 2),
    Fault("web-kill", "web", "kill", 3, 10),
    Fault("web-pause", "web", "pause", 3, 10),
    Fault("web-partition", "web", "partition", 3, 10),
    Fault("web-loss", "web", "loss", 0, 30),
    Fault("web-gunicorn-kill", "web", "pkill -KILL --full [g]unicorn", 3),
    Fault("web-pgpool-kill", "web", killed("pgpool2"), 3),
    Fault("cache-kill", "cache", "kill", 0, 15),
    Fault("cache-pause", "cache", "pause", 0, 15),
    Fault("cache-memcached-kill", "cache", killed("memcached"), 0),
    Fault("media-kill", "media", "kill", 0, 15),
    Fault("media-pause", "media", "pause", 0, 15),
    Fault("media-partition", "media", "partition", 0, 15),
    Fault("media-nginx-kill", "media", killed("nginx"), 0),
    Fault("monitor-kill", "monitor", "kill", 0, 10),
    Fault("monitor-nagios-kill", "monitor", killed("nagios4"), 0),
)
BY_NAME = {fault.name: fault for fault in FAULTS}
# One of each tier, for the short form.
SHORT = ("db-primary-kill", "lb-holder-kill", "web-pause", "cache-kill", "media-kill", "monitor-kill")


def roles(tiers: list[str], leads: bool, holds: bool) -> set[str]:
    """What a host is at this moment."""
    parts = {"db": ("standby", "primary")[leads], "lb": ("spare", "holder")[holds]}
    return {f"{tier}-{parts[tier]}" if tier in parts else tier for tier in tiers}


def hit(fault: Fault, roles: set[str]) -> set[str]:
    """Of what a host is, what this fault hits: all of it, or what the process belongs to."""
    return roles if fault.act in HOST_ACTS else {fault.role}


def alike(fault: Fault, roles: set[str]) -> list[Fault]:
    """This fault and those that come with it, where a host is more than one thing."""
    return [fault, *(other for other in FAULTS if other.act == fault.act and other.role in hit(fault, roles))]


def deal(seed: int) -> Iterator[tuple[Fault, float]]:
    """Faults without an end, each with its share of the usual time until the host is put back.

    Each hand has one of every tier, in any order; a tier's come round before one of them comes again.
    """
    dice = random.Random(seed)
    tiers = sorted({fault.tier for fault in FAULTS})
    decks: dict[str, list[Fault]] = {tier: [] for tier in tiers}
    while True:
        for tier in dice.sample(tiers, len(tiers)):
            if not decks[tier]:
                decks[tier] = [fault for fault in FAULTS if fault.tier == tier]
                dice.shuffle(decks[tier])
            yield decks[tier].pop(), round(dice.uniform(0.1, 1.5), 2)


def too_few(tiers_of: dict[str, list[str]]) -> list[str]:
    """Tiers that cannot lose a host; monitor may, since no visitor needs it."""
    counts = {tier: sum(tier in tiers for tiers in tiers_of.values()) for tier in ("lb", "web", "db", "cache", "media")}
    return [tier for tier, count in counts.items() if count < (3 if tier == "db" else 2)]
