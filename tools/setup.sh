#!/usr/bin/env bash
# Make the virtual environment that `make demo` and `make test` run in: tools/setup.sh [FOLDER], by default .venv.
#
#   PYTHON=python3.12    the interpreter to make it with (3.10 or later)
#   TORCH_INDEX=ADDRESS  where pip should get torch from, and only torch (pytorch.org names the one with CPU builds)
#
# A finished set-up leaves a stamp, so that the next run needs neither pip nor a network. An interrupted one starts anew.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${1:-.venv}
python=${PYTHON:-python3}

fail() { echo "set-up: $*" >&2; exit 1; }
supported() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }

faiss=cpu
if nvidia-smi -L >/dev/null 2>&1; then faiss=gpu; fi
stamp="$venv/.ready-$({ cat pyproject.toml constraints.txt tools/setup.sh; echo "$PWD $faiss"; } | cksum | cut -d' ' -f1)"
if [ -e "$stamp" ] && supported "$venv/bin/python"; then exit 0; fi

if [ -e "$venv/.unfinished" ]; then
    echo "set-up: an earlier set-up of $venv was interrupted; starting anew"
    rm -rf "$venv"
elif [ -d "$venv" ] && [ -n "$(ls -A "$venv")" ] && [ ! -e "$venv/pyvenv.cfg" ]; then
    fail "$venv is not a virtual environment; name another folder (make VENV=FOLDER) or remove it"
fi
if ! supported "$venv/bin/python"; then
    command -v "$python" >/dev/null || fail "there is no $python; install Python 3.10 or later, or set PYTHON"
    supported "$python" || fail "$python is $("$python" -V 2>&1); Python 3.10 or later is needed (make PYTHON=python3.12)"
    rm -rf "$venv"
    mkdir -p "$venv"
    touch "$venv/.unfinished"
    echo "set-up: making the virtual environment $venv with $("$python" -V)"
    "$python" -m venv "$venv" || fail "$python cannot make it; on Debian and Ubuntu: apt install python3-venv"
fi
touch "$venv/.unfinished"
rm -f "$venv"/.ready-*

pip() {
    "$venv/bin/python" -m pip --disable-pip-version-check install --quiet "$@" ||
        fail "pip could not install the above; with a network connection, run the same command again"
}
torch=$(grep '^torch==' constraints.txt)
echo "set-up: installing $torch (some 200 MB for a CPU, 3 GB for a GPU)"
pip "$torch" ${TORCH_INDEX:+--index-url "$TORCH_INDEX"}

# The locked versions need Python 3.11: an older one gets those that pyproject.toml allows.
locked=constraints.txt
if ! "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "set-up: Python 3.10 cannot take the locked versions of constraints.txt; pip chooses older ones"
    locked="$venv/torch.txt"
    echo "$torch" >"$locked"
fi
echo "set-up: installing colbertxm[$faiss,dev] and the libraries it needs (1-3 minutes)"
pip -c "$locked" -e ".[$faiss,dev]"

"$venv/bin/python" -c 'import colbertxm, faiss, torch' || fail "the environment does not work; remove $venv and run again"
rm -f "$venv/.unfinished"
touch "$stamp"
echo "set-up: ready"
