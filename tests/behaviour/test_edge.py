"""The edge: the front door of every site, the floating address, the pool of web hosts."""

from __future__ import annotations

import json
import shlex
import socket
import ssl
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from conftest import hosts_of
from runs import wait

BALANCERS, WEB = hosts_of("lb"), hosts_of("web")
MOVE_SECONDS = 2
DRAIN_SECONDS = 3
FLAG = "/var/lib/trestle/drain/manual"
HOLD = "http://127.0.0.1:8079/hold"

# Prints the heads of the requests that leave a balancer for a backend and hold the word.
SNIFF = """timeout 8 python3 - <<'E'
import re, socket
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
while True:
    packet = s.recv(65535)
    if b"{word}" in packet:
        print(packet[packet.find(b"GET "):].decode(errors="replace"))
        break
E"""


def domains(settings) -> dict[str, list[str]]:
    return {name: site["domains"] for name, site in settings["sites"].items()}


@pytest.fixture(scope="module")
def name(settings) -> str:
    """The canonical name of the first site that has another one beside it."""
    return next(d for d in domains(settings).values() if len(d) > 1)[0]


@pytest.fixture
def session(front):
    with front.session() as session:
        yield session


def dynamic(name: str) -> str:
    """The address of a page that no file answers."""
    return f"https://{name}/trestle-test-{uuid.uuid4()}/"


def journal(host, name: str, *units: str) -> str:
    return host(name).run("journalctl --no-pager -n 20 " + " ".join(f"-u {unit}" for unit in units)).stdout


def pool(host, balancer: str) -> dict:
    return json.loads(host(balancer).check_output("curl -sS -m 3 http://127.0.0.1:8079/pool"))


def in_state(host, state: str, *webs: str) -> bool:
    """Do all balancers see these web hosts in this state, for every site?"""
    views = [sites for balancer in BALANCERS for sites in pool(host, balancer).values()]
    return all(hosts[web]["state"] == state for hosts in views for web in webs)


def servers(session, name: str) -> set[str]:
    """The web hosts that answer, as often as even one that is chosen by dice would."""
    return {session.get(dynamic(name), timeout=10).headers["X-Served-By"] for _ in range(12 * len(WEB))}


def holders(host, address: str) -> list[str]:
    return [b for b in BALANCERS if f" {address}/" in host(b).check_output("ip -4 addr")]


# Names and certificates.


def test_plain_http_is_sent_to_https_in_one_step(session, settings):
    for names in domains(settings).values():
        for name in names:
            answer = session.get(f"http://{name}/a/?b=1", allow_redirects=False, timeout=5)
            assert answer.status_code == 308
            assert answer.headers["Location"] == f"https://{names[0]}/a/?b=1"


def test_the_other_names_are_sent_to_the_first(session, settings):
    for names in domains(settings).values():
        for other in names[1:]:
            answer = session.get(f"https://{other}/a/?b=1", allow_redirects=False, timeout=5)
            assert (answer.status_code, answer.headers["Location"]) == (308, f"https://{names[0]}/a/?b=1")


@pytest.mark.parametrize("balancer", BALANCERS)
def test_every_balancer_shows_a_good_certificate_for_every_name(front, lab, settings, balancer):
    context = ssl.create_default_context(cafile=str(front.ca_file))
    context.set_alpn_protocols(["h2"])
    address = (lab.address(lab.containers()[balancer]), 443)
    for name in [*(d for names in domains(settings).values() for d in names), settings["monitor_domain"]]:
        with (
            socket.create_connection(address, timeout=5) as raw,
            context.wrap_socket(raw, server_hostname=name) as tls,
        ):
            assert tls.version() in ("TLSv1.2", "TLSv1.3")
            assert tls.selected_alpn_protocol() == "h2"


def test_a_stranger_s_name_is_refused(session):
    with pytest.raises(requests.exceptions.SSLError):
        session.get("https://nobody.example.net/", timeout=5)
    with pytest.raises(requests.exceptions.ConnectionError):
        session.get("http://nobody.example.net/", timeout=5)


def test_the_monitor_asks_for_a_password(session, settings):
    assert session.get(f"https://{settings['monitor_domain']}/", timeout=5).status_code == 401


