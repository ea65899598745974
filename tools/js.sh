#!/usr/bin/env bash
# Checks, builds and tests the TypeScript client, against the real service from .venv.
set -euo pipefail
cd "$(dirname "$0")/../clients/js"
source ../../tools/step.sh

command -v npm >/dev/null || fail "The TypeScript client is tested with Node 20 or newer and npm: install them and run again."
node -e 'process.exit(process.versions.node.split(".")[0] < 20 ? 1 : 0)' || fail "Node 20 or newer is needed; this is $(node --version)."

wanted=$(cksum package-lock.json)
if [[ ! -f node_modules/.set-up || $(<node_modules/.set-up) != "$wanted" ]]; then
    step "Installing what the TypeScript client is built with" ../../.venv/npm.log npm ci --no-audit --no-fund
    echo "$wanted" >node_modules/.set-up
fi
# The AG-UI client is tested from Python: the agents of those tests are.
cd ../../tests/ag_ui
wanted=$(cksum package-lock.json)
if [[ ! -f node_modules/.set-up || $(<node_modules/.set-up) != "$wanted" ]]; then
    step "Installing the AG-UI client" ../../.venv/npm.log npm ci --no-audit --no-fund
    echo "$wanted" >node_modules/.set-up
fi
cd ../..
.venv/bin/python -m pytest -q tests/ag_ui
cd clients/js
npm run --silent generate -- --check
npm run --silent check
npm run --silent build -- --check
npm run --silent test
cd ../.. && .venv/bin/python -m pytest -q tests/test_ai_sdk.py
