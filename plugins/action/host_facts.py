"""Ask a host for the few facts that Trestle goes by. What they are: ../modules/host_facts.py"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ansible.plugins.action import ActionBase

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from plugins.shell import MARK

# What a login shell may say goes before the first mark. Nothing is sent to the address, which is nobody's (RFC 5737).
# That a host has no way out, no `ip` or no /srv is no failure: what it lacks it has no facts of.
PROBE = f"""test -x /usr/bin/python3 || {{ echo 'There is no /usr/bin/python3.' >&2; exit 1; }}
echo '{MARK}'; . /etc/os-release; echo "$ID $VERSION_ID"
echo '{MARK}'; sed -n 's/^MemTotal: *\\([0-9]*\\) kB$/\\1/p' /proc/meminfo; getconf _NPROCESSORS_ONLN
echo '{MARK}'; ip -json -4 route get 192.0.2.1 2>/dev/null || echo '[]'
echo '{MARK}'; ip -json -4 address || echo '[]'
echo '{MARK}'; df -P -k / /var /srv 2>/dev/null | sed 1d"""


def facts(said: str) -> dict:
    """As ansible.builtin.setup names them."""
    _, system, sizes, way, addresses, mounts = (part.strip() for part in said.split(MARK))
    name, _, version = system.partition(" ")
    memory, processors = sizes.split()
    out = next(iter(json.loads(way)), {})
    found = {"address": out.get("prefsrc"), "interface": out.get("dev"), "gateway": out.get("gateway")}
    # Filesystem, blocks, used, available, capacity, and a folder that may have blanks in its name.
    rows = [line.split(None, 5) for line in mounts.splitlines()]
    return {
        "distribution": name.capitalize(),
        "distribution_version": version,
        "distribution_major_version": version.partition(".")[0],
        "memtotal_mb": int(memory) // 1024,
        "processor_vcpus": int(processors),
        "default_ipv4": {key: value for key, value in found.items() if value},
        "all_ipv4_addresses": [
            address["local"]
            for interface in json.loads(addresses)
            for address in interface.get("addr_info", [])
            if address.get("scope") != "host"
        ],
        "mounts": [{"mount": row[5], "size_available": int(row[3]) * 1024} for row in rows],
    }


class ActionModule(ActionBase):
    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        done = self._low_level_execute_command(PROBE, sudoable=False)
        if done["rc"]:
            return {"failed": True, "msg": f"{done['stderr']}{done['stdout']}".strip()}
        found = facts(done["stdout"])
        return {"changed": False, "ansible_facts": {f"ansible_{key}": value for key, value in found.items()}}