# A request on its way.


def test_every_answer_has_a_request_id_of_its_own(session, name):
    first, second = (session.get(dynamic(name), timeout=10) for _ in range(2))
    assert len(first.headers["X-Request-ID"]) == 32
    assert first.headers["X-Request-ID"] != second.headers["X-Request-ID"]


def test_the_backend_learns_who_asked_and_how_and_a_lie_is_not_passed_on(host, front, lab, name):
    word, said = uuid.uuid4().hex, {}
    holder = holders(host, front.address)[0]
    sniffer = threading.Thread(target=lambda: said.update(head=host(holder).run(SNIFF.format(word=word)).stdout))
    sniffer.start()
    lies = {"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "http", "X-Request-ID": "mine", "X-Forwarded-Host": "x"}
    while sniffer.is_alive():
        answer = front.session().get(f"https://{name}/{word}/", headers=lies, timeout=10)
        sniffer.join(0.5)
    head = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in said["head"].splitlines())}
    assert head, f"no request left {holder} (the last answer was {answer.status_code})"
    assert head["x-forwarded-for"] == str(lab.subnet()[1]), "the client's address is that of the network's gateway"
    assert head["x-forwarded-proto"] == "https"
    assert (head["host"], head["x-forwarded-host"]) == (name, name)
    assert len(head["x-request-id"]) == 32


def test_what_gunicorn_tells_the_balancers_is_not_told_to_the_world(session, settings):
    for names in domains(settings).values():
        for path in ("live", "ready"):
            answer = session.get(f"https://{names[0]}/health/{path}", timeout=5)
            assert answer.status_code == 404
            assert "digest" not in answer.text


def test_nginx_does_not_say_which_one_it_is(session, name):
    assert session.get(f"http://{name}/", allow_redirects=False, timeout=5).headers["Server"] == "nginx"


# The pool.


def test_every_web_host_is_in_the_pool_and_answers(host, session, name):
    seen = {balancer: pool(host, balancer) for balancer in BALANCERS}
    assert in_state(host, "up", *WEB), f"{seen}\n{journal(host, BALANCERS[0], 'pool-checker')}"
    assert servers(session, name) == set(WEB)


def workers(host) -> dict[str, list[str]]:
    """The processes of each balancer's nginx: a reload has others begin."""
    return {b: sorted(host(b).check_output("pgrep --full '^nginx: worker'").split()) for b in BALANCERS}


@pytest.mark.skipif(len(WEB) < 2, reason="one web host cannot be spared")
def test_a_drained_host_gets_no_request_and_comes_back_without_a_reload(host, session, name):
    drained, before = WEB[-1], workers(host)
    assert host(drained).run(f"touch {FLAG}").rc == 0
    try:
        assert wait(DRAIN_SECONDS, lambda: in_state(host, "drained", drained)), journal(
            host, BALANCERS[0], "pool-checker"
        )
        assert servers(session, name) == set(WEB) - {drained}
    finally:
        host(drained).run(f"rm -f {FLAG}")
    assert wait(DRAIN_SECONDS, lambda: in_state(host, "up", drained)), journal(host, BALANCERS[0], "pool-checker")
    assert drained in servers(session, name)
    assert workers(host) == before


def test_with_every_host_drained_visitors_get_the_error_page_quickly(host, session, name):
    try:
        for web in WEB:
            assert host(web).run(f"touch {FLAG}").rc == 0
        assert wait(DRAIN_SECONDS, lambda: in_state(host, "drained", *WEB)), journal(host, BALANCERS[0], "pool-checker")
        for method in ("GET", "POST"):
            begun = time.monotonic()
            answer = session.request(method, dynamic(name), timeout=10)
            assert time.monotonic() - begun < 1
            assert answer.status_code == 503
            assert int(answer.headers["Retry-After"]) > 0
            assert "We will be right back" in answer.text
            assert len(answer.headers["X-Request-ID"]) == 32
    finally:
        for web in WEB:
            host(web).run(f"rm -f {FLAG}")
    assert wait(DRAIN_SECONDS, lambda: in_state(host, "up", *WEB)), journal(host, BALANCERS[0], "pool-checker")
    assert session.get(dynamic(name), timeout=10).status_code == 404


