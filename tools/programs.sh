#!/usr/bin/env bash
# Makes sure that the tests have HAProxy, nginx, promtool and a Redis that speaks TLS. On Debian and Ubuntu they are
# unpacked into .venv/debian and not installed: nothing is started, and nobody has to be root.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/step.sh
place=.venv/debian

has_all() {
    for program in haproxy nginx promtool redis-server; do
        PATH=$PATH:/usr/sbin:$place/usr/sbin:$place/usr/bin command -v "$program" >/dev/null || return 1
    done
}

has_all && exit 0
hint="The tests need haproxy, nginx, promtool (of prometheus) and redis-server: install them and run again."
command -v apt-get dpkg >/dev/null || fail "$hint"

# What is missing here of three packages and of what they need. Of prometheus only its package: promtool needs nothing.
missing() {
    apt-get install --simulate --no-install-recommends haproxy nginx redis-server | sed -n 's/^Inst \([^ ]*\) .*/\1/p'
    echo prometheus
}

download() (
    rm -rf "$place" && mkdir -p "$place/packages" && cd "$place/packages"
    missing | xargs apt-get download
    for package in *.deb; do
        dpkg -x "$package" ..
    done
    rm -r "$PWD"
)

if ! apt-cache show haproxy >/dev/null 2>&1; then
    root=()
    if ((EUID != 0)); then
        sudo -n true 2>/dev/null || fail "$hint"
        root=(sudo -n)
    fi
    step "Reading Debian's list of packages" .venv/programs.log "${root[@]}" apt-get update
fi
step "Unpacking HAProxy, nginx, promtool and redis-server for the tests" .venv/programs.log download
has_all || fail "$hint"
