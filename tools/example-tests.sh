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
# Their log is long and looks like errors: it is shown where they fail.
"../../$venv/bin/python" manage.py test >../../.cache/example-tests.log 2>&1 || {
    cat ../../.cache/example-tests.log
    exit 1
}
tail -n 3 ../../.cache/example-tests.log
