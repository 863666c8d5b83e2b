"""`make manage`: a management command with a terminal, on the first web host of ENV that can be reached."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from plugins.filter.trestle import natural  # noqa: E402

USAGE = 'usage: make manage SITE=newsroom COMMAND="createsuperuser" [ENV=production] [LAB=1]'
# What ssh ends with when it is ssh that failed.
UNREACHABLE = 255


def inventory(env_name: str, lab: bool) -> dict:
    folder = ROOT / "inventories" / env_name
    if not folder.is_dir():
        raise SystemExit(f"There is no inventories/{env_name}: name an environment, as in ENV=production.")
    sources = ["-i", str(folder), *(["-i", str(ROOT / "lab")] if lab else [])]
    command = [str(Path(sys.executable).parent / "ansible-inventory"), *sources, "--list"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr.strip().splitlines()[-1])
    # A value from a plugin comes wrapped, since it is no template.
    return json.loads(done.stdout, object_hook=lambda found: found.get("__ansible_unsafe", found))


def ssh(host: str, variables: dict) -> list[str]:
    """The command that reaches a host as Ansible does; what the inventory leaves out is for ssh's own configuration."""
    command = ["ssh", "-o", "ConnectTimeout=5"]
    for option, name in (("-l", "ansible_user"), ("-p", "ansible_port"), ("-i", "ansible_ssh_private_key_file")):
        if value := variables.get(name):
            command += [option, str(value)]
    for name in ("ansible_ssh_common_args", "ansible_ssh_extra_args"):
        command += shlex.split(variables.get(name, ""))
    return [*command, variables.get("ansible_host", host)]


def remote(site: str, command: str, become: bool) -> str:
    """What the host's shell is told."""
    return shlex.join([*(["sudo"] if become else []), "/usr/local/bin/site-manage", site, *shlex.split(command)])


def main() -> None:
    env_name, site, command = (os.environ.get(name, "") for name in ("ENV", "SITE", "COMMAND"))
    if not site or not command:
        raise SystemExit(USAGE)
    found = inventory(env_name, bool(os.environ.get("LAB")))
    hostvars = found["_meta"]["hostvars"]
    hosts = natural(found["web"]["hosts"])
    if site not in hostvars[hosts[0]]["sites"]:
        raise SystemExit(f"inventories/{env_name}/group_vars/all/sites.yml: there is no site '{site}'.")
    for host in hosts:
        reach = ssh(host, hostvars[host])
        if subprocess.run([*reach, "true"]).returncode == UNREACHABLE:
            continue
        print(f"{host}: site-manage {site} {command}", file=sys.stderr)
        # As root, sudo changes nothing; every host has it.
        become = hostvars[host].get("ansible_become", True) is not False
        terminal = ["-t"] if sys.stdin.isatty() else []
        os.execvp("ssh", [reach[0], *terminal, *reach[1:], remote(site, command, become)])
    raise SystemExit(f"None of {', '.join(hosts)} can be reached over SSH.")


if __name__ == "__main__":
    main()
