"""The database tier: one leader, standbys that stream, and a pgpool on each web host that leads to the leader.

TRESTLE_LONG=all moves the primary ten times, kills PostgreSQL and Patroni on its host ten times each, freezes that
host fifty times for a moment, has it lose packets for ten minutes, and rolls the tier.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import re
import shlex
import statistics
import time
import uuid

import pytest
from conftest import ENV, hosts_of, long
from runs import Visitor, ansible_playbook, changes, wait
from test_edge_faults import SITE, visitors

from plugins.filter.trestle import complete_sites
from tests import offers
from tests.drills import strike
from tests.drills.hosts import Hosts
from tests.drills.ledger import read

DB, WEB = hosts_of("db"), hosts_of("web")
# One, on two busy cores; and as a rule.
SWITCHOVER_SECONDS, USUAL_SWITCHOVER_SECONDS, SWITCHOVERS = 8, 3, 5
HEALTH_SECONDS = 90
# Patroni by itself waits two seconds before a standby follows whoever was chosen.
FOLLOW_SECONDS = 2
# Who logs in to pgpool waits while it attaches a standby: not right after the primary has moved.
ATTACH_SECONDS = 2
# So long may a page wait at the load balancers while the primary moves.
HELD_SECONDS = 10
TABLE = "trestle_test"
KILLS = 10
PAUSES, PAUSE_SECONDS = 50, (0.5, 1.5)
LOSS_SECONDS = 600
PACKAGE = "postgresql-17"
PATRONICTL = "patronictl -c /etc/patroni/config.yml"

several = pytest.mark.skipif(len(DB) < 2, reason="one host has nobody to switch to")


@pytest.fixture(scope="module")
def site(settings, lab) -> dict:
    return complete_sites(settings["sites"], {}, lab.secrets()["vault_site_key"])[0]


def journal(host, *units: str) -> str:
    return host.run("journalctl -n 30 --no-pager " + " ".join(f"-u {unit}" for unit in units)).stdout


def ask(host, url: str) -> dict:
    done = host.run(f"python3 -c 'import urllib.request as u; print(u.urlopen(\"{url}\", timeout=5).read().decode())'")
    assert done.rc == 0, done.stderr + journal(host, "patroni", "etcd")
    return json.loads(done.stdout)


def members(host) -> dict[str, dict]:
    """Patroni's members by name, as any one of them lists them."""
    done = host(DB[0]).run(f"{PATRONICTL} list -f json")
    assert done.rc == 0, done.stderr + journal(host(DB[0]), "patroni", "etcd")
    return {member["Member"]: member for member in json.loads(done.stdout)}


def leader(host) -> str:
    leaders = [name for name, member in members(host).items() if member["Role"] == "Leader"]
    assert len(leaders) == 1, members(host)
    return leaders[0]


def psql(host, site: dict, sql: str, password: str | None = None, application: str = "psql"):
    """Through the web host's pgpool, as the site's application would."""
    command = f"psql -X -qAt -v ON_ERROR_STOP=1 -c {shlex.quote(sql)}"
    dsn = f"host=127.0.0.1 user={site['database_user']} dbname={site['database']} connect_timeout=3"
    dsn += f" application_name={application}"
    # The password goes through standard input, and is in no list of processes.
    script = f"read -r PGPASSWORD; export PGPASSWORD; exec timeout 10 {command} {shlex.quote(dsn)}"
    return host.run(f"echo {password or site['database_password']} | bash -c {shlex.quote(script)}")


@pytest.fixture(scope="module")
def table(host, site):
    done = psql(host(WEB[0]), site, f"CREATE TABLE IF NOT EXISTS {TABLE} (word text)")
    assert done.rc == 0, done.stderr + journal(host(WEB[0]), "pgpool2", "pgpool-follower")
    yield TABLE
    assert psql(host(WEB[0]), site, f"DROP TABLE {TABLE}").rc == 0


def postgres(host, database: str, sql: str) -> str:
    """On a database host itself, as its superuser."""
    command = f"runuser -u postgres -- psql -X -qAt -d {database} -c {shlex.quote(sql)}"
    done = host.run(command)
    assert done.rc == 0, done.stderr
    return done.stdout.strip()