def test_hosts_that_the_checker_had_no_answer_of_are_asked_where_nobody_is_up(host, front, session, name):
    balancer = holders(host, front.address)[0]
    try:
        host(balancer).run("systemctl stop pool-checker")
        down = {site: dict.fromkeys(hosts, "down") for site, hosts in pool(host, balancer).items()}
        told = host(balancer).check_output("curl -sS -m 3 -X PUT -d %s http://127.0.0.1:8079/pool", json.dumps(down))
        assert {backend["state"] for hosts in json.loads(told).values() for backend in hosts.values()} == {"down"}
        assert session.get(dynamic(name), timeout=10).status_code == 404
    finally:
        host(balancer).run("systemctl start pool-checker")
    assert wait(DRAIN_SECONDS, lambda: in_state(host, "up", *WEB)), journal(host, balancer, "pool-checker")


def test_without_a_checker_every_host_counts_as_up(host, front, session, name):
    balancer = holders(host, front.address)[0]
    try:
        host(balancer).run("systemctl stop pool-checker")
        assert wait(14, lambda: not any(h["checked"] for s in pool(host, balancer).values() for h in s.values()))
        assert all(h["state"] == "up" for s in pool(host, balancer).values() for h in s.values())
        assert session.get(dynamic(name), timeout=10).status_code == 404
    finally:
        host(balancer).run("systemctl start pool-checker")
    assert wait(5, lambda: all(h["checked"] for s in pool(host, balancer).values() for h in s.values()))


@pytest.fixture
def hold(host):
    """hold(seconds): requests are held at every balancer for so long; 0 lets them go on."""

    def ask(seconds: float) -> None:
        how = f"-X PUT {HOLD}?seconds={seconds}" if seconds else f"-X DELETE {HOLD}"
        for balancer in BALANCERS:
            host(balancer).check_output(f"curl -sS -f -m 3 {how}")

    yield ask
    ask(0)


def test_requests_that_are_held_wait_until_they_are_let_go_or_for_as_long_as_was_said(front, hold, session, name):
    session.get(f"https://{name}/robots.txt", timeout=5)
    hold(20)
    with ThreadPoolExecutor() as executor:
        begun = time.monotonic()
        waiting = executor.submit(lambda: front.session().get(dynamic(name), timeout=20).status_code)
        assert session.get(f"https://{name}/robots.txt", timeout=2).status_code == 200, "a file needs no web host"
        time.sleep(max(0, begun + 2 - time.monotonic()))
        assert not waiting.done()
        hold(0)
        assert waiting.result(3) == 404
    hold(2)
    begun = time.monotonic()
    assert session.get(dynamic(name), timeout=10).status_code == 404
    assert 1 < time.monotonic() - begun < 5


def test_maintenance_closes_one_site_and_no_other(host, session, settings):
    site, *others = domains(settings)
    flag = f"/var/lib/trestle/maintenance/{site}"
    try:
        for balancer in BALANCERS:
            assert host(balancer).run(f"touch {flag}").rc == 0
        for method in ("GET", "POST"):
            answer = session.request(method, dynamic(domains(settings)[site][0]), timeout=5)
            assert (answer.status_code, "We are working on the site" in answer.text) == (503, True)
            assert int(answer.headers["Retry-After"]) > 0
        for other in others:
            assert session.get(dynamic(domains(settings)[other][0]), timeout=10).status_code == 404
    finally:
        for balancer in BALANCERS:
            host(balancer).run(f"rm -f {flag}")
    assert session.get(dynamic(domains(settings)[site][0]), timeout=10).status_code == 404


# Perlbal, where it is the engine.


def perlbal(host, *commands: str) -> list[str]:
    lines = "".join(f"{command}\\n" for command in (*commands, "quit"))
    script = f"exec 3<>/dev/tcp/127.0.0.1/60000; printf '{lines}' >&3; timeout 2 cat <&3"
    return host(BALANCERS[0]).check_output(f"bash -c {shlex.quote(script)}").splitlines()


@pytest.fixture
def perlbal_runs(host):
    if not host(BALANCERS[0]).service("perlbal").is_running:
        pytest.skip("lb_engine is nginx")


