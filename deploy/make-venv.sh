#!/bin/sh
# Make the virtual environment that everything runs in. Works with a bare Debian python3 too, whose venv
# comes without pip until python3-venv is installed.
set -eu
venv=$1
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "sixfold needs Python 3.11 or newer; $python is $("$python" --version 2>&1). Set PYTHON=..." >&2
    exit 1
}
if [ ! -x "$venv/bin/python" ] && ! "$python" -m venv "$venv" >/dev/null 2>&1; then
    rm -rf "$venv"
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "installing python3-venv"
        apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null
    else
        echo "this Python cannot make a virtual environment; install it: apt-get install python3-venv" >&2
        exit 1
    fi
    "$python" -m venv "$venv"
fi
echo "installing Sixfold and its libraries into $venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
