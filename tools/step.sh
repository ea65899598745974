# Sourced: fail TEXT, and step TEXT LOG COMMAND..., which shows what is being done and how long it took.

fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

step() {
    local what=$1 log=$2 ticker='' began=$SECONDS code=0
    shift 2
    if [[ -t 1 ]]; then
        (
            trap 'exit 0' TERM
            while :; do
                printf '\r%s ... %d s' "$what" $((SECONDS - began))
                sleep 1
            done
        ) &
        ticker=$!
    else
        printf '%s ...' "$what"
    fi
    "$@" >"$log" 2>&1 </dev/null || code=$?
    if [[ -n $ticker ]]; then
        kill "$ticker" 2>/dev/null || true
        wait "$ticker" 2>/dev/null || true
    fi
    if ((code != 0)); then
        echo
        tail -n 20 "$log" >&2
        if grep -qE 'NewConnectionError|NameResolutionError|Temporary failure in name resolution|ProxyError' "$log"; then
            fail "$what: PyPI cannot be reached: this needs a network, or PIP_INDEX_URL or HTTPS_PROXY for the one you have."
        fi
        fail "$what: failed after $((SECONDS - began)) s (code $code); the whole log is in $log"
    fi
    [[ -n $ticker ]] && printf '\r%s ...' "$what"
    printf ' %d s\n' $((SECONDS - began))
}
