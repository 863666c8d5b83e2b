#!/bin/sh
# Makes .venv with the pinned dependencies; says in one sentence what is missing where it cannot.
set -eu
cd "$(dirname "$0")/.."
log=.cache/bootstrap.log
# Not the Python of the virtualenv that is about to be made anew.
PATH=$(echo "$PATH" | tr : '\n' | grep -Fxv "$PWD/.venv/bin" | paste -sd :)
mkdir -p .cache

fail() { echo "error: $*" >&2; exit 1; }
say() { echo "[setup] $*"; }

apt_install() {
    [ "$(id -u)" = 0 ] || fail "$1 is missing and this is not root: install $1, or run the command again with sudo."
    command -v apt-get >/dev/null || fail "$1 is missing and this is not Debian: install $1 and run the command again."
    say "installing $*"
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"; } >>"$log" 2>&1 ||
        fail "$* could not be installed from Debian's packages ($(tail -n 1 "$log")): see $log."
}

python=
for candidate in python3.13 python3.12 python3.11 python3; do
    if command -v "$candidate" >/dev/null &&
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$(command -v "$candidate")
        break
    fi
done
[ -n "$python" ] ||
    fail "Python 3.11 or newer is needed$(python3 -V 2>/dev/null | sed 's/^/ and this is /'): install it, as in apt-get install python3 on Debian 12 or 13."

wanted="$(cksum <requirements.txt) $("$python" -V)"
if [ "$(cat .venv/.wanted 2>/dev/null || true)" != "$wanted" ]; then
    started=$(date +%s)
    "$python" -c 'import ensurepip, venv' 2>/dev/null || apt_install python3-venv
    say "making .venv with $("$python" -V) and the pinned dependencies (a minute or two; details in $log)"
    rm -rf .venv
    "$python" -m venv .venv >>"$log" 2>&1 || fail "the virtualenv could not be made ($(tail -n 1 "$log")): see $log."
    .venv/bin/pip install -q --disable-pip-version-check -r requirements.txt >>"$log" 2>&1 ||
        fail "the dependencies could not be installed from PyPI ($(grep -m 1 ERROR "$log" || tail -n 1 "$log")): check the network; see $log."
    echo "$wanted" >.venv/.wanted
    say "done in $(($(date +%s) - started)) s"
fi

command -v ssh >/dev/null || apt_install openssh-client
command -v git >/dev/null || apt_install git
