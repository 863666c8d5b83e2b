"""Files to a host, a command there and files back, in one step (plugins/action/stream.py)."""

import base64
import io
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml
from environments import ROOT
from test_hosts_down import load

plugin = load("plugins/action/stream.py")

# Bytes that are no text, and ends of lines that a terminal would change.
CONTENT = bytes(range(256)) + b"\r\n\n\x00\xff" * 1000


@pytest.fixture
def host(tmp_path) -> Path:
    (tmp_path / "host").mkdir()
    return tmp_path / "host"


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "a file.tar"
    path.write_bytes(CONTENT)
    return path


def streamed(
    cmd: str, host: Path, archive: bytes = b"", sends: bool = True, receives: bool = False, deltas: tuple = ()
) -> subprocess.CompletedProcess:
    command = plugin.command(cmd, str(host), sends, receives, list(deltas))
    done = subprocess.run(["sh", "-c", command], input=archive, capture_output=True)
    mark, done.stdout = done.stdout.split(b"\n", 1)
    assert mark.decode() == plugin.shell.MARK
    return done


def test_what_is_sent_is_there_for_the_command(host, file):
    (host / file.name).write_text("an earlier one")
    done = streamed("cat 'a file.tar'", host, plugin.packed([str(file)]))
    assert (done.returncode, done.stdout) == (0, CONTENT)
    assert [path.name for path in host.iterdir()] == [file.name]
    assert (host / file.name).stat().st_mode & 0o777 == 0o600


def test_files_may_be_given_by_their_content(host):
    done = streamed("cat settings", host, plugin.packed([], {"settings": "naïve\n"}))
    assert done.stdout.decode() == "naïve\n" and (host / "settings").stat().st_mode & 0o777 == 0o600


def test_a_stream_that_is_cut_short_changes_nothing_and_runs_nothing(host, file):
    (host / file.name).write_text("an earlier one")
    done = streamed("touch ran", host, plugin.packed([str(file)])[: len(CONTENT) // 2])
    assert done.returncode != 0
    assert (host / file.name).read_text() == "an earlier one" and len(list(host.iterdir())) == 1
    assert streamed("touch ran", host, plugin.packed([str(file)])).returncode == 0
    assert sorted(path.name for path in host.iterdir()) == [file.name, "ran"]


def test_every_part_of_the_command_waits_for_the_files(host, file):
    done = streamed("false || touch ran", host, b"no archive")
    assert done.returncode != 0 and not (host / "ran").exists()


def test_what_comes_back_lies_in_the_folder_under_its_own_name(tmp_path, host, file):
    streamed("true", host, plugin.packed([str(file)]))
    archive = streamed("tar -cf - ./*", host, sends=False, receives=True).stdout
    assert plugin.unpacked(archive.decode(), tmp_path / "back") == [file.name]
    assert (tmp_path / "back" / file.name).read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "back").iterdir()] == [file.name]


def test_what_comes_back_is_none_where_the_command_fails_and_nothing_else_is_left(host, file):
    for sends in (True, False):
        done = streamed("tar -cf - ./*; exit 3", host, plugin.packed([str(file)]), sends, receives=True)
        assert (done.returncode, done.stdout) == (3, b"")
    assert [path.name for path in host.iterdir()] == [file.name]


# A tar file, as an artifact is one: a manifest, wheels and a project.


