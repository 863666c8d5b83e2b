"""The web tier: every host runs every site's wanted release, and says so."""

from __future__ import annotations

import json
import shlex
import time
import uuid

import pytest
import yaml
from conftest import ENV, ROOT, hosts_of

WEB = hosts_of("web")


def sites() -> list[str]:
    text = (ROOT / "inventories" / ENV / "group_vars/all/sites.yml").read_text()
    return list(yaml.safe_load(text)["sites"])


def environment(host, site: str) -> dict[str, str]:
    """What a program of the site finds in its environment."""
    said = host.run(f"/usr/local/lib/trestle/site-run {site} current env -0")
    assert said.rc == 0, said.stderr
    return dict(pair.split("=", 1) for pair in said.stdout.split("\0") if pair)


def health(host, site: str, path: str) -> tuple[int, dict]:
    bind = environment(host, site)["GUNICORN_BIND"]
    said = host.run(f"curl -s -m 5 -w '\\n%{{http_code}}' http://{bind}/health/{path}")
    assert said.rc == 0, f"{site}: no answer\n{logs(host, site)}"
    body, code = said.stdout.rsplit("\n", 1)
    return int(code), json.loads(body)


def logs(host, site: str) -> str:
    return host.run(f"supervisorctl status; journalctl --no-pager --lines=30 --identifier={site}-gunicorn").stdout


@pytest.fixture(params=sites())
def site(request) -> str:
    return request.param


def test_every_host_is_ready_on_the_same_release(host, site):
    releases = {}
    for name in WEB:
        code, answer = health(host(name), site, "ready")
        assert (code, answer["ready"], answer["site"], answer["host"]) == (200, True, site, name), answer
        releases[name] = answer["release"]
    assert len(set(releases.values())) == 1, releases


def test_what_a_process_that_was_killed_left_in_tmp_goes_after_a_day(host, site):
    """A day is a second here, since systemd-tmpfiles goes by times that nobody can set back."""
    web = host(WEB[0])
    left, copy = f"/srv/{site}/tmp/left.upload.png", f"/srv/{site}/uploads/left.png"
    rule = f"sed -n 's,^\\(d /srv/{site}/.*\\) 1d$,\\1 1s,p' /etc/tmpfiles.d/trestle-sites.conf"
    try:
        web.check_output(f"touch {left} {copy} && sleep 2 && {rule} | systemd-tmpfiles --clean -")
        assert not web.file(left).exists and web.file(copy).exists
    finally:
        web.run(f"rm -f {left} {copy}")
    assert web.run("systemctl is-active systemd-tmpfiles-clean.timer").rc == 0


@pytest.mark.parametrize("name", WEB)
def test_gunicorn_runs_threads_in_the_wanted_number_of_workers(host, name, site):
    web = host(name)
    wanted = environment(web, site)
    said = web.run(f"supervisorctl pid {site}:{site}-gunicorn")
    assert said.rc == 0 and said.stdout.strip() != "0", logs(web, site)
    master = said.stdout.strip()
    assert web.check_output("ps -o user= -p %s", master).strip() != "root"
    deadline = time.monotonic() + 10
    while True:
        # A worker is started over when it dies: look for the number, not for these processes.
        workers = web.run(f"pgrep -c -P {master}").stdout.strip()
        if workers == wanted["GUNICORN_WORKERS"] or time.monotonic() > deadline:
            break
        time.sleep(1)
    assert workers == wanted["GUNICORN_WORKERS"], logs(web, site)


@pytest.mark.parametrize("name", WEB)
def test_a_worker_that_dies_is_replaced_by_the_same_release(host, name):
    web, site = host(name), sites()[0]
    before = health(web, site, "live")[1]
    # The monitor asks too.
    del before["requests"]
    master = web.check_output(f"supervisorctl pid {site}:{site}-gunicorn").strip()
    victim = web.check_output(f"pgrep -P {master} | head -n 1").strip()
    web.check_output(f"kill -KILL {victim}")
    time.sleep(2)
    workers = web.check_output(f"pgrep -P {master}").split()
    assert victim not in workers and str(len(workers)) == environment(web, site)["GUNICORN_WORKERS"], logs(web, site)
    assert before.items() <= health(web, site, "live")[1].items()


