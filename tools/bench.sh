#!/usr/bin/env bash
# Measures: the Node contestants need Node 20 and npm, the FastAPI one its packages.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/step.sh

command -v npm >/dev/null || fail "Node socket.io is measured, too: install Node 20 or newer with npm."
tools/setup.sh local,test
if ! .venv/bin/python -c 'import fastapi, httptools, uvicorn' 2>/dev/null; then
    pip=(.venv/bin/python -m pip install --disable-pip-version-check --no-input --constraint constraints.txt)
    step "Installing FastAPI" .venv/bench.log "${pip[@]}" --editable ".[bench]"
fi
wanted=$(cksum bench/node/package-lock.json)
if [[ ! -f bench/node/node_modules/.set-up || $(<bench/node/node_modules/.set-up) != "$wanted" ]]; then
    (cd bench/node && step "Installing Node's socket.io" ../../.venv/npm-bench.log npm ci --no-audit --no-fund)
    echo "$wanted" >bench/node/node_modules/.set-up
fi
.venv/bin/python -m bench.performance "$@"
