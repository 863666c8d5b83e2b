"""What runs beside gunicorn, what is told to the journal, and management commands.

The site's program `tidy` has `once` and a memory limit: see inventories/<env>/group_vars/all/sites.yml.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid

import pytest
from conftest import ENV, ROOT, hosts_of
from runs import ansible_playbook
from test_web import environment, sites

WEB = hosts_of("web")
SITE = sites()[0]
ONCE = f"{SITE}-tidy"
DECLARED = f"/srv/{SITE}/configuration/programs.json"
TAKES_OVER_SECONDS = 20


def journal(host, name: str, *options: str) -> str:
    return host.run(f"journalctl --no-pager --output=cat --lines=200 --identifier={name} {' '.join(options)}").stdout


def until(seconds: float, what, wanted=bool):
    """What ``what`` returns, once it is as wanted; the last of it where it never is."""
    deadline = time.monotonic() + seconds
    while not wanted(found := what()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def holders(host) -> list[str]:
    """The hosts on which the program itself runs, not only what waits for its lock."""
    return [name for name in WEB if host(name).run(f"pgrep -u {SITE} -x sleep").rc == 0]


def states(host) -> str:
    """What a person would look at next."""
    said = [(name, host(name).run("supervisorctl status").stdout, journal(host(name), ONCE)) for name in WEB]
    return "\n".join("\n".join(parts) for parts in said)


def test_a_program_with_once_runs_on_one_host_and_another_takes_over(host):
    (first,) = until(TAKES_OVER_SECONDS, lambda: holders(host), lambda found: len(found) == 1)
    waiting = [name for name in WEB if name != first]
    try:
        host(first).check_output(f"supervisorctl stop {SITE}:{ONCE}")
        assert not set(holders(host)) & {first}
        if waiting:
            (second,) = until(TAKES_OVER_SECONDS, lambda: holders(host)) or [None]
            assert second in waiting, states(host)
    finally:
        host(first).run(f"supervisorctl start {SITE}:{ONCE}")
    found = until(TAKES_OVER_SECONDS, lambda: holders(host))
    assert len(found) == 1, states(host)


def test_a_process_above_its_limit_is_replaced_and_the_journal_says_so(host):
    web = host(holders(host)[0])
    before = web.check_output(f"supervisorctl pid {SITE}:{ONCE}").strip()
    web.check_output(f"cp {DECLARED} /run/programs.json && sed -i 's/: 268435456/: 10485760/' {DECLARED}")
    try:
        line = f"memory limit: {SITE} tidy, process {before} uses"
        said = until(15, lambda: journal(web, ONCE, "--priority=warning"), lambda text: line in text)
        assert line in said and "its limit is 10 MB: sent SIGTERM" in said, states(host)
    finally:
        # Not moved: the file keeps its owner and mode.
        web.check_output(f"cat /run/programs.json > {DECLARED} && rm /run/programs.json")
    running = f"supervisorctl status {SITE}:{ONCE}"

    def replaced(status: str) -> bool:
        return "RUNNING" in status and f"pid {before}," not in status

    assert replaced(until(15, lambda: web.run(running).stdout, replaced)), states(host)
    # It may have read the changed file.
    web.check_output(f"supervisorctl restart {SITE}:{ONCE}")
    roll = web.run(f"/usr/local/lib/trestle/site-roll status {SITE}").stdout
    assert roll == "", "a program that was replaced is no reason to roll"


def test_a_program_that_does_not_run_is_a_reason_to_roll(host):
    web = host(WEB[-1])
    web.check_output(f"supervisorctl stop {SITE}:{ONCE}")
    try:
        said = web.check_output(f"/usr/local/lib/trestle/site-roll status {SITE}")
        assert said.strip() == f"{SITE}: {ONCE} is STOPPED, not RUNNING"
    finally:
        web.check_output(f"supervisorctl start {SITE}:{ONCE}")
    assert web.run(f"/usr/local/lib/trestle/site-roll status {SITE}").stdout == ""


def test_what_the_project_says_of_a_request_is_in_the_journal(host):
    web, path = host(WEB[0]), f"/{uuid.uuid4().hex}/"
    values = environment(web, SITE)
    name = values["ALLOWED_HOSTS"].split(",")[0]
    request = f"curl -s -o /dev/null -w '%{{http_code}}' -H 'Host: {name}' -H 'X-Forwarded-Proto: https'"
    assert web.check_output(f"{request} http://{values['GUNICORN_BIND']}{path}") == "404"
    said = until(5, lambda: journal(web, f"{SITE}-gunicorn"), lambda text: path in text)
    assert path in said, said[-2000:]


def test_gunicorn_s_errors_have_the_priority_of_errors(host):
    web = host(WEB[0])
    master = web.check_output(f"supervisorctl pid {SITE}:{SITE}-gunicorn").strip()
    victim = web.check_output(f"pgrep -P {master} | head -n 1").strip()
    web.check_output(f"kill -KILL {victim}")
    said = until(10, lambda: journal(web, f"{SITE}-gunicorn", "--priority=err"), lambda text: victim in text)
    assert victim in said, journal(web, f"{SITE}-gunicorn")
    assert "Booting worker" not in said


def manage(*options: str) -> subprocess.CompletedProcess:
    return ansible_playbook(ENV, "playbooks/manage.yml", *options)


def test_a_management_command_runs_once_and_shows_what_it_says():
    done = manage("-e", f"site={SITE}", "-e", "command='showmigrations stories'")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("[X] 0001_initial") == 1, done.stdout


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["-e", f"site={SITE}", "-e", "command=bogus"], f"site-manage {SITE} bogus ended with status 1 on "),
        (["-e", "site=nope", "-e", "command=check"], f'there is no site "nope": say -e site={SITE}'),
    ],
)
def test_a_management_command_that_fails_says_why(options, sentence):
    done = manage(*options)
    assert done.returncode == 2 and sentence in done.stdout, done.stdout


def test_make_manage_ends_with_the_command_s_status():
    """Without a terminal, as here, too; SSH and sudo are what a person would use."""
    program = [sys.executable, "-m", "tools.manage"]
    settings = {"ENV": ENV, "LAB": "1", "SITE": SITE}
    for command, status, text in (("shell -v 0 -c 'print(6 * 7)'", 0, "42"), ("shell -v 0 -c 'exit(3)'", 3, "")):
        environment = os.environ | settings | {"COMMAND": command}
        done = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout.strip()) == (status, text), done.stderr
