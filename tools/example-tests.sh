#!/bin/sh
# Runs the example project's tests in a virtualenv of its own, as its developers would.
set -eu
cd "$(dirname "$0")/.."
project=examples/newsroom
venv=.cache/newsroom-venv
wanted=$(cksum <"$project/requirements.txt")
if [ "$(cat "$venv/.wanted" 2>/dev/null || true)" != "$wanted" ]; then
    rm -rf "$venv"
    .venv/bin/python -m venv "$venv"
    "$venv/bin/pip" install -q --disable-pip-version-check -r "$project/requirements.txt"
    echo "$wanted" >"$venv/.wanted"
fi
cd "$project"
exec "../../$venv/bin/python" manage.py test
