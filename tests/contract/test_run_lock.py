"""The run lock: of two runs one is refused, a dead one's is taken over by its own engineer, and no run leaves one."""

import calendar
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from environments import ROOT
from test_hosts_down import load

action = load("plugins/action/run_lock.py")

ROUNDS = 300
HOLDER = {"id": "1", "owner": "dana@laptop", "since": "2026-11-20T14:02:07Z", "what": "site.yml --tags gunicorn"}


def here(command: str) -> dict:
    environment = os.environ | {"LC_ALL": "C"}
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=environment)
    return {"rc": done.returncode, "stdout": done.stdout, "stderr": done.stderr}


def act(path, state: str, *ids: str, holder: dict | None = None, pretend: bool = False):
    """On this machine, as on a host: (changed, holder)."""

    def said(command: str) -> str:
        done = here(command)
        assert done["rc"] == 0, done["stderr"]
        return done["stdout"]

    whose = [*ids, *([holder["id"]] if holder else [])]
    return action.act(said, str(path), state, whose or None, holder, pretend)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "trestle/run-lock"


def racer(folder: Path, name: str, barrier, wins) -> None:
    for number in range(ROUNDS):
        barrier.wait()
        taken, _ = act(folder / str(number), "held", holder={"id": name})
        if taken:
            wins.put((number, name))


def test_of_two_processes_exactly_one_gets_it(tmp_path):
    fork = multiprocessing.get_context("fork")
    barrier, wins = fork.Barrier(2), fork.SimpleQueue()
    racers = [fork.Process(target=racer, args=(tmp_path, name, barrier, wins)) for name in ("a", "b")]
    for process in racers:
        process.start()
    for process in racers:
        process.join(60)
    won = []
    while not wins.empty():
        won.append(wins.get())
    assert sorted(number for number, _ in won) == list(range(ROUNDS))
    assert all(act(tmp_path / str(number), "read") == (False, {"id": name}) for number, name in won)


def test_a_holder_keeps_it_until_it_is_freed(path):
    assert act(path, "held", holder=HOLDER) == (True, HOLDER)
    assert act(path, "held", holder={"id": "2"}) == (False, HOLDER)
    assert act(path, "free", "2") == (False, HOLDER), "not its own"
    assert act(path, "free", "1") == (True, HOLDER)
    assert act(path, "held", holder={"id": "2"}) == (True, {"id": "2"})
    assert act(path, "free") == (True, {"id": "2"})
    assert act(path, "free") == (False, {})
    assert not list(path.parent.iterdir()), "nothing else is left in its folder"


def test_who_holds_it_is_told_by_its_id_and_nothing_else_that_is_written_there(path):
    holder = HOLDER | {"id": "*", "what": 'site.yml -e \'{"id": "3"}\' $(touch x)', "owner": "3"}
    assert act(path, "held", holder=holder) == (True, holder)
    assert act(path, "held", "3", holder={"id": "2"}) == (False, holder)
    assert act(path, "free", "?") == (False, holder)
    assert act(path, "free", "*") == (True, holder)


def test_only_the_holder_that_is_known_to_be_dead_is_replaced(path):
    act(path, "held", holder=HOLDER)
    assert act(path, "held", "2", holder={"id": "3"}) == (False, HOLDER)
    assert act(path, "held", "1", holder={"id": "3"}) == (True, {"id": "3"})


def test_check_mode_writes_nothing(path):
    assert act(path, "held", holder=HOLDER, pretend=True) == (True, HOLDER)
    assert not path.parent.exists()
    act(path, "held", holder=HOLDER)
    assert act(path, "held", holder={"id": "2"}, pretend=True) == (False, HOLDER)
    assert act(path, "free", pretend=True) == (True, HOLDER)
    assert act(path, "read") == (False, HOLDER)


@pytest.mark.parametrize("left", ["", '{"id": "2", "owner"'])
def test_a_host_that_lost_its_power_while_it_wrote_is_free(path, left):
    path.parent.mkdir()
    path.write_text(left)
    assert act(path, "read") == (False, {})
    assert act(path, "held", holder=HOLDER) == (True, HOLDER)


def test_a_file_that_cannot_be_written_is_told_in_one_sentence(path, run):
    path.parent.write_text("no folder")
    said = run(state="held")
    assert said["failed"] and str(path) in said["msg"] and "File exists" in said["msg"], said


