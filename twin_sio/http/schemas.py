"""What the REST API answers with, as pydantic models; the OpenAPI document is made from them.

The service does not validate its own output; the tests do, against the document.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from twin_sio.protocol.server_events import Time, Trait

Count = Annotated[int, Field(ge=0)]


class Body(BaseModel):
    """Base of every answer."""

    model_config = ConfigDict(frozen=True, strict=True)


class Profile(Body):
    version: int
    as_of: Time
    traits: list[Trait]


class Reason(Body):
    """A piece of evidence, and how much it weighs."""

    side: Literal["supports", "opposes", "set_aside"]
    kind: str
    polarity: Literal[1, -1]
    value: str
    weight: float
    decay: float
    repeat: float
    effective: float
    age_days: float
    quote: str
    message_id: str
    session_id: str
    observed_at: Time
    extractor: str
    when: str | None = None


class Explanation(Trait):
    """A trait with the evidence for and against it."""

    as_of: Time
    formula: str
    evidence: list[Reason]


class Share(Body):
    """A share with its 95 % interval (Wilson); `rate` is null where there is nothing to count."""

    count: int
    of: int
    rate: float | None
    low: float
    high: float


class Source(Body):
    """What became of the traits of one kind of evidence and one extractor."""

    kind: str
    extractor: str
    applied: int
    held: int
    rejected: int
    superseded: int
    reject_rate: Share


class TimeToApply(Body):
    median: float | None
    of: int


class Statistics(Body):
    as_of: Time
    traits: dict[str, int]
    sources: list[Source]
    reject_rate: Share
    contradiction_rate: Share
    time_to_apply_s: TimeToApply
    answers_using_traits: Share


class FoundMessage(Body):
    message_id: str
    conversation_id: str
    role: Literal["user", "twin"]
    excerpt: str
    timestamp: Time
    seq: Count


class SearchResults(Body):
    """Messages, the best first; `complete` is false where not everything could be searched in time: ask again."""

    messages: list[FoundMessage]
    complete: bool


class Ticket(Body):
    ticket: str
    expires_in_s: int


class ExportLine(Body):
    """One line of an export; its other fields depend on its kind."""

    model_config = ConfigDict(extra="allow")

    kind: str


class Erased(Body):
    """How much was removed, per store."""

    erased: dict[str, Count]
