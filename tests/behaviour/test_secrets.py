"""No secret is where somebody could read it: each value is searched for, and no failure shows one."""

from __future__ import annotations

import base64
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import ROOT, TIERS, hosts_of
from runs import DOWN_STATUS
from trestle import complete_sites, derived_secret

# What a program leaves behind, and what anyone writes; the rest comes from Debian's packages.
FOLDERS = "/boot /dev/shm /etc /home /opt /root /run /srv /tmp /usr/local /var"
# The names of the files that hold a pattern of standard input, read as another user.
SEARCH = (
    f"runuser -u {{user}} -- grep -alrsF --devices=skip --exclude='*_dists_*' -f - {FOLDERS} "
    "$(echo /proc/[0-9]*/cmdline /proc/[0-9]*/environ)"
)


def line_of(pem: str) -> str:
    """A line of a private key that is in no other."""
    return pem.splitlines()[2 if len(pem.splitlines()) > 4 else 1]


def basic(user: str, password: str) -> str:
    """As HTTP carries them."""
    return base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture(scope="session")
def of_sites(lab, settings) -> dict[str, dict[str, str]]:
    """What each site's own user may read: what a site is given in its environment."""
    values, key = lab.secrets(), lab.secrets()["vault_site_key"]
    shared = {"media upload": values["vault_media_upload_password"]}
    return {
        site["user"]: shared
        | {f"{site['name']} {what}": site[what] for what in ("database_password", "secret_key")}
        | {f"{site['name']} editor": derived_secret(key, site["name"], "editor")}
        for site in complete_sites(settings["sites"], {}, key)
    }


@pytest.fixture(scope="session")
def secrets(lab, host, of_sites) -> dict[str, str]:
    """Every secret of the environment by its name, and what it is turned into on its way."""
    values = lab.secrets()
    known = {
        name: line_of(v) if "PRIVATE KEY" in v else v for name, v in values.items() if "ca_certificate" not in name
    }
    for own in of_sites.values():
        known |= own
    for user, name in (("upload", "media_upload"), ("patroni", "postgresql_patroni"), ("admin", "monitor")):
        known[f"basic {name}"] = basic(user, values[f"vault_{name}_password"])
    for name in hosts_of("lb"):
        key = host(name).run("cat /etc/ssl/trestle/*.key").stdout
        known[f"certificate key of {name}"] = line_of(key)
    assert all(len(value) >= 20 for value in known.values()), "too short to be told from anything else"
    return known


def found_in(text: str, secrets: dict[str, str]) -> list[str]:
    return [name for name, value in secrets.items() if value in text]


def patterns(secrets: dict[str, str]) -> bytes:
    return "".join(f"{value}\n" for value in secrets.values()).encode()


def grep(lab, name: str, command: str, secrets: dict[str, str]) -> list[str]:
    """The lines of a command on a host that gets the values through its standard input."""
    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
    address = f"root@{lab.address(lab.containers()[name])}"
    full = ["ssh", *options, "-i", str(lab.key), address, command]
    done = subprocess.run(full, input=patterns(secrets), capture_output=True, timeout=300)
    assert done.returncode in (0, 1, 2, 123), done.stderr.decode(errors="replace")
    return done.stdout.decode(errors="replace").splitlines()


def everywhere(search) -> dict[str, list[str]]:
    """What a search finds on each host, where it finds something."""
    with ThreadPoolExecutor(4) as pool:
        return {name: found for name, found in zip(TIERS, pool.map(search, TIERS), strict=True) if found}


def test_the_search_finds_what_is_there(lab, secrets):
    """Root's own files hold them: a search that finds nothing there would find nothing anywhere."""
    name = hosts_of("db")[0]
    for user in ("root", "postgres"):
        found = grep(lab, name, SEARCH.format(user=user), secrets)
        assert "/etc/patroni/config.yml" in found, user


def test_git_tracks_none(secrets):
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    paths = [ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file()]
    assert not {str(p.relative_to(ROOT)): f for p in paths if (f := found_in(p.read_bytes().decode("latin1"), secrets))}


def test_ansible_shows_none(replacement, secrets):
    lines = replacement.output.splitlines()
    task, shown = "", {}
    for line in lines:
        task = line if line.startswith("TASK [") else task
        for name in found_in(line, secrets):
            shown.setdefault(name, task)
    assert replacement.code == DOWN_STATUS and len(lines) > 1000
    assert not shown


def test_no_list_of_processes_shows_one(replacement, secrets):
    text = b"\n".join(replacement.command_lines).decode("latin1")
    assert "/usr/sbin/sshd" in text and "apt-get" in text, "the run was not seen"
    found = found_in(text, secrets)
    assert not found


def test_no_log_holds_one(lab, secrets):
    # Not the lines, which would show it.
    journal = "bash -c 'grep -acF -f - <(journalctl --output=export --all --no-pager)'"

    def logged(name: str) -> list[str]:
        lines = [f"{line} lines of the journal" for line in grep(lab, name, journal, secrets) if line != "0"]
        return lines + grep(lab, name, "grep -alrF -f - /var/log", secrets)

    assert not everywhere(logged)


def test_nothing_is_left_in_temporary_folders(lab, secrets):
    command = "grep -alrsF --devices=skip -f - /tmp /var/tmp /root/.ansible"
    assert not everywhere(lambda name: grep(lab, name, command, secrets))


def test_the_controller_keeps_none_but_the_lab_s_own(secrets):
    temporary = [str(path) for path in Path(tempfile.gettempdir()).glob("*ansible*")]
    folders = [str(Path.home() / ".ansible"), str(ROOT / ".ansible"), str(ROOT / ".cache"), *temporary]
    command = ["grep", "-alrsF", "--devices=skip", "-f", "-", *folders]
    found = subprocess.run(command, input=patterns(secrets), capture_output=True).stdout.decode()
    assert not found


@pytest.mark.parametrize("user", ["nobody", "www-data"])
def test_another_user_of_a_host_reads_none(lab, secrets, user):
    # Of nginx it is the user that checks the passwords of the media hosts and of the monitor.
    assert not everywhere(lambda name: grep(lab, name, SEARCH.format(user=user), secrets))


def test_a_site_s_user_reads_its_own_alone(lab, secrets, of_sites):
    for user, own in of_sites.items():
        others = {name: value for name, value in secrets.items() if value not in own.values()}

        command = f"id {user} >/dev/null 2>&1 && {SEARCH.format(user=user)}"
        found = everywhere(lambda name, c=command, o=others: grep(lab, name, c, o))
        assert not found, f"{user}: {found}"
