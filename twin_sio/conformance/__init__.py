"""Conformance tests for clients in any language: a scripted server that checks a client's half of the protocol.

The client under test is one program that connects with a token, sends one message, and stays connected. It answers
every message in the conversation `report` with a message there: the JSON list of the texts that it shows in the
conversation `main`, oldest first, an unfinished answer included. Where it offers tools, one of them is `count`, which
returns how often it was run. The script does what networks and servers do to clients, and checks what the client sends
and shows against one rule after the other.

`rules` has the rules, `script` a step for each, `server` the server, `client` what the script asks of the client, `run`
the program (`python -m twin_sio.conformance`). May import `transport`, `protocol` and what is below; `cli` starts it as
a process.
"""

from __future__ import annotations

from twin_sio.conformance.client import COUNT_TOOL
from twin_sio.conformance.rules import RULES, Rule, Verdict
from twin_sio.conformance.run import conformance_server
from twin_sio.conformance.script import UNKNOWN_EVENT, Script
from twin_sio.conformance.server import ScriptedServer

__all__ = [
    "COUNT_TOOL",
    "RULES",
    "UNKNOWN_EVENT",
    "Rule",
    "Script",
    "ScriptedServer",
    "Verdict",
    "conformance_server",
]