def tarred(path: Path, **members: bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


WHEELS = {"django": random.Random(1).randbytes(300_001), "psycopg": random.Random(2).randbytes(200_000)}
BEFORE = {"manifest": b"1", **WHEELS, "views": b"old" * 100, "styles": b"a" * 5000}


@pytest.mark.parametrize(
    ("after", "most"),
    [
        (BEFORE | {"manifest": b"2", "views": b"new" * 100}, 20_000),
        # A manifest that needs more room moves all that comes after it.
        (BEFORE | {"manifest": b"2" * 2000}, 20_000),
        (dict(reversed(BEFORE.items())), 20_000),
        ({"manifest": b"2", "another": WHEELS["psycopg"]}, 220_000),
        ({"manifest": b"2" * 9, **WHEELS, "gunicorn": random.Random(3).randbytes(70_000)}, 90_000),
        ({"manifest": b"only"}, 11_000),
    ],
)
def test_only_what_a_host_lacks_is_sent(tmp_path, host, after, most):
    old, new = tarred(tmp_path / "here/key-a.tar", **BEFORE), tarred(tmp_path / "here/b c.tar", **after)
    shutil.copy(old, host)
    one = plugin.delta(new, old)
    done = streamed("ls", host, plugin.packed([str(new)], deltas={str(new): one}), deltas=[one])
    assert (done.returncode, done.stdout.decode()) == (0, "b c.tar\nkey-a.tar\n"), done.stderr
    assert (host / new.name).read_bytes() == new.read_bytes() and len(one.lacking) < most
    assert (host / new.name).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("damage", ["gone", "empty", "zeros", "cut short", "in many pieces"])
def test_what_cannot_be_compared_is_sent_whole(tmp_path, damage):
    many = {f"{number}": random.Random(number).randbytes(70_000) for number in range(60)}
    small = {f"{number}-small": b"%d" % number for number in range(60)}
    between = [one for pair in zip(many.items(), small.items(), strict=True) for one in pair]
    new = tarred(tmp_path / "here/key-b.tar", **dict(between))
    old = tarred(tmp_path / "here/key-a.tar", **many)
    whole = old.read_bytes()
    if damage == "gone":
        old.unlink()
    elif damage != "in many pieces":
        old.write_bytes({"empty": b"", "zeros": bytes(len(whole)), "cut short": whole[:100_000]}[damage])
    assert plugin.delta(new, old) is None
    if damage != "gone":
        assert damage == "in many pieces" or plugin.delta(old, new) is None


@pytest.mark.parametrize(
    ("theirs", "sent"), [("the same", 1), ("cut short", 2), ("another", 2), ("none", 2)], ids=lambda each: str(each)
)
def test_all_is_sent_where_the_host_has_not_that_file(tmp_path, host, theirs, sent):
    old = tarred(tmp_path / "here/key-a.tar", **BEFORE)
    new = tarred(tmp_path / "here/key-b.tar", **BEFORE | {"manifest": b"2"})
    content = {
        "the same": old.read_bytes(),
        "cut short": old.read_bytes()[:400_000],
        "another": tarred(tmp_path / "key-a.tar", **BEFORE | {"django": WHEELS["django"][::-1]}).read_bytes(),
    }
    if theirs in content:
        (host / old.name).write_bytes(content[theirs])
    shell = tmp_path / "sh"
    shell.write_text('#!/bin/sh\ntee "$0.$$.stdin" | /bin/sh "$@"\n')
    shell.chmod(0o755)
    wanted = {"chdir": str(host), "send": [str(new)], "alike": {str(new): str(old)}, "cmd": "echo ran >>ran"}
    done = play(tmp_path, "-e", f"ansible_shell_executable={shell}", **wanted)
    assert "rc=0, changed=True" in done.stdout, done.stdout
    assert (host / new.name).read_bytes() == new.read_bytes() and (host / "ran").read_text() == "ran\n"
    assert {path.name for path in host.iterdir()} == {new.name, "ran", *[old.name] * (theirs in content)}
    sizes = sorted(path.stat().st_size for path in tmp_path.glob("sh.*.stdin") if path.stat().st_size)
    assert len(sizes) == sent and sizes[0] < 50_000, sizes


def delta_of(new: Path, old: Path) -> str:
    """What a host with both sends of the one."""
    program = ROOT / "roles/build/files/usr/local/lib/trestle/tar_delta.py"
    done = subprocess.run([sys.executable, "-B", program, new, old], capture_output=True, check=True)
    return base64.b64encode(done.stdout).decode()


def test_of_what_comes_back_only_that_comes_which_is_not_here(tmp_path):
    new = tarred(tmp_path / "there/key-b.tar", **BEFORE | {"manifest": b"2" * 2000, "views": b"new" * 100})
    old, back = tarred(tmp_path / "there/key-a.tar", **BEFORE), tmp_path / "back"
    whole = delta_of(new, tmp_path / "there/key-0.tar")
    assert plugin.unpacked(whole, back) == [new.name] and (back / new.name).read_bytes() == new.read_bytes()
    (back / new.name).unlink()
    shutil.copy(old, back)
    little = delta_of(new, old)
    assert plugin.unpacked(little, back) == [new.name] and len(little) < 40_000 < len(whole)
    assert (back / new.name).read_bytes() == new.read_bytes()
    assert {path.name for path in back.iterdir()} == {new.name, old.name}


def test_what_comes_back_is_refused_where_the_file_here_is_another(tmp_path):
    new = tarred(tmp_path / "there/key-b.tar", **BEFORE | {"manifest": b"2"})
    old = tarred(tmp_path / "there/key-a.tar", **BEFORE)
    another = tarred(tmp_path / "back/key-a.tar", **BEFORE | {"django": WHEELS["django"][::-1]})
    with pytest.raises(ValueError, match=r"key-a\.tar is damaged: remove it"):
        plugin.unpacked(delta_of(new, old), another.parent)
    assert [path.name for path in another.parent.iterdir()] == [another.name]


def play(tmp_path: Path, *options: str, **arguments) -> subprocess.CompletedProcess:
    tasks = [
        {"stream": arguments, "register": "done"},
        {"ansible.builtin.debug": {"msg": "rc={{ done.rc | default('none') }}, changed={{ done.changed }}"}},
    ]
    book = tmp_path / "play.yml"
    book.write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
    (tmp_path / "hosts").write_text(f"here ansible_connection=local ansible_python_interpreter={sys.executable}\n")
    command = [Path(sys.executable).parent / "ansible-playbook", "-i", tmp_path / "hosts", book, *options]
    environment = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_BECOME": "false"}
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)


def test_what_a_login_shell_says_is_no_part_of_the_answer(tmp_path, host):
    greeting = tmp_path / "sh"
    greeting.write_text('#!/bin/sh\necho "Welcome to web1!"\nexec /bin/sh "$@"\n')
    greeting.chmod(0o755)
    done = play(tmp_path, "-e", f"ansible_shell_executable={greeting}", chdir=str(host), cmd="echo it; false")
    assert re.search(r"stdout: \|-\s+it\n", done.stdout) and "Welcome" not in done.stdout, done.stdout


def test_ansible_brings_the_bytes_there_and_back(tmp_path, host, file):
    back = tmp_path / "back"
    wanted = {"chdir": str(host), "send": [str(file)], "cmd": "tar -cf - *.tar", "receive": str(back)}
    done = play(tmp_path, "--check", **wanted)
    assert "rc=none, changed=True" in done.stdout and not back.exists() and not list(host.iterdir()), done.stdout
    done = play(tmp_path, **wanted)
    assert "rc=0, changed=True" in done.stdout and (back / file.name).read_bytes() == CONTENT, done.stdout


def test_a_command_that_fails_is_told_with_what_it_said(tmp_path, host):
    done = play(tmp_path, chdir=str(host), cmd="echo it is damaged >&2; exit 3")
    assert done.returncode == 2 and "rc: 3" in done.stdout and "it is damaged" in done.stdout, done.stdout
    assert "cmd" in play(tmp_path, chdir=str(host)).stdout
