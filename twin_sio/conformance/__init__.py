"""A server with a script, for a client in any language: does it keep its half of the protocol?

The client is one program that connects with a token, says something once, and stays. To show what it holds it answers
every message that appears in the conversation `report` with a message there: the JSON list of the texts that it shows
in the conversation `main`, oldest first, an unfinished answer included. The script does what networks and servers do to
clients, and holds what the client sends and shows against one rule after the other.
"""

from __future__ import annotations

from twin_sio.conformance.rules import Rule, RuleViolation, T, Verdict
from twin_sio.conformance.script import REPORT, RULES, Script, conformance_server
from twin_sio.conformance.server import ScriptedServer

__all__ = [
    "REPORT",
    "RULES",
    "Rule",
    "RuleViolation",
    "Script",
    "ScriptedServer",
    "T",
    "Verdict",
    "conformance_server",
]
