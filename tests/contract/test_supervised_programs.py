"""What supervisor is told of the sites' programs, and how each is started."""

from __future__ import annotations

import configparser
import json

import programs
import pytest
from environments import REAL, environment, rendered

CONFIGURATION = "/etc/supervisor/conf.d/sites.conf"


def configuration(name: str) -> configparser.RawConfigParser:
    (text,) = {file.text for file in rendered(name, "gunicorn") if file.dest == CONFIGURATION}
    parser = configparser.RawConfigParser()
    parser.read_string(text)
    return parser


def declared(name: str, site: str) -> dict[str, dict]:
    """The programs of a site as site-start reads them."""
    dest = f"/srv/{site}/etc/programs.json"
    (text,) = {file.text for file in rendered(name, "gunicorn") if file.dest == dest}
    return {program["name"]: program for program in json.loads(text)}


@pytest.mark.parametrize("name", [*REAL, "elsewhere"])
def test_every_program_is_in_the_group_of_its_site_and_can_be_started(name):
    parser = configuration(name)
    for site in environment(name).value(environment(name).hosts[0], "sites"):
        group = parser[f"group:{site}"]["programs"].split(",")
        assert group == [f"{site}-{program}" for program in declared(name, site)]
        for program in group:
            words = parser[f"program:{program}"]["command"].split()
            assert words == ["/usr/local/lib/trestle/site-start", site, program.removeprefix(f"{site}-")]


def test_what_an_entry_says_reaches_supervisor():
    parser = configuration("elsewhere")
    gunicorn, worker = parser["program:shop-2-gunicorn"], parser["program:shop-2-worker"]
    assert (gunicorn["numprocs"], gunicorn["process_name"]) == ("1", "%(program_name)s")
    assert (worker["numprocs"], worker["process_name"]) == ("2", "%(program_name)s-%(process_num)d")
    assert worker["stopwaitsecs"] == "600"


def test_memory_is_watched_only_where_a_program_has_a_limit():
    assert configuration("elsewhere")["eventlistener:trestle-memory"]["events"] == "TICK_5"
    here = environment("elsewhere")
    host, play = here.hosts_with("gunicorn")[0]
    variables = here.role_vars("gunicorn", host, play)
    sites = [
        {"programs": [program | {"memory_limit": 0} for program in site["programs"]]}
        for site in here.value(host, "site_list")
    ]
    assert not here.templar(variables | {"site_list": sites}).template(here.expression("__gunicorn_limited"))


def test_the_words_of_a_command_reach_the_program_as_they_are_written():
    start = programs.load("gunicorn", "site-start")
    site = declared("elsewhere", "shop-2")
    words = start.command("shop-2", site["worker"])
    assert words[:2] == ["systemd-cat", "--identifier=shop-2-worker"]
    assert words[-4:] == ["--hostname", "50% ; $HOME", "-n", "%h"]
    assert not any("site-once" in word for word in words)


def test_a_program_that_runs_once_is_started_under_its_lock():
    start = programs.load("gunicorn", "site-start")
    words = start.command("shop-2", declared("elsewhere", "shop-2")["clock"])
    once = words.index("/usr/local/lib/trestle/site-once")
    assert words[once - 1] == "python"
    assert words[once + 1 :] == [
        "--stop-signal",
        "TERM",
        "--stop-wait",
        "30",
        "shop-2-clock",
        "django-admin",
        "run_clock",
    ]


def test_the_digest_follows_what_programs_are_started_with(tmp_path, monkeypatch):
    start = programs.load("gunicorn", "site-start")
    lib, configuration = tmp_path / "lib", tmp_path / "shop/configuration"
    files = [
        lib / name for name in ("gunicorn.conf.py", "site-run", "site-start", "site-once", "python/trestle_wsgi.py")
    ]
    files += [configuration / "environment", configuration / "programs.json"]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("one")
    monkeypatch.setattr(start, "LIB", lib)
    digests = [start.digest(configuration)]
    for file in files:
        file.write_text("two")
        digests.append(start.digest(configuration))
    assert len(set(digests)) == len(files) + 1
    assert start.digest(configuration) == digests[-1]
