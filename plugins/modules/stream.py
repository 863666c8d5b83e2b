#!/usr/bin/python
"""Documentation of the action plugin of the same name, which does all in one step."""

DOCUMENTATION = r"""
module: stream
short_description: Bring files to a host, run a command there and take files back, in one step
description:
  - What C(copy), C(command) and C(fetch) do in a dozen steps, of which each waits for the host, is one here.
  - Files that are sent are whole when they get their names.
  - Runs as the task's user. In check mode nothing is done, and it is said to be a change.
  - Without files it is a command that needs no Python on the host, which takes longer to start than most commands run.
options:
  cmd:
    description: The command, for C(/bin/sh).
    type: str
    required: true
  chdir:
    description: Where on the host the command runs, and files are put; the user's home by default.
    type: path
  send:
    description: Files on the controller. They keep their names, belong to the task's user and are for its eyes only.
    type: list
    elements: path
    default: []
  alike:
    description:
      - For tar files that are sent, by their paths, others that the host has in the same folder under their own names.
        Only what those lack is sent. Where the host's is not the controller's after all, the whole is.
    type: dict
    default: {}
  contents:
    description: More files that are sent, by their names, with the text of each.
    type: dict
    default: {}
  receive:
    description:
      - A folder on the controller. The command's standard output is a tar archive then, whose files are put there.
        It may be one that C(tar_delta.py) has written, of a file that is much like one in the folder.
      - Without it the standard output is returned as C(stdout).
    type: path
"""

EXAMPLES = r"""
- name: Compile something elsewhere
  stream:
    chdir: /tmp
    send: [program.c]
    cmd: cc -o program program.c && tar -cf - program
    receive: build
"""

RETURN = r"""
rc: {description: The command's status; other than 0 the task fails., type: int, returned: when it ran}
stdout: {description: What it said., type: str, returned: without receive, or when it failed}
stderr: {description: What it said on standard error., type: str, returned: when it ran}
received: {description: The names of the files that came., type: list, returned: with receive}
"""
