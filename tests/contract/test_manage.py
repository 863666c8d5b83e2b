"""`make manage` reaches a host as Ansible does, and hands the command over word by word."""

from __future__ import annotations

import shlex

import pytest

from tools import manage


def test_a_host_is_reached_with_what_the_inventory_says_of_it():
    variables = {
        "ansible_host": "192.0.2.7",
        "ansible_user": "ada",
        "ansible_port": 2222,
        "ansible_ssh_private_key_file": "key",
        "ansible_ssh_common_args": "-o 'ProxyCommand=ssh -W %h:%p gate'",
    }
    assert manage.ssh("web1", variables) == [
        *("ssh", "-o", "ConnectTimeout=5", "-l", "ada", "-p", "2222", "-i", "key"),
        *("-o", "ProxyCommand=ssh -W %h:%p gate", "192.0.2.7"),
    ]


def test_what_the_inventory_leaves_out_is_for_ssh_s_own_configuration():
    assert manage.ssh("web1", {}) == ["ssh", "-o", "ConnectTimeout=5", "web1"]


@pytest.mark.parametrize("become", [True, False])
def test_the_words_of_a_command_survive_the_host_s_shell(become):
    command = """shell -c 'print("$HOME; `id`")'"""
    words = shlex.split(manage.remote("newsroom", command, become))
    assert words[:1] == (["sudo"] if become else ["/usr/local/bin/site-manage"])
    assert words[-4:] == ["newsroom", "shell", "-c", 'print("$HOME; `id`")']


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"SITE": "newsroom"}, manage.USAGE),
        (
            {"SITE": "nope", "COMMAND": "check"},
            "inventories/production/group_vars/all/sites.yml: there is no site 'nope'.",
        ),
        (
            {"ENV": "nowhere", "SITE": "newsroom", "COMMAND": "check"},
            "There is no inventories/nowhere: name an environment, as in ENV=production.",
        ),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(monkeypatch, settings, sentence):
    for name in ("LAB", "SITE", "COMMAND"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"ENV": "production"} | settings).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stopped:
        manage.main()
    assert str(stopped.value) == sentence