def test_one_leads_and_the_others_stream(host):
    state = members(host)
    assert set(state) == set(DB)
    others = set(DB) - {leader(host)}
    assert {state[name]["State"] for name in others} <= {"streaming"}, state
    streaming = postgres(host(leader(host)), "postgres", "SELECT count(*) FROM pg_stat_replication")
    assert int(streaming) == len(others)


def test_no_acknowledged_write_is_held_by_one_host_alone(host):
    names = postgres(host(leader(host)), "postgres", "SHOW synchronous_standby_names")
    assert bool(re.search("ANY 1", names)) == (len(DB) > 1), names


def test_every_pgpool_sees_one_primary_and_the_other_hosts_as_standbys(host):
    for name in WEB:
        done = host(name).run(
            "PCPPASSFILE=/etc/pgpool2/pcppass runuser -u postgres -w PCPPASSFILE -- "
            "pcp_node_info -h /run/pgpool -p 9898 -U pcp -w -a"
        )
        rows = [line.split() for line in done.stdout.splitlines()]
        up = sorted(row[6] for row in rows if row[4] in ("up", "waiting"))
        wanted = ["primary"] + ["standby"] * (len(DB) - 1)
        assert up == wanted, f"{name}: {done.stdout}{done.stderr}{journal(host(name), 'pgpool2', 'pgpool-follower')}"
        check = host(name).run("runuser -u nobody -- /usr/local/lib/nagios/plugins/check_pgpool")
        assert check.rc == 0, check.stdout


def test_a_write_through_every_pgpool_reaches_the_leader_and_a_standby(host, site, table):
    for name in WEB:
        word = uuid.uuid4().hex
        done = psql(host(name), site, f"INSERT INTO {table} VALUES ('{word}')")
        assert done.rc == 0, f"{name}: {done.stderr}{journal(host(name), 'pgpool2', 'pgpool-follower')}"
        query = f"SELECT count(*) FROM {table} WHERE word = '{word}'"
        assert psql(host(name), site, query).stdout.strip() == "1"
        assert postgres(host(leader(host)), site["database"], query) == "1"
        time.sleep(0.5)  # acknowledged is written to disk on a standby; a moment later it can be read there
        standbys = [postgres(host(db), site["database"], query) for db in DB if db != leader(host)]
        assert not standbys or "1" in standbys


@pytest.mark.parametrize("web", WEB)
def test_a_site_reads_from_the_leader_and_its_replica_alias_from_a_standby(host, site, web):
    at = {member["Host"]: name for name, member in members(host).items()}
    read = {}
    for application in (site["name"], f"{site['name']}/replica"):
        done = psql(host(web), site, "SELECT host(inet_server_addr())", application=application)
        assert done.rc == 0, done.stderr + journal(host(web), "pgpool2", "pgpool-follower")
        read[application] = at[done.stdout.strip()]
    first, replica = read.values()
    assert first == leader(host), read
    assert (replica == first) == (len(DB) == 1), read


def test_a_wrong_password_is_refused(host, site):
    for name in WEB:
        assert psql(host(name), site, "SELECT 1").stdout.strip() == "1"
        done = psql(host(name), site, "SELECT 1", password="wrong")
        assert done.rc != 0
        assert "authentication failed" in done.stderr, done.stderr


def test_pgpool_has_room_for_what_it_knows_of_tables(host):
    since_its_start = "_SYSTEMD_INVOCATION_ID=$(systemctl show --property=InvocationID --value pgpool2)"
    for name in WEB:
        assert not host(name).run(f"journalctl --quiet --lines=1 --grep=pool_reuse_block {since_its_start}").stdout


def test_the_database_hosts_refuse_the_superuser_from_a_web_host(host):
    for name in set(WEB) - set(DB):
        for db in DB:
            address = host(db).run("hostname -I").stdout.split()[0]
            done = host(name).run(
                f"PGPASSWORD=x psql -X 'host={address} user=postgres connect_timeout=3' -c 'SELECT 1'"
            )
            assert done.rc != 0
            assert "no pg_hba.conf entry" in done.stderr, done.stderr


