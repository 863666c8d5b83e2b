"""The picture of a drill: who answered how much, second by second, and what happened to whom meanwhile."""

from __future__ import annotations

from collections import Counter, defaultdict
from html import escape

WIDTH, LEFT, RIGHT, TOP, PLOT, LANE = 960, 56, 24, 92, 190, 26
COLOURS = {"light": ["#2f6f9f", "#4c9a8a", "#c08a2e", "#b9b4a8"], "dark": ["#6aa9d8", "#74c3b1", "#e0b15c", "#6d6a63"]}
MEDIA = "media hosts"
MOST_BINS = 440
# The classes of the lanes' pieces, and what they mean.
ROLL = {"drained": "out of the pool", "stopped": "not running", "canary": "watched"}
FAULT = {"stopped": "away", "drained": "not yet whole"}


def style(hosts: int) -> str:
    def theme(name: str, ink: str, faint: str, paper: str, amber: str, red: str, blue: str) -> str:
        colours = COLOURS[name]
        rules = [f".h{n}{{fill:{colours[n % 3]}}}" for n in range(hosts)] + [f".media{{fill:{colours[3]}}}"]
        return (
            f"text{{fill:{ink}}}.faint{{fill:{faint}}}.rule{{stroke:{faint};stroke-opacity:.35}}.paper{{fill:{paper}}}"
            f".drained{{fill:{amber}}}.stopped{{fill:{red}}}.canary{{fill:{blue}}}.failed{{fill:{red}}}"
            f".mark{{stroke:{ink};stroke-dasharray:2 3;stroke-opacity:.6}}.track{{fill:{faint};fill-opacity:.15}}"
            + "".join(rules)
        )

    light = theme("light", "#1f2328", "#6e7781", "#ffffff", "#e3a72f", "#cf222e", "#8250df")
    dark = theme("dark", "#e6edf3", "#8b949e", "#0d1117", "#d29922", "#f85149", "#a371f7")
    return (
        "text{font:12px system-ui,sans-serif}.big{font-size:16px;font-weight:600}.end{text-anchor:end}"
        f".middle{{text-anchor:middle}}.name{{font-size:10px}}{light}@media(prefers-color-scheme:dark){{{dark}}}"
    )


def bins(records, began: float, ended: float, width: float) -> list[Counter[str]]:
    """Good answers by host, for each piece of the time."""
    found = [Counter() for _ in range(int((ended - began) / width) + 1)]
    for record in records:
        if began <= record["ended"] < ended and not record.get("error"):
            found[int((record["ended"] - began) / width)][record["host"] or MEDIA] += 1
    return found


def spans(events: list[dict], ended: float) -> dict[str, list[tuple[str, float, float]]]:
    """Each host's (class, from, to): out of the pool, not running, watched."""
    opens = {"drained": "drained", "stopped": "stopped", "canary": "canary"}
    closes = {"canary": "drained", "ready": "stopped", "restored": "drained canary"}
    open_now: dict[str, dict[str, float]] = defaultdict(dict)
    found: dict[str, list[tuple[str, float, float]]] = defaultdict(list)

    def close(host: str, name: str, at: float) -> None:
        if name in open_now[host]:
            found[host].append((name, open_now[host].pop(name), at))

    for event in events:
        host, what = event["host"], event["what"].partition(":")[0]
        for name in closes.get(what, "").split():
            close(host, name, event["at"])
        if what == "back":
            close(host, "canary", event["at"])
            open_now[host]["drained"] = event["at"]
        elif what in opens:
            open_now[host].setdefault(opens[what], event["at"])
    for host in list(open_now):
        for name in list(open_now[host]):
            close(host, name, ended)
    return found


def draw(title: str, subtitle: str, records: list[dict], events: list[dict], began: float, ended: float, hosts) -> str:
    """A roll of the web hosts: a lane for each."""
    found = spans(events, ended)
    marks = [(event["at"], "") for event in events if event["what"] in ("drained", "restored")]
    return chart(
        title, subtitle, records, hosts, {host: found[host] for host in sorted(hosts)}, marks, began, ended, ROLL
    )


