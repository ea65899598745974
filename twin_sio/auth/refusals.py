"""Refused tokens: a code for the client, who is told no more, and a reason for the operator, in the log."""

from __future__ import annotations

from typing import Final

from twin_sio.errors import HandshakeRefused
from twin_sio.observability.limited_log import LimitedLog

_MESSAGES: Final = {
    "auth_missing": "A token is needed: send it as auth.token over Socket.IO, in the header Authorization: Bearer over "
    "HTTP and WebSocket, never in the query.",
    "auth_invalid": "The token is not accepted.",
    "auth_expired": "The token has expired: connect with a fresh one.",
}

_logged = LimitedLog("auth", "token_refused")


def refused(code: str, reason: str = "") -> HandshakeRefused:
    """A refusal of one of these codes. `reason` says for the operator what is wrong, never with a word of the token; it
    is logged at most once a minute."""
    if reason:
        _logged(reason, code=code)
    return HandshakeRefused(code, _MESSAGES[code])