def test_etcd_has_every_database_host_for_a_member(host):
    done = host(DB[0]).run("etcdctl member list -w json")
    assert {m.get("name") for m in json.loads(done.stdout)["members"]} == set(DB), done.stdout
    for name in DB:
        address = host(name).run("hostname -I").stdout.split()[0]
        assert ask(host(name), f"http://{address}:2381/health")["health"] == "true"


class Writer:
    """Writes through a web host's pgpool again and again, and notes when each write was acknowledged."""

    def __init__(self, web, site: dict):
        self.web, self.site, self.unit = web, site, f"trestle-writer-{uuid.uuid4().hex[:8]}"
        self.log, self.passwords = f"/run/{self.unit}.log", f"/run/{self.unit}.pgpass"

    def __enter__(self):
        self.web.check_output(f"umask 077; echo '*:*:*:*:{self.site['database_password']}' > {self.passwords}")
        dsn = f"host=127.0.0.1 user={self.site['database_user']} dbname={self.site['database']} connect_timeout=2"
        insert = f"timeout 2 psql -X -q -c \"INSERT INTO {TABLE} VALUES ('{self.unit}')\" '{dsn}'"
        script = f"while sleep 0.1; do {insert} && date +%s.%N >> {self.log}; done"
        run = (
            f"systemd-run --quiet --unit={self.unit} --setenv=PGPASSFILE={self.passwords} bash -c {shlex.quote(script)}"
        )
        self.web.check_output(run)
        return self

    def __exit__(self, *_):
        self.web.run(f"systemctl stop {self.unit}; rm -f {self.log} {self.passwords}")

    def now(self) -> float:
        return float(self.web.check_output("date +%s.%N"))

    def written(self, since: float) -> list[float]:
        return [when for line in self.web.run(f"cat {self.log}").stdout.split() if (when := float(line)) > since]

    def longest_gap(self, since: float) -> float:
        """Seconds without a write, at most, from that moment until now."""
        moments = [since, *self.written(since), self.now()]
        return max(later - earlier for earlier, later in itertools.pairwise(moments))


def healthy(host) -> bool:
    """One leads, the others stream, and every pgpool has all of them."""
    states = sorted((member["Role"], member["State"]) for member in members(host).values())
    checks = [host(name).run("/usr/local/lib/nagios/plugins/check_pgpool").rc for name in WEB]
    return states[0] == ("Leader", "running") and {s for _, s in states[1:]} <= {"streaming"} and not any(checks)


def told(host) -> str:
    return f"{members(host)}\n" + "".join(f"{n}: {journal(host(n), 'pgpool2', 'pgpool-follower')}" for n in WEB)


@pytest.mark.skipif(len(DB) > 1, reason="there is somebody to switch to")
def test_a_single_host_is_told_that_there_is_nobody_to_switch_to():
    done = ansible_playbook(ENV, "playbooks/switchover.yml", fast=True)
    assert done.returncode == 2 and "there is nobody to switch to." in done.stdout, done.stdout[-2000:]