def chart(
    title: str,
    subtitle: str,
    records: list[dict],
    hosts,
    lanes: dict[str, list[tuple[str, float, float]]],
    marks: list[tuple[float, str]],
    began: float,
    ended: float,
    legend: dict[str, str],
) -> str:
    """An SVG that is readable on light and dark paper: answers of ``hosts``, and below them what ``lanes`` tell."""
    hosts = sorted(hosts)
    width = max(1.0, (ended - began) / MOST_BINS)
    counts = bins(records, began, ended, width)
    layers = [*((host, f"h{n}") for n, host in enumerate(hosts)), (MEDIA, "media")]
    most = max([sum(piece.values()) / width for piece in counts[:-1]] or [1]) * 1.05 or 1
    bottom, right = TOP + PLOT, WIDTH - RIGHT
    height = bottom + 30 + LANE * len(lanes) + 44

    def x(at: float) -> float:
        return round(LEFT + (at - began) / (ended - began) * (right - LEFT), 1)

    def y(rate: float) -> float:
        return round(bottom - rate / most * PLOT, 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}: {escape(subtitle)}"><style>{style(len(hosts))}</style>',
        f'<rect class="paper" width="{WIDTH}" height="{height}" rx="8"/>',
        f'<text class="big" x="{LEFT}" y="28">{escape(title)}</text>',
        f'<text class="faint" x="{LEFT}" y="48">{escape(subtitle)}</text>',
    ]
    step = next(size for size in (5, 10, 20, 25, 50, 100, 200, 500, 1000, 10**6) if most / size <= 5)
    for rate in range(0, int(most) + 1, step):
        parts.append(f'<line class="rule" x1="{LEFT}" x2="{right}" y1="{y(rate)}" y2="{y(rate)}"/>')
        parts.append(f'<text class="faint end" x="{LEFT - 8}" y="{y(rate) + 4}">{rate}</text>')
    base = [0.0] * len(counts)
    for name, colour in layers:
        tops = [low + piece[name] / width for low, piece in zip(base, counts, strict=True)]
        pieces = list(enumerate(zip(base, tops, strict=True)))[: len(counts) - 1]
        upper = " ".join(
            f"{x(began + n * width)},{y(high)} {x(began + (n + 1) * width)},{y(high)}" for n, (_, high) in pieces
        )
        lower = " ".join(
            f"{x(began + (n + 1) * width)},{y(low)} {x(began + n * width)},{y(low)}" for n, (low, _) in reversed(pieces)
        )
        parts.append(f'<polygon class="{colour}" points="{upper} {lower}"/>')
        base = tops
    for record in records:
        if record.get("error") and began <= record["ended"] <= ended:
            parts.append(f'<rect class="failed" x="{x(record["ended"]) - 1}" y="{TOP - 12}" width="3" height="12"/>')
    parts.append(f'<text class="faint" x="{LEFT}" y="{TOP - 20}">good answers a second</text>')
    at = LEFT + 170
    for name, colour in layers:
        parts.append(f'<rect class="{colour}" x="{at}" y="{TOP - 30}" width="11" height="11" rx="2"/>')
        parts.append(f'<text x="{at + 16}" y="{TOP - 20}">{escape(name)}</text>')
        at += 34 + 7 * len(name)
    parts += drawn(lanes, x, bottom + 30, right)
    for moment, name in marks:
        if began <= moment <= ended:
            line = x(moment)
            parts.append(f'<line class="mark" x1="{line}" x2="{line}" y1="{TOP}" y2="{bottom + 24}"/>')
            if name:
                place = f"translate({line + 11},{bottom - 6}) rotate(-90)"
                parts.append(f'<text class="name" transform="{place}">{escape(name)}</text>')
    tick = next(size for size in (5, 10, 20, 30, 60, 120, 300, 600, 3600) if (ended - began) / size <= 14)
    for second in range(0, int(ended - began) + 1, tick):
        label = f"{second // 60}:{second % 60:02}"
        parts.append(f'<text class="faint middle" x="{x(began + second)}" y="{bottom + 16}">{label}</text>')
    at, low = LEFT, height - 14
    for name, said in (legend | {"failed": "failed"}).items():
        if name == "failed":
            parts.append(f'<rect class="failed" x="{at + 4}" y="{low - 11}" width="3" height="12"/>')
        else:
            parts.append(f'<rect class="{name}" x="{at}" y="{low - 10}" width="11" height="11" rx="2"/>')
        parts.append(f'<text class="faint" x="{at + 16}" y="{low}">{said}</text>')
        at += 46 + 7 * len(said)
    return "\n".join([*parts, "</svg>", ""])


def drawn(lanes: dict[str, list[tuple[str, float, float]]], x, top: float, right: float) -> list[str]:
    """A lane for each name, with (class, from, to)."""
    parts = []
    for number, (name_of_lane, pieces) in enumerate(lanes.items()):
        low = top + number * LANE
        parts.append(f'<rect class="track" x="{LEFT}" y="{low}" width="{right - LEFT}" height="16" rx="3"/>')
        parts.append(f'<text class="end" x="{LEFT - 8}" y="{low + 12}">{escape(name_of_lane)}</text>')
        for name, began, ended in sorted(pieces, key=lambda span: span[0] == "stopped"):
            inset = 5 if name == "stopped" else 0
            size = f'width="{max(2, round(x(ended) - x(began), 1))}" height="{16 - 2 * inset}"'
            parts.append(f'<rect class="{name}" x="{x(began)}" y="{low + inset}" {size} rx="3"/>')
    return parts
