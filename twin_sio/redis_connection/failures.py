"""What is wrong with Redis, in one true sentence with what to do; never the address, and nothing that Redis said."""

from __future__ import annotations

import socket
import ssl

from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    InvalidResponse,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from twin_sio.errors import EngineFailure, causes

SENTENCES = {
    "no_password": "Redis asks for a password: put it into TWIN_REDIS_URL, as redis://:password@host:6379/0.",
    "needless_password": "TWIN_REDIS_URL gives a password and Redis has none: take it out, or set requirepass.",
    "wrong_password": "Redis refuses the user or the password of TWIN_REDIS_URL.",
    "no_rights": "The user of TWIN_REDIS_URL lacks rights on {what}: Redis' ACL must give it ~* &* +@all -@admin.",
    "loading": "Redis is loading its data: wait.",
    "out_of_memory": (
        "Redis is out of memory and takes no writes: raise maxmemory, or set a maxmemory-policy that evicts."
    ),
    "no_disk": (
        "Redis cannot write to its disk and takes no writes (MISCONF): make room there, or run it without a disk "
        '(save "", appendonly no).'
    ),
    "read_only": "TWIN_REDIS_URL names a replica, which takes no writes: name the master, or the Sentinels.",
    "no_master": (
        "No Sentinel of TWIN_REDIS_URL can be reached, or none knows a living master of that name (?master=)."
    ),
    "no_sentinel": "What listens at TWIN_REDIS_URL is no Sentinel: redis:// instead of redis+sentinel://.",
    "no_cluster": "What listens at TWIN_REDIS_URL is no Redis Cluster: redis:// instead of redis+cluster://.",
    "is_cluster": "TWIN_REDIS_URL names a node of a Redis Cluster: redis+cluster:// instead of redis://.",
    "no_quorum": "Redis lacks masters or replicas that it needs for writes: look at CLUSTER INFO, or INFO replication.",
    "protected": "Redis is in its protected mode, for its own machine alone: give it a password (requirepass).",
    "too_many_clients": "Redis has no room for another connection: raise its maxclients, or look who holds so many.",
    "used_up": "What the account of TWIN_REDIS_URL may use of Redis is used up: look at its plan.",
    "no_database": "Redis has no database of the number that stands at the end of TWIN_REDIS_URL.",
    "sentinel_password": "The Sentinels ask for a password of their own: add &sentinel_password= to TWIN_REDIS_URL.",
    "certificate": "The certificate of Redis is refused: add ?ssl_ca_certs=/path/of/ca.pem to TWIN_REDIS_URL.",
    "no_tls": "TWIN_REDIS_URL asks for TLS and what listens there does not speak it: redis:// instead of rediss://.",
    "not_redis": "What listens at TWIN_REDIS_URL is no Redis.",
    "unknown_host": "The host of TWIN_REDIS_URL has no address: look at its name.",
    "refused": "Nobody listens at TWIN_REDIS_URL: start Redis there, or set the right address.",
    "hung_up": (
        "What listens at TWIN_REDIS_URL ended the connection: Redis died or is shutting down; or, where it never "
        "worked, it is no Redis, or speaks TLS alone (rediss:// instead of redis://)."
    ),
    "no_connection": (
        "No connection to TWIN_REDIS_URL within a second: a firewall, or rediss:// where redis:// is spoken."
    ),
    "silent": "Redis does not answer within a second: it hangs, or its machine is busy.",
    "unreachable": "Redis at TWIN_REDIS_URL cannot be reached.",
    "other": (
        "Redis at TWIN_REDIS_URL refuses what it is asked: it must be Redis 6.2 or newer, with its usual commands."
    ),
}


def explain(error: BaseException) -> EngineFailure:
    """What an error, one of `REDIS_ERRORS`, says."""
    # From the outside in: what the library made of it may say less than what it was made of.
    kind = next((found for one in causes(error) if (found := _kind(one))), "")
    if not kind:
        kind = next((found for sign, found in _BY_TEXT.items() if sign in str(error)), "")
    if not kind:
        kind = "unreachable" if isinstance(error, RedisConnectionError | OSError) else "other"
    what = next((f"{name}s" for name in ("channel", "key") if f"a {name}" in str(error)), "a command that is needed")
    return EngineFailure(kind, SENTENCES[kind].format(what=what))


# Where only the library's own words tell; looked at last, since they change with its versions.
_BY_TEXT = {
    "Connection closed by server": "hung_up",
    "reset by peer": "hung_up",
    "Connect call failed": "refused",
    "unknown command 'SENTINEL'": "no_sentinel",
    "cluster support disabled": "no_cluster",
    "SELECT is not allowed in cluster mode": "is_cluster",
    "max number of clients": "too_many_clients",
    "limit exceeded": "used_up",
    "DB index is out of range": "no_database",
}
# Of a reply the first word is its code; the library has no class for these.
_BY_CODE = {
    "MOVED": "is_cluster",
    "ASK": "is_cluster",
    "CROSSSLOT": "is_cluster",
    "CLUSTERDOWN": "no_quorum",
    "MASTERDOWN": "no_quorum",
    "NOREPLICAS": "no_quorum",
    "DENIED": "protected",
    "MISCONF": "no_disk",
    "BUSY": "silent",
}


# In this order: the first that an error is an instance of.
_BY_CLASS: tuple[tuple[type[BaseException], str], ...] = (
    (NoPermissionError, "no_rights"),
    (BusyLoadingError, "loading"),
    (OutOfMemoryError, "out_of_memory"),
    (ReadOnlyError, "read_only"),
    (InvalidResponse, "not_redis"),
    (ssl.SSLCertVerificationError, "certificate"),
    (socket.gaierror, "unknown_host"),
    (ConnectionRefusedError, "refused"),
    (FileNotFoundError, "refused"),
    (ConnectionResetError, "hung_up"),
    (RedisTimeoutError, "silent"),
    (TimeoutError, "silent"),
)


def _kind(error: BaseException) -> str:
    text = str(error)
    if "Timeout connecting" in text:
        return "no_connection"
    if isinstance(error, AuthenticationError):
        if text.startswith(("AUTH <password> called without", "Client sent AUTH, but no")):
            return "needless_password"
        return "no_password" if text.startswith(("Authentication required", "HELLO must")) else "wrong_password"
    # The Sentinels were asked one by one; why each had no answer stands in its text only.
    if isinstance(error, MasterNotFoundError):
        return "sentinel_password" if "AuthenticationError" in text else "no_master"
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLCertVerificationError):
        return "no_tls"
    if isinstance(error, ResponseError) and (kind := _BY_CODE.get(text.partition(" ")[0])):
        return kind
    return next((kind for known, kind in _BY_CLASS if isinstance(error, known)), "")