@several
def test_a_switchover_moves_the_primary_fails_no_get_and_writes_resume_through_every_pgpool(
    host, lab, site, table, front, url
):
    assert wait(HEALTH_SECONDS, lambda: healthy(host), 1), told(host)
    old = leader(host)
    new = next(name for name in reversed(DB) if name != old)
    command = ("playbooks/switchover.yml", "-e", f"candidate={new}")
    said = ansible_playbook(ENV, *command, "--check", fast=True)
    assert said.returncode == 0 and f"{old} hands over to {new}" in said.stdout, said.stdout[-3000:]
    assert leader(host) == old

    writers = {name: Writer(host(name), site) for name in WEB}
    with contextlib.ExitStack() as running:
        for writer in writers.values():
            running.enter_context(writer)
        visitor = running.enter_context(Visitor(front, url, HELD_SECONDS))
        began = writers[WEB[0]].now()
        done = ansible_playbook(ENV, *command, fast=True)
        assert done.returncode == 0, done.stdout[-3000:] + told(host)
        state = members(host)
        assert (state[new]["Role"], state[old]["State"]) == ("Leader", "streaming"), state
        assert all(wait(5, lambda w=writer: w.written(w.now() - 1)) for writer in writers.values()), told(host)
        gaps = {name: round(writer.longest_gap(began), 1) for name, writer in writers.items()}
    print(f"seconds without a write: {gaps}; the slowest page took {visitor.slowest:.1f} s")
    for other in set(DB) - {old, new}:
        said = host(other).check_output(f"journalctl -u patroni -o short-unix --no-pager --since=@{began:.0f}")
        chosen = re.search(rf"^([0-9.]+) .* switchover: to {new}, i am {other}$", said, re.MULTILINE)
        followed = re.search(r"^([0-9.]+) .* parameter \"primary_conninfo\" changed", said, re.MULTILINE)
        # It may have the lock's new owner before it knows that there was none.
        assert not chosen or 0 < float(followed[1]) - float(chosen[1]) < FOLLOW_SECONDS, said
    assert max(gaps.values()) < SWITCHOVER_SECONDS, f"{gaps}\n{told(host)}"
    assert visitor.served > 10 and not visitor.failures, visitor.failures

    addresses = {name: lab.address(lab.containers()[name]) for name in (old, new)}
    for name in WEB:
        followed = json.loads(host(name).check_output("cat /run/pgpool/follower.json"))["followed"]
        assert (followed["from"], followed["to"]) == (addresses[old], addresses[new]), f"{name}: {followed}"
        assert 0 < followed["own_seconds"] <= followed["seconds"] < SWITCHOVER_SECONDS, f"{name}: {followed}"
        said = host(name).check_output(f"journalctl -u pgpool-follower -o short-unix --no-pager --since=@{began:.0f}")
        promoted, attached = [
            float(re.search(rf"^([0-9.]+) .*to do: \[\('{what}'", said, re.MULTILINE)[1])
            for what in ("promote", "attach")
        ]
        assert attached - promoted > ATTACH_SECONDS, f"{name}: {said}"


@long
@several
def test_writes_resume_within_three_seconds_of_a_switchover_as_a_rule(host, site, table):
    """Through the slowest pgpool, and with no visitors beside it: on two cores they and Ansible take time from it."""
    seconds = []
    for _ in range(SWITCHOVERS):
        assert wait(HEALTH_SECONDS, lambda: healthy(host), 1), told(host)
        with contextlib.ExitStack() as running:
            writers = [running.enter_context(Writer(host(name), site)) for name in WEB]
            assert all(wait(5, lambda w=writer: w.written(0)) for writer in writers), told(host)
            began = writers[0].now()
            done = ansible_playbook(ENV, "playbooks/switchover.yml", fast=True)
            assert done.returncode == 0, done.stdout[-3000:] + told(host)
            assert all(wait(5, lambda w=writer: w.written(w.now() - 1)) for writer in writers), told(host)
            seconds.append(round(max(writer.longest_gap(began) for writer in writers), 1))
    print(f"seconds without a write in switchovers: {seconds}")
    assert statistics.median(seconds) <= USUAL_SWITCHOVER_SECONDS, f"{seconds}\n{told(host)}"


@long
@several
def test_no_request_fails_in_switchovers(host, lab, settings, front, tmp_path):
    """Neither one that reads nor one that writes, and none is sent again."""
    domain = settings["sites"][SITE]["domains"][0]
    with visitors(lab, Hosts(lab, SITE), front, domain, tmp_path) as load:
        for _ in range(SWITCHOVERS):
            assert wait(HEALTH_SECONDS, lambda: healthy(host), 1), told(host)
            done = ansible_playbook(ENV, "playbooks/switchover.yml", fast=True)
            assert done.returncode == 0, done.stdout[-3000:] + told(host)
    requests = list(read(load.ledger.path))
    failed = [request for request in requests if "first" in request or "error" in request]
    slowest = max(request["ended"] - request["due"] for request in requests)
    print(f"of {len(requests)} requests {len(failed)} failed; the slowest took {slowest:.1f} s")
    assert not failed, f"{failed[:5]}\n{told(host)}"
    assert {request["kind"] for request in requests} == {"page", "write"}


