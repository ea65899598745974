"""What a rule of the protocol is, and the verdict on a client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rule:
    """What a client must do, and what to look at where it does not."""

    name: str
    must: str
    fix: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a rule was kept; `said` is what was seen where it was not."""

    rule: Rule
    passed: bool
    said: str = ""


class RuleViolation(Exception):
    """The client did otherwise; the text is what was seen."""