def test_a_file_that_is_no_lock_is_told_in_one_sentence(path, run):
    path.parent.mkdir()
    path.write_text("{not a lock}")
    said = run(state="held")
    assert said["failed"] and said["msg"] == f"{path}: is damaged: remove it"


class Action(action.ActionModule):
    """The action plugin of a host that is this machine."""

    def _low_level_execute_command(self, cmd, in_data=None):
        assert in_data, "ssh would give it a terminal"
        return here(cmd)


@pytest.fixture
def run(path, monkeypatch):
    """run(state="held"): what a task of lb1 says."""
    arguments = {"args": ("site.yml",), "tags": ["web", "gunicorn"], "skip_tags": (), "subset": "web1"}
    monkeypatch.setattr(action.context, "CLIARGS", arguments | {"inventory": (str(ROOT / "production"), "lab,")})
    monkeypatch.chdir(ROOT)

    def task(**args) -> dict:
        entry = SimpleNamespace(args={"path": str(path)} | args, delegate_to=None, async_val=0, check_mode=False)
        connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir="none"))
        return Action(entry, connection, *[None] * 4).run(task_vars={"inventory_hostname": "lb1"})

    return task


def held_by(path, process: subprocess.Popen, **other) -> dict:
    """A lock of that process, which is a run of ours."""
    run = action.controller() | {"pid": process.pid, "started": action.started(process.pid)}
    act(path, "held", holder=HOLDER | {"id": f"process {process.pid}"} | run | other)
    return act(path, "read")[1]


@pytest.fixture
def process():
    with subprocess.Popen(["sleep", "60"]) as started:
        yield started
        started.kill()


def test_who_is_refused_is_told_by_whom_since_when_and_what_to_do(run, path):
    act(path, "held", holder=HOLDER)
    said = run(state="held")
    assert said["failed"]
    assert said["msg"] == (
        "dana@laptop has been running site.yml --tags gunicorn since 2026-11-20 14:02 UTC (lock on lb1): wait, "
        "or where that run is dead: ansible-playbook playbooks/unlock.yml -i production -i lab,"
    )
    assert act(path, "read") == (False, HOLDER)


def test_the_lock_says_who_runs_what(run, path):
    assert not run(state="held").get("failed")
    holder = act(path, "read")[1]
    assert re.fullmatch(r".+@.+", holder["owner"])
    assert holder["what"] == "site.yml --tags gunicorn,web --limit web1"
    assert abs(time.time() - calendar.timegm(time.strptime(holder["since"], "%Y-%m-%dT%H:%M:%SZ"))) < 60
    assert not run(state="held").get("failed"), "it is ours already"
    said = run(state="free")
    assert said["changed"] and said["msg"].endswith("Its lock is gone.")
    assert run(state="free", anyone=True)["msg"] == "There is no lock."


def test_the_lock_of_our_own_dead_run_is_taken_over(run, path, process):
    held_by(path, process)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now
    said = run(state="held")
    assert not said.get("failed"), said
    assert "over from your run of" in said["warnings"][0]
    assert act(path, "read")[1]["pid"] == os.getpid()


def test_a_number_that_another_process_has_by_now_is_no_sign_of_life(run, path, process):
    held_by(path, process, started="1")
    assert not run(state="held").get("failed")


def test_the_lock_of_our_own_run_that_goes_on_is_not_taken_over(run, path, process):
    before = held_by(path, process)
    assert run(state="held")["failed"]
    assert act(path, "read")[1] == before


@pytest.mark.parametrize("other", [{"owner": "dana@laptop"}, {"machine": "another"}])
def test_of_another_controller_or_engineer_nobody_can_say_that_it_is_dead(run, path, process, other):
    before = held_by(path, process, **other)
    process.kill()
    process.wait()
    assert run(state="held")["failed"]
    assert act(path, "read")[1] == before


def test_a_run_from_before_the_controller_s_boot_is_dead(run, path, process):
    held_by(path, process, boot="the last one")
    assert not run(state="held").get("failed")


# The plays of the repository between which this one waits for a file, or fails.
WORK = """
- hosts: web
  gather_facts: false
  tags: always
  max_fail_percentage: 0
  tasks:
    - ansible.builtin.shell: touch {folder}/begun && timeout 60 sh -c 'until [ -e {folder}/go ]; do sleep 0.1; done'
    - ansible.builtin.fail:
      when: broken is defined
"""