@several
def test_a_client_of_a_pgpool_child_that_does_not_end_with_a_change_of_the_primary_is_told(host, site):
    """One that blocks itself while it ends looks the same from outside as one that is stopped."""
    assert wait(HEALTH_SECONDS, lambda: healthy(host), 1), told(host)
    web, unit = host(WEB[0]), f"trestle-client-{uuid.uuid4().hex[:8]}"
    passwords = f"/run/{unit}.pgpass"
    web.check_output(f"umask 077; echo '*:*:*:*:{site['database_password']}' > {passwords}")
    dsn = f"host=127.0.0.1 user={site['database_user']} dbname={site['database']}"
    run = f"systemd-run --quiet --collect --unit={unit} --setenv=PGPASSFILE={passwords}"
    try:
        web.check_output(f"{run} psql -X -c 'SELECT pg_sleep(300)' {shlex.quote(dsn)}")
        title = f"pgrep -f '^pgpool: {site['database_user']} {site['database']} .* SELECT'"
        assert wait(10, lambda: web.run(title).rc == 0), told(host)
        child = web.check_output(title)
        web.check_output(f"kill -STOP {child}")
        host(leader(host)).check_output(f"{PATRONICTL} switchover --force")
        assert wait(HEALTH_SECONDS, lambda: healthy(host), 1), told(host)
        assert wait(5, lambda: web.run(f"systemctl is-active {unit}").stdout.strip() != "active"), told(host)
        assert f"child {child} of pgpool does not end: killed" in journal(web, "pgpool-follower")
    finally:
        web.run(f"systemctl stop {unit}; rm -f {passwords}")


def test_a_pgpool_that_has_lost_its_sockets_is_started_anew(host, site):
    """As one of its children does that is killed as soon as it was forked."""
    assert wait(HEALTH_SECONDS, lambda: healthy(host), 1), told(host)
    web = host(WEB[0])
    pid = web.check_output("systemctl show --property=MainPID --value pgpool2")
    web.check_output("rm /run/pgpool/.s.PGSQL.* /run/pgpool/pgpool.pid; ipcrm --all=sem")
    # PostgreSQL on the same host has a small one.
    web.check_output("ipcs -m | awk '$5 + 0 > 1000000 { print $2 }' | xargs -r -n 1 ipcrm -m")
    assert wait(HEALTH_SECONDS, lambda: web.run(f"test -d /proc/{pid}").rc == 1 and healthy(host), 1), told(host)
    assert psql(web, site, "SELECT 1").stdout.strip() == "1"
    shared = [int(line.split()[4]) for line in web.check_output("ipcs -m").splitlines() if line.startswith("0x")]
    assert sum(shared) < 10_000_000, "each pgpool that is killed leaves its own"


def main_backend(web) -> str:
    """The last that pgpool has said of it."""
    return web.run("journalctl -u pgpool2 -o cat -g '(new|Update) main node' -n 1").stdout.strip()


def anew(host, site: dict, web: str, times: int) -> list[str]:
    """The errors of so many that log in through the web host's pgpool, none over a connection that it has kept."""
    tries = [psql(host(web), site, "SELECT 1", application=uuid.uuid4().hex[: 8 + n % 8]) for n in range(times)]
    return [done.stderr for done in tries if done.rc]


@several
def test_a_first_backend_that_was_out_of_reach_is_pgpool_s_main_one_again(host, site):
    """Only for a moment, and to one child: pgpool would have all new children fail their clients from then on."""
    assert wait(HEALTH_SECONDS, lambda: healthy(host), 1), told(host)
    first, web = DB[0], host(WEB[0])
    if leader(host) == first:
        host(first).check_output(f"{PATRONICTL} switchover --force")
        assert wait(HEALTH_SECONDS, lambda: leader(host) != first and healthy(host), 1), told(host)
    address = host(first).check_output("hostname -I").split()[0]
    refuse = f"ip daddr {address} tcp dport 5432 reject with tcp reset"
    web.check_output(
        f"nft 'table inet refused {{ chain output {{ type filter hook output priority 0; {refuse}; }}; }}'"
    )
    try:
        anew(host, site, WEB[0], 1)
        named = main_backend(web)
    finally:
        web.check_output("nft delete table inet refused")
    assert "Update main node to" in named, named
    assert wait(10, lambda: main_backend(web).endswith("set new main node: 0"), 0.5), told(host)
    assert not anew(host, site, WEB[0], 30)
    assert wait(HEALTH_SECONDS, lambda: healthy(host), 1), told(host)