def test_perlbal_has_every_web_host_of_every_site_and_has_asked_them(perlbal_runs, host, session, sites, name):
    servers(session, name)
    for site in sites:
        nodes = {line.split()[0] for line in perlbal(host, f"show pool {site['name']}") if ":" in line}
        assert {node.split(":")[1] for node in nodes} == {str(site["port"])}
        assert len(nodes) == len(WEB)
    assert [line for line in perlbal(host, "nodes") if " verifies " in line]


def test_perlbal_works_in_its_sandbox(perlbal_runs, host, session, name):
    assert session.get(dynamic(name), timeout=10).status_code == 404
    status = host(BALANCERS[0]).check_output("cat /proc/$(systemctl show --value -p MainPID perlbal)/status")
    found = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert int(found["CapEff"], 16) == 0
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
    assert "0" not in found["Uid"].split()


@pytest.mark.parametrize("verb", ["stop", "kill --signal=KILL", "restart"])
def test_without_perlbal_nginx_chooses_by_itself(perlbal_runs, host, session, name, verb):
    try:
        assert host(BALANCERS[0]).run(f"systemctl {verb} perlbal").rc == 0
        answers = [session.request(method, dynamic(name), timeout=10) for method in ("GET", "HEAD", "GET")]
        assert {answer.status_code for answer in answers} == {404}
    finally:
        host(BALANCERS[0]).run("systemctl start perlbal")
    assert wait(5, lambda: perlbal(host, "show pool"))


# As a connection that the kernel gave the port to.
HOLD_PORT = """
import socket, struct, time
held = socket.socket()
held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
held.bind(("127.0.0.1", 60000))
held.connect(("127.0.0.1", 8079))
held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
time.sleep(5)
"""


def test_perlbal_starts_once_a_connection_that_has_its_port_has_ended(perlbal_runs, host):
    balancer = host(BALANCERS[0])
    balancer.check_output("systemctl stop perlbal")
    try:
        balancer.check_output("systemd-run --collect --unit=hold-port /usr/bin/python3 -c %s", HOLD_PORT)
        assert wait(5, lambda: balancer.check_output("ss -Htn state established sport = 60000"))
        assert balancer.run("systemctl start perlbal").rc == 0
        assert perlbal(host, "show pool")
    finally:
        balancer.run("systemctl stop hold-port; systemctl start perlbal")


# The floating address.


def test_exactly_one_balancer_has_the_address(host, front):
    assert len(holders(host, front.address)) == 1, "\n".join(journal(host, b, "keepalived") for b in BALANCERS)


@pytest.mark.skipif(len(BALANCERS) < 2, reason="there is no second load balancer")
@pytest.mark.parametrize("balancer", BALANCERS)
def test_what_sends_the_advertisements_never_waits_for_a_fork(host, balancer):
    """By the page faults of its children, which count when they have ended; its checks are another process's."""
    command = "cut -d ' ' -f 11 /proc/$(pgrep -P $(systemctl show --property=MainPID --value keepalived))/stat"
    assert host(balancer).service("keepalived-helper").is_running
    before = host(balancer).check_output(command)
    time.sleep(2)
    assert host(balancer).check_output(command) == before


@pytest.mark.skipif(len(BALANCERS) < 2, reason="there is no second load balancer")
def test_the_address_leaves_a_balancer_whose_nginx_stopped_and_may_come_back(host, front, name):
    def answers() -> bool:
        try:
            with front.session() as session:  # a new connection each time: the old one ends with its nginx
                return session.get(f"http://{name}/", allow_redirects=False, timeout=0.3).status_code == 308
        except requests.exceptions.RequestException:
            return False

    for _ in BALANCERS:
        holder = holders(host, front.address)[0]
        try:
            assert host(holder).run("systemctl stop nginx").rc == 0
            assert wait(MOVE_SECONDS, answers), "\n".join(journal(host, b, "keepalived") for b in BALANCERS)
            assert holder not in holders(host, front.address)
        finally:
            host(holder).run("systemctl start nginx")
        # The one that came back must count as healthy before the address can return to it.
        assert wait(5, lambda h=holder: "Entering BACKUP" in journal(host, h, "keepalived").splitlines()[-1])
    assert len(holders(host, front.address)) == 1