class Runs:
    """ansible-playbook on this machine, in the plays lock.yml and end.yml, with the lock in a folder of the test."""

    def __init__(self, folder: Path):
        self.folder, self.lock = folder, folder / "state/run-lock"
        (folder / "tasks").mkdir()
        for name in ("lock", "end", "unlock", "tasks/give_back_lock"):
            entries = yaml.safe_load((ROOT / f"playbooks/{name}.yml").read_text())
            for play in (entry for entry in entries if "hosts" in entry):
                play["become"] = False
            for task in (task for entry in entries for task in entry.get("tasks", [entry])):
                task.get("run_lock", {})["path"] = str(self.lock)
            (folder / f"{name}.yml").write_text(yaml.safe_dump(entries))
        (folder / "work.yml").write_text(WORK.format(folder=folder))
        names = ("lock", "work", "end")
        (folder / "site.yml").write_text(yaml.safe_dump([{"import_playbook": f"{name}.yml"} for name in names]))
        local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "ansible_become": False}
        tiers = {"lb": {"hosts": {"lb1": local}}, "web": {"hosts": {"web1": local}}}
        (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": tiers}}))

    def start(self, *arguments: str) -> subprocess.Popen:
        command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "hosts.yml", "-e", '{"hosts_down": []}']
        environment = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_BECOME": "false"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen([*command, *arguments], cwd=self.folder, env=environment, **pipes)

    def begun(self, *arguments: str) -> subprocess.Popen:
        """A run that is amid its work, and has the lock."""
        process, deadline = self.start(*arguments), time.monotonic() + 60
        while not (self.folder / "begun").exists():
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
            time.sleep(0.05)
        assert self.lock.exists()
        return process

    def go(self) -> None:
        (self.folder / "go").touch()


@pytest.fixture
def runs(tmp_path):
    found = Runs(tmp_path)
    yield found
    found.go()


def test_a_second_run_is_refused_while_one_is_going_and_the_first_leaves_no_lock(runs):
    first = runs.begun("site.yml", "--tags", "gunicorn", "-e", "secret=open-sesame")
    assert "open-sesame" not in runs.lock.read_text()
    second = runs.start("site.yml")
    said = second.communicate()[0]
    assert second.returncode != 0
    refusal = r"\S+@\S+ has been running site.yml --tags gunicorn since 20\S+ \S+ UTC \(lock on lb1\): wait"
    assert re.search(refusal, said), said
    assert "begun" not in said and "PLAY [web]" not in said, said
    runs.go()
    said = first.communicate()[0]
    assert first.returncode == 0, said
    assert not runs.lock.exists()


def test_a_failed_run_leaves_no_lock(runs):
    runs.go()
    failed = runs.start("site.yml", "-e", "broken=1")
    said = failed.communicate()[0]
    assert failed.returncode == 2 and "Give the run lock back" not in said, said
    assert not runs.lock.exists(), said


def test_an_interrupted_run_leaves_no_lock(runs):
    process = runs.begun("site.yml")
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 99, said
    assert not runs.lock.exists(), said


def test_a_killed_run_s_lock_is_taken_over_by_the_next_and_freed_by_one_command(runs):
    process = runs.begun("site.yml")
    process.kill()
    process.wait()
    holder = json.loads(runs.lock.read_text())
    assert holder["pid"] == process.pid
    runs.go()
    again = runs.start("site.yml")
    said = " ".join(again.communicate()[0].split())
    assert again.returncode == 0 and "over from your run of" in said, said
    assert not runs.lock.exists()

    runs.lock.write_text(json.dumps(HOLDER))
    unlocked = runs.start("unlock.yml")
    said = " ".join(unlocked.communicate()[0].split())
    assert unlocked.returncode == 0 and "dana@laptop has been running site.yml --tags gunicorn since" in said, said
    assert not runs.lock.exists()


def test_check_mode_takes_no_lock_and_minds_none(runs):
    runs.go()
    runs.lock.parent.mkdir()
    runs.lock.write_text(json.dumps(HOLDER))
    checked = runs.start("site.yml", "--check")
    said = checked.communicate()[0]
    assert checked.returncode == 0, said
    assert json.loads(runs.lock.read_text()) == HOLDER