@several
def test_a_child_of_pgpool_that_tries_to_reach_a_standby_that_is_gone_does_not_bring_it_back(host, site):
    """It would be up in the middle of all that pgpool believes of it, and each new client be failed."""
    assert wait(HEALTH_SECONDS, lambda: healthy(host), 1), told(host)
    web, first = host(WEB[0]), leader(host)
    standby = next(name for name in DB if name != first)
    address = host(standby).check_output("hostname -I").split()[0]
    trying = f"ss -Htnp state syn-sent dst {address} dport = 5432 | grep -o 'pgpool\",pid=[0-9]*'"
    drop = f"ip daddr {address} drop"
    web.check_output(f"nft 'table inet gone {{ chain output {{ type filter hook output priority 0; {drop}; }}; }}'")
    try:
        anew(host, site, WEB[0], 1)
        assert wait(10, lambda: web.run(trying).rc), "pgpool has it try for as long as the standby is gone"
        assert not anew(host, site, WEB[0], 5)
    finally:
        web.check_output("nft delete table inet gone")
    said = journal(web, "pgpool-follower")
    assert f"tries to reach {address}, which is detached: killed" in said, said
    assert wait(HEALTH_SECONDS, lambda: healthy(host), 1), told(host)
    assert not anew(host, site, WEB[0], 20)


def test_pgpool_keeps_no_connection_for_as_long_as_postgresql_waits_for_a_host_that_is_cut_off(host, site):
    """Its next client would be given one that is closed at the other end."""
    name, first = uuid.uuid4().hex, leader(host)
    # Not of pg_settings: a session over a socket file has none.
    setting = "SELECT setting FROM pg_file_settings WHERE name = 'tcp_user_timeout'"
    patience = int(postgres(host(first), "postgres", setting)) / 1000
    assert psql(host(WEB[0]), site, "SELECT 1", application=name).rc == 0
    count = f"SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}'"
    assert wait(patience, lambda: postgres(host(first), "postgres", count) == "0", 0.5)


# The command, and the seconds in which writes must go on as a rule.
KILLS_OF = {
    "postmaster": ("kill -9 $(head -n 1 /var/lib/postgresql/17/main/postmaster.pid)", 5),
    "patroni": ("kill -9 $(systemctl show --property=MainPID --value patroni)", 5),
}


@long
@several
@pytest.mark.parametrize("process", KILLS_OF)
def test_writes_resume_soon_after_a_kill_on_the_primary_s_host(host, site, table, process):
    (command, most), seconds = KILLS_OF[process], []
    with Writer(host(WEB[-1]), site) as writer:
        for _ in range(KILLS):
            assert wait(HEALTH_SECONDS, lambda: healthy(host), 1), told(host)
            killed = writer.now()
            host(leader(host)).check_output(command)
            time.sleep(3)  # what was healthy a moment ago still looks so
            assert wait(HEALTH_SECONDS, lambda: healthy(host) and writer.written(writer.now() - 1), 0.5), told(host)
            seconds.append(round(writer.longest_gap(killed), 1))
    print(f"seconds without a write after a kill of {process}: {seconds}")
    assert statistics.median(seconds) < most, f"{seconds}\n{told(host)}"


def frozen_for_moments(lab, container) -> None:
    for _ in range(PAUSES):
        lab.freeze(container)
        time.sleep(random.uniform(*PAUSE_SECONDS))
        container.unpause()
        time.sleep(2)


def losing_packets(lab, container) -> None:
    strike.strike(lab, container, "loss")
    time.sleep(LOSS_SECONDS)