def test_a_drained_host_says_so_and_keeps_serving(host, site):
    web = host(WEB[-1])
    web.check_output("touch /var/lib/trestle/drain/manual")
    try:
        code, answer = health(web, site, "ready")
        assert (code, answer["ready"], answer["reasons"]) == (503, False, ["drained"])
        assert health(web, site, "live")[0] == 200
    finally:
        web.check_output("rm /var/lib/trestle/drain/manual")
    assert health(web, site, "ready")[0] == 200


# What a project has done when its processes end: how many objects are left out of the last look for garbage.
LAST_WORDS = """
import atexit, gc, sys
from wsgiref.simple_server import demo_app
atexit.register(lambda: print(gc.get_freeze_count(), file=sys.stderr, flush=True))
"""
# A gunicorn of its own with the sites' configuration, whose only connection is kept open; how long it takes to stop.
STOP = """
import http.client, os, signal, subprocess, sys, time
settings = {"BIND": "127.0.0.1:7999", "WORKERS": "1", "THREADS": "2", "TIMEOUT": "30"}
environment = os.environ | {f"GUNICORN_{name}": value for name, value in settings.items()} | {"TRESTLE_SITE": "test"}
command = [sys.argv[1], "-c", "/usr/local/lib/trestle/gunicorn.conf.py", "last_words:demo_app"]
server = subprocess.Popen(command, env=environment, cwd=sys.argv[2])
try:
    for attempt in range(100):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", 7999)
            connection.request("GET", "/")
            break
        except ConnectionRefusedError:
            time.sleep(0.1)
    connection.getresponse().read()
    began = time.monotonic()
    server.terminate()
    server.wait(20)
    print(time.monotonic() - began)
finally:
    server.kill()
"""


@pytest.fixture
def stopped(host, site):
    """stopped(): such a gunicorn, the seconds that it took and what it said."""
    web, folder = host(WEB[-1]), f"/run/trestle-test-{uuid.uuid4().hex[:8]}"
    web.check_output(f"mkdir {folder} && printf %s {shlex.quote(LAST_WORDS)} >{folder}/last_words.py")

    def run() -> tuple[float, str]:
        gunicorn = f"/srv/{site}/current/venv/bin/gunicorn"
        done = web.run(f"/usr/bin/python3 -c {shlex.quote(STOP)} {gunicorn} {folder}")
        return float(done.stdout), done.stderr

    yield run
    web.run(f"rm -r {folder}")


def test_a_drained_host_waits_for_no_connection_on_which_nothing_is_asked(host, site, stopped):
    web = host(WEB[-1])
    if web.run(
        f"/srv/{site}/current/venv/bin/python -c 'from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER'"
    ).rc:
        pytest.skip("this gunicorn waits for none anyway")
    serving, _ = stopped()
    web.check_output("touch /var/lib/trestle/drain/manual")
    try:
        drained, _ = stopped()
    finally:
        web.check_output("rm /var/lib/trestle/drain/manual")
    assert drained < serving / 2, f"{drained:.1f} s, and {serving:.1f} s where visitors are"


def test_processes_that_end_say_their_last_words_and_look_for_no_garbage(stopped):
    _, said = stopped()
    counts = [int(line) for line in said.splitlines() if line.isdigit()]
    assert len(counts) == 2 and all(counts), said


@pytest.mark.parametrize("name", WEB)
def test_a_site_s_secrets_are_its_own(host, name, site):
    """Another user of the host reads neither the environment file nor a process' environment or arguments."""
    web = host(name)
    password = environment(web, site)["DATABASE_URL"].split(":")[2].split("@")[0]
    assert web.run(f"runuser -u nobody -- cat /srv/{site}/etc/environment").rc != 0
    arguments = web.check_output("ps -eo args")
    assert password not in arguments and environment(web, site)["SECRET_KEY"] not in arguments


def test_a_site_s_commands_run_in_its_own_environment(host, site):
    web = host(WEB[0])
    said = web.run(f"site-manage {site} shell -v 0 -c 'from django.conf import settings as s; print(s.ALLOWED_HOSTS)'")
    assert said.rc == 0, said.stderr
    assert environment(web, site)["ALLOWED_HOSTS"].split(",")[0] in said.stdout
