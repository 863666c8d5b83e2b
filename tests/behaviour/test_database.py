"""The database tier: one leader, standbys that stream, and a pgpool on each web host that leads to the leader."""

from __future__ import annotations

import json
import re
import shlex
import time
import uuid

import pytest
from conftest import ENV, hosts_of

from plugins.filter.trestle import complete_sites

DB, WEB = hosts_of("db"), hosts_of("web")
SWITCHOVER_SECONDS = 20
TABLE = "trestle_test"


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
    done = host(DB[0]).run("patronictl -c /etc/patroni/config.yml list -f json")
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


@pytest.mark.skipif(len(DB) < 2, reason="one host has nobody to switch to")
def test_writes_resume_through_every_pgpool_after_a_switchover(host, site, table):
    old = leader(host)
    new = next(m for m, state in members(host).items() if "Standby" in state["Role"])
    done = host(old).run(
        f"patronictl -c /etc/patroni/config.yml switchover {ENV} --leader {old} --candidate {new} --force"
    )
    began = time.monotonic()
    assert done.rc == 0, done.stdout + done.stderr
    for name in WEB:
        insert = f"INSERT INTO {table} VALUES ('after switchover') RETURNING word"
        while (done := psql(host(name), site, insert)).rc:
            waited = time.monotonic() - began
            logs = journal(host(name), "pgpool2", "pgpool-follower")
            assert waited < SWITCHOVER_SECONDS, f"{name} after {waited:.0f} s: {done.stderr}{logs}"
            time.sleep(0.3)
    assert leader(host) == new
    while members(host)[old]["State"] != "streaming":
        assert time.monotonic() - began < 3 * SWITCHOVER_SECONDS, members(host)
        time.sleep(1)