@long
@several
@pytest.mark.parametrize("befall", [frozen_for_moments, losing_packets])
def test_a_primary_s_host_that_is_slow_to_answer_is_neither_fenced_nor_replaced(host, lab, site, table, befall):
    assert wait(HEALTH_SECONDS, lambda: healthy(host), 1), told(host)
    first, before = leader(host), members(host)
    with Writer(host(next(name for name in WEB if name != first)), site) as writer:
        began = writer.now()
        try:
            befall(lab, lab.containers()[first])
        finally:
            strike.put_back(lab, lab.containers()[first])
        acknowledged = len(writer.written(began))
        fenced = {name: fences(host(name), began) for name in DB if name != first}
        print(f"{befall.__name__}: {acknowledged} writes, {writer.longest_gap(began):.1f} s without one at most")
        count = f"SELECT count(*) FROM {table} WHERE word = '{writer.unit}'"
        assert int(postgres(host(first), site["database"], count)) >= acknowledged > 0
    assert not any(fenced.values()), fenced
    assert leader(host) == first
    assert members(host)[first]["TL"] == before[first]["TL"], told(host)


def fences(db, since: float) -> str:
    """What it has done against a primary that said nothing."""
    said = db.check_output(f"journalctl -u patroni-fence -o cat --no-pager --since=@{since:.0f}")
    return said if "fence" in said.splitlines() else ""


@long
@several
def test_a_switchover_is_refused_while_the_candidate_does_not_stream(host):
    old = leader(host)
    other = next(name for name in DB if name != old)
    try:
        host(other).check_output("systemctl stop patroni")
        for playbook in (["switchover", "-e", f"candidate={other}"], ["rolling_postgres"]):
            name, *options = playbook
            if name == "rolling_postgres":
                set_everywhere(host, "max_locks_per_transaction", 80)
            done = ansible_playbook(ENV, f"playbooks/{name}.yml", *options, fast=True)
            assert done.returncode == 2 and f"{other} does not answer: mend it first." in done.stdout, done.stdout[
                -3000:
            ]
        assert leader(host) == old
    finally:
        # Before it starts, or it would start with the other value and wait for a restart.
        set_everywhere(host, "max_locks_per_transaction", "null")
        host(other).run("systemctl start patroni")
    assert wait(HEALTH_SECONDS, lambda: healthy(host), 1), told(host)


def set_everywhere(host, setting: str, value) -> None:
    """In Patroni's configuration of the cluster, where it waits for a restart of each member."""
    name = next(name for name in DB if host(name).run("systemctl is-active patroni").rc == 0)
    host(name).check_output(f"{PATRONICTL} edit-config --force -q -p {setting}={value}")
    time.sleep(12)  # each member goes through its loop


def versions(host) -> dict[str, str]:
    return {name: host(name).check_output("dpkg-query -W -f '${Version}' %s", PACKAGE) for name in DB}


def settings_of(host, setting: str) -> set[str]:
    return {postgres(host(name), "postgres", f"SHOW {setting}") for name in DB}


@long
@several
def test_an_upgrade_and_a_setting_are_rolled_out_and_a_second_run_changes_nothing(host, front, url):
    assert wait(HEALTH_SECONDS, lambda: healthy(host), 1), told(host)
    setting, old = "max_locks_per_transaction", leader(host)
    before, packages = settings_of(host, setting), versions(host)
    assert len(before) == 1
    set_everywhere(host, setting, 96)
    for name in DB:
        host(name).check_output(offers.offer([PACKAGE]))
    try:
        with Visitor(front, url, HELD_SECONDS) as visitor:
            done = ansible_playbook(ENV, "playbooks/rolling_postgres.yml", fast=True)
        assert done.returncode == 0, done.stdout[-4000:] + told(host)
        assert settings_of(host, setting) == {"96"}
        assert versions(host) == {name: version + offers.HIGHER for name, version in packages.items()}
        assert leader(host) != old and healthy(host), told(host)
        assert visitor.served > 20 and not visitor.failures, visitor.failures
        again = ansible_playbook(ENV, "playbooks/rolling_postgres.yml", fast=True)
        assert again.returncode == 0 and not changes(again.stdout), changes(again.stdout)
    finally:
        for name in DB:
            host(name).check_output(offers.WITHDRAW)
        # What a standby must not have less of than its primary goes down on the primary first.
        set_everywhere(host, setting, "null")
        down = ansible_playbook(ENV, "playbooks/rolling_postgres.yml", fast=True)
    assert down.returncode == 0, down.stdout[-4000:] + told(host)
    assert settings_of(host, setting) == before and healthy(host), told(host)
