#!/usr/bin/env bash
# Builds the sdist and, of it, the wheel; installs each into an empty environment, as whoever gets it would, and runs it.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/step.sh
root=$PWD
log=$root/.venv/dist.log
work=$(mktemp -d)
trap '[[ -z ${server:-} ]] || kill "$server" 2>/dev/null || true; rm -rf "$work"' EXIT

rm -rf dist build
step "Building the sdist and the wheel" "$log" .venv/bin/python -m build
wheel=$(echo dist/*.whl)
version=$(basename "$wheel" | cut -d- -f2)
[[ -f dist/twin_sio-$version.tar.gz ]] || fail "there is no sdist of $version"

# into VENV WHAT...: a fresh environment with it
into() {
    local venv=$1
    shift
    "$root/.venv/bin/python" -m venv "$venv"
    "$venv/bin/python" -m pip install --disable-pip-version-check --no-input -c constraints.txt "$@"
}

step "Installing the sdist into an empty environment" "$log" into "$work/sdist" "dist/twin_sio-$version.tar.gz"
step "Installing the wheel with [local] into another" "$log" into "$work/wheel" "$wheel[local]"
cd "$work" # nothing of the project's folder may be found from here on
for venv in sdist wheel; do
    said=$("$venv/bin/twin-sio" --version)
    [[ $said == "twin-sio $version" ]] || fail "$venv: --version says '$said', not $version"
    "$venv/bin/python" -P -c "import twin_sio.runtime, server, worker"
done

# An endpoint for the model is set, so that nothing but the extra is needed: its embedded one is installed by `make run`.
printf 'raise SystemExit("a server of another project")\n' >server.py
PORT=0 OPENAI_BASE_URL=http://127.0.0.1:9/v1 TWIN_DATA_DIR=$work/data wheel/bin/twin-sio up >up.log 2>&1 &
server=$!
url=''
for _ in $(seq 300); do
    url=$(sed -n 's/.*Chat page *\(http[^/]*\/\/[^/]*\).*/\1/p' up.log)
    [[ -z $url ]] || break
    kill -0 "$server" 2>/dev/null || break
    sleep 0.1
done
[[ -n $url ]] || fail "twin-sio up did not start: $(tail -n 20 up.log)"
python3 - "$url" <<'PY'
import json, sys, urllib.request
for path in ("/readyz", "/", "/asyncapi.json"):
    with urllib.request.urlopen(sys.argv[1] + path, timeout=10) as answer:
        assert answer.status == 200, path
PY
wheel/bin/twin-sio doctor --url "$url" --sub ada
kill -INT "$server"
wait "$server" || fail "twin-sio up ended with code $?: $(tail -n 20 up.log)"
server=''
echo "dist/: twin-sio $version installs and runs: $(cd "$root" && ls dist | tr '\n' ' ')"
