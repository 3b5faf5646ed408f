#!/usr/bin/env bash
# Makes .venv and installs into it what is wanted: "serve" for the demo, "dev" for the tests.
# A second run finds its stamp and does nothing. Works in any folder, also one with a blank in its name.
set -euo pipefail
cd "$(dirname "$0")/.."
want=${1:?serve or dev}
unset PYTHONHOME PYTHONPATH
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

# One at a time: "make demo" and "make test" may be started together. The script itself is the lock.
exec 9<scripts/bootstrap.sh
flock 9

say() { printf 'bootstrap: %s\n' "$*" >&2; }

# The folder's name counts: an environment that was moved still points at where it was made.
key=$( { pwd; cat pyproject.toml constraints.txt scripts/fetch_tools.py; } | sha256sum | cut -c1-16)
[ -e ".venv/stamp-$want-$key" ] && exit 0

find_python() {
    local name
    for name in python3 python3.11 python3.12; do
        if "$name" -c 'import sys; sys.exit(sys.version_info[:2] not in {(3, 11), (3, 12)})' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    say 'Python 3.11 or 3.12 is needed and neither was found. On Debian 12: apt-get install python3'
    return 1
}

# Debian splits off the venv module, and the shared library that Triton's Python models are run by.
lacking_packages() {
    "$1" - <<'PYTHON'
import ctypes.util, importlib.util, pathlib, sys, sysconfig

minor = f"{sys.version_info.major}.{sys.version_info.minor}"
if any(importlib.util.find_spec(name) is None for name in ("ensurepip", "venv")):
    print(f"python{minor}-venv")
library = f"libpython{minor}.so.1.0"
folders = (sysconfig.get_config_var("LIBDIR") or "/usr/lib", sys.base_prefix + "/lib")
if not any(pathlib.Path(f, library).is_file() for f in folders) and not ctypes.util.find_library(f"python{minor}"):
    print(f"libpython{minor}")
PYTHON
}

install_packages() {
    local -a as_root=()
    if [ "$(id -u)" != 0 ]; then
        as_root=(sudo)
        if ! sudo -n true 2>/dev/null; then
            say "Debian packages are missing. Run this and start again: sudo apt-get install -y $*"
            return 1
        fi
    fi
    if ! command -v apt-get >/dev/null; then
        say "missing: $* (these are Debian's names). Install them and start again."
        return 1
    fi
    say "installing Debian packages: $*"
    "${as_root[@]}" apt-get update -qq >/dev/null || say 'apt-get update failed; trying with the lists at hand'
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# The tests look at pages in a real browser (tests/browser.py).
lacking_browser() {
    [ "$want" != dev ] || command -v chromium >/dev/null || command -v google-chrome >/dev/null || echo chromium
}

# One test sets the clock of the processes that it starts (tests/supervise/test_clock.py).
lacking_clock() {
    [ "$want" != dev ] || compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null || echo libfaketime
}

python=$(find_python)
lacking=$(lacking_packages "$python" && lacking_browser && lacking_clock)
# shellcheck disable=SC2086  # one word per package
[ -z "$lacking" ] || install_packages $lacking

# A half-made environment, one that was moved, or one of another Python is made anew. Somebody's own is used.
usable() {
    [ ! -e .venv/half-made ] && [ "$(cat .venv/made-in 2>/dev/null || pwd)" = "$(pwd)" ] || return 1
    .venv/bin/python -c 'import sys; sys.exit(sys.version_info[:2] not in {(3, 11), (3, 12)})' 2>/dev/null &&
        .venv/bin/python -m pip --version >/dev/null 2>&1
}
if ! usable; then
    rm -rf .venv
    mkdir .venv
    touch .venv/half-made
    "$python" -m venv .venv
    pwd >.venv/made-in
    rm .venv/half-made
fi

say "installing Python packages into .venv for \"$want\" (once; a few minutes, depending on the network)"
rm -f .venv/stamp-*
# By the environment and not by an option, because so the constraints reach isolated builds too.
extras=$want
[ "$want" != serve ] || extras=serve,gateway  # a second's work; without it "serve" would open no API and no page
PIP_CONSTRAINT=constraints.txt .venv/bin/python -m pip install -qq -e ".[$extras]"
# pip writes this folder's name into a file that every Python of the environment reads, Triton's too, which knows no
# letter beyond ASCII. A relative way has none.
{ grep -lxF -e "$(pwd)" .venv/lib/python3.*/site-packages/*.pth || true; } |
    while read -r file; do echo ../../../.. >"$file"; done
[ "$want" != dev ] || .venv/bin/python scripts/fetch_tools.py .venv/tools
touch ".venv/stamp-$want-$key"
# Whatever the demo needs, the tests need too.
[ "$want" != dev ] || touch ".venv/stamp-serve-$key"
