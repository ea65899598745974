#!/usr/bin/env bash
# Makes sure that there is a browser for the tests of the chat page.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/step.sh

has_browser() {
    command -v chromium || command -v chromium-browser || command -v google-chrome
} >/dev/null

has_browser && exit 0
hint="The tests of the chat page need a browser: install chromium (or chromium-browser, or google-chrome) and run again."
command -v apt-get >/dev/null || fail "$hint"
root=()
if ((EUID != 0)); then
    sudo -n true 2>/dev/null || fail "$hint On Debian and Ubuntu: sudo apt-get install chromium"
    root=(sudo -n)
fi
step "Reading Debian's list of packages" .venv/browser.log "${root[@]}" apt-get update
step "Installing a browser for the tests (Debian's chromium)" .venv/browser.log \
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends chromium
has_browser || fail "$hint"
