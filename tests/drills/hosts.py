"""What the hosts of the lab say of themselves: what runs, what was rolled, and what is stored."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab.containers import Lab, LabError
from tests import offers

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "plugins/filter"))

from trestle import derived_secret, site_port

__all__ = ["Hosts", "derived_secret"]

# The end of a traceback.
ERROR = re.compile(r"[\w.]+(Error|Exception|Warning|Timeout|Refused|Exit)\b")


class Hosts:
    """The lab's web hosts and databases, as far as one site is concerned."""

    def __init__(self, lab: Lab, site: str):
        self.site, self.lab = site, lab
        self.all = found = lab.containers()
        self.web = {name: found[name] for name in sorted(found) if "web" in lab.tiers(found[name])}
        self.databases = [container for container in found.values() if "db" in lab.tiers(container)]
        self.media = {name: container for name, container in found.items() if "media" in lab.tiers(container)}
        self.balancers = [container for container in found.values() if "lb" in lab.tiers(container)]

    @staticmethod
    def run(container, *command: str) -> str:
        return container.exec_run(list(command), demux=True).output[0] or b""

    @staticmethod
    def of_each(containers: dict, ask) -> dict:
        with ThreadPoolExecutor(8) as pool:
            return dict(zip(containers, pool.map(ask, containers.values()), strict=True))

    def of_web(self, ask) -> dict:
        return self.of_each(self.web, ask)

    def identities(self) -> dict[str, dict]:
        """Each web host's release and configuration, and the process that runs them."""

        def ask(container) -> dict:
            url = f"http://{self.lab.address(container)}:{site_port(self.site)}/health/live"
            said = self.run(container, "curl", "-s", "-m", "5", url)
            try:
                live = json.loads(said)
            except ValueError:
                live = {}
            pid = self.run(container, "supervisorctl", "pid", f"{self.site}:{self.site}-gunicorn").decode().strip()
            return {"release": live.get("release"), "digest": live.get("digest"), "pid": pid}

        return self.of_web(ask)

    def journal(self, since: float) -> list[dict]:
        """What site-roll has said on every web host since then, in order."""

        def ask(container) -> list[dict]:
            since_then = f"--since=@{since:.0f}"
            lines = self.run(container, "journalctl", "--no-pager", "-t", "site-roll", "-o", "json", since_then)
            return [json.loads(line) for line in lines.splitlines() if line.startswith(b"{")]

        events = [
            {"host": host, "at": int(line["__REALTIME_TIMESTAMP"]) / 1e6, "what": line["MESSAGE"]}
            for host, lines in self.of_web(ask).items()
            for line in lines
        ]
        return sorted((event for event in events if event["at"] >= since), key=lambda event: event["at"])

    def last_error(self, host: str, since: float, until: float) -> str:
        """What the site wrote last of an error on that web host, within whole seconds; empty where it wrote of none."""
        times = [f"--since=@{int(since)}", f"--until=@{int(until) + 1}"]
        command = ["journalctl", "--no-pager", "-o", "cat", "-t", f"{self.site}-gunicorn", *times]
        lines = self.run(self.web[host], *command).decode(errors="replace").splitlines()
        return next((line for line in reversed(lines) if ERROR.match(line)), "")[:200]

    def asked_again(self, since: float, until: float) -> int:
        """Requests that a load balancer asked of a second web host, so that nobody noticed the first."""
        count = 0
        script = (
            "import re,sys,time\n"
            f"for line in open('/var/log/nginx/access.log', errors='replace'):\n"
            "    if re.search(r'\\d, \\d+\\.\\d+\\.', line):\n"
            "        at = time.mktime(time.strptime(line.split('[')[1][:20], '%d/%b/%Y:%H:%M:%S'))\n"
            f"        print(1) if {since} <= at <= {until} else None\n"
        )
        for container in self.balancers:
            count += len(self.run(container, "python3", "-c", script).split())
        return count

    def packages(self, container) -> list[str]:
        """What makes the host's tiers what they are."""
        tiers = self.lab.table_tiers(self.all, container.labels["trestle.host"])
        return sorted({package for tier in tiers for package in offers.OF_TIER.get(tier, [])})

    def versions(self) -> dict[str, str]:
        """The versions of those packages on every host, a line for each package."""
        return self.of_each(
            self.all, lambda host: self.run(host, "sh", "-c", offers.versions(self.packages(host))).decode()
        )

    def offer(self) -> dict[str, str]:
        """Have each host find a higher version of its tier's own packages; what it will have then."""

        def ask(container) -> None:
            code, said = container.exec_run(["sh", "-c", offers.offer(self.packages(container))])
            if code:
                raise LabError(f"{container.name} cannot be offered a higher version: {said.decode()[-300:]}")

        self.of_each(self.all, ask)
        return {host: text.replace("\n", f"{offers.HIGHER}\n") for host, text in self.versions().items()}

    def withdraw(self) -> None:
        self.of_each(self.all, lambda host: self.run(host, "sh", "-c", offers.WITHDRAW))

    def psql(self, sql: str) -> list[str]:
        """Lines that the leader of the databases answers."""
        command = ["runuser", "-u", "postgres", "--", "psql", "-X", "-qAt", "-d", self.site, "-c"]
        for container in self.databases:
            if self.run(container, *command, "SELECT pg_is_in_recovery()").strip() == b"f":
                return self.run(container, *command, sql).decode().splitlines()
        raise LabError("No database host is the leader.")

    def stored(self, name: str) -> tuple[Counter[str], dict[str, str]]:
        """The stories that the load of that name wrote: how often each is there, and where its picture is."""
        rows = self.psql(f"SELECT headline, picture FROM stories_story WHERE headline LIKE 'drill-{name}-%'")
        pairs = [row.split("|", 1) for row in rows]
        return Counter(token for token, _ in pairs), dict(pairs)

    def held(self, name: str) -> dict[str, dict[str, str]]:
        """The pictures of those stories that each media host holds by itself: path to digest."""
        script = f"cd /srv/media/{self.site}/uploads && find . -name 'drill-{name}-*' -exec sha256sum {{}} +"
        said = self.of_each(self.media, lambda container: self.run(container, "sh", "-c", script).decode())
        rows = {host: [line.split("  ./", 1) for line in text.splitlines()] for host, text in said.items()}
        return {host: {path: digest for digest, path in found} for host, found in rows.items()}

    def forget(self, name: str) -> None:
        self.psql(f"DELETE FROM stories_story WHERE headline LIKE 'drill-{name}-%'")
