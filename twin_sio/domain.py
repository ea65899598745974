"""Frozen values that cross packages. No behaviour beyond what follows from their own fields."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

Json = Mapping[str, Any]
DEFAULT_CONVERSATION = "main"


@dataclass(frozen=True, slots=True)
class Device:
    """What a session says of itself; shown to the user's other sessions, never trusted."""

    name: str | None = None
    platform: str | None = None
    app_version: str | None = None

    def as_dict(self) -> dict[str, str]:
        pairs = (("name", self.name), ("platform", self.platform), ("app_version", self.app_version))
        return {key: value for key, value in pairs if value is not None}


Scope = Literal["twin:chat", "twin:profile", "twin:data"]
"""What a token may let its user do."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a token says somebody is."""

    user_id: str
    scopes: frozenset[str]
    expires_at: datetime
    issued_at: datetime | None = None
    token_id: str | None = None
    persona: str = ""


@dataclass(frozen=True, slots=True)
class Caller:
    """One authenticated connection. `connection_id` is fresh for every connect, `session_id` is the client's own."""

    user_id: str
    session_id: str
    connection_id: str
    identity: Identity
    device: Device = field(default_factory=Device)
    features: frozenset[str] = frozenset()
    """What its client says that it knows beside the first of the protocol's version 1."""
    epoch: int = 0
    """How often the user had been erased when it connected; what it writes is of before any later erasure."""


@dataclass(frozen=True, slots=True)
class Event:
    """A durable event as it stands in the log. `seq` is per user, dense, from 1."""

    user_id: str
    seq: int
    type: str
    message_id: str
    conversation_id: str
    at: datetime
    payload: Json
    session_id: str | None = None
    in_response_to: str | None = None
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class NewEvent:
    """A durable event that has no `seq` yet."""

    user_id: str
    type: str
    message_id: str
    conversation_id: str
    at: datetime
    payload: Json
    session_id: str | None = None
    in_response_to: str | None = None
    epoch: int = 0


AnswerStatus = Literal["complete", "stopped", "interrupted", "failed"]

Cut = Literal["length", "content_filter"]
"""What cut an answer short: its longest length, or the rules of the model's provider."""


StepState = Literal["started", "progress", "waiting", "done", "failed", "unknown"]


@dataclass(frozen=True, slots=True)
class Step:
    """Something that is done for an answer, as its user may see it: a call of a tool, or a node of a graph. `unknown`:
    the instance died meanwhile, and nobody can tell whether it was done."""

    step_id: str
    kind: Literal["tool", "node"]
    name: str
    title: str
    state: StepState
    summary: str | None = None


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """A tool's call that its user is asked to allow. `call_id` follows from the turn and the call."""

    call_id: str
    tool: str
    title: str
    arguments: Json

    @property
    def approval_id(self) -> str:
        """Also the id of the request's event, under a prefix that no client may use."""
        return approval_of(self.call_id)


def approval_of(call_id: str) -> str:
    """The id of the request for a call's approval."""
    return f"twin-approval-{call_id.removeprefix('call-')}"


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of a request for approval. `arguments`: those to call the tool with, where they were edited."""

    decision: Literal["approve", "reject", "edit", "expired", "cancelled"]
    arguments: Json | None = None
    comment: str | None = None


@dataclass(frozen=True, slots=True)
class HostTool:
    """A tool that an app offers through one of its user's sessions."""

    name: str
    description: str
    parameters: Json
    needs_approval: bool
    session_id: str


@dataclass(frozen=True, slots=True)
class SavedRun:
    """What an answer's earlier attempts have left in the store: the agent's own `state`, the decisions by approval id,
    and the messages that were taken in, in their order, as (id, text)."""

    state: Json | None = None
    decisions: Mapping[str, Decision] = field(default_factory=dict)
    steered: tuple[tuple[str, str], ...] = ()


MessageMode = Literal["queue", "interrupt", "steer"]
"""What a message does to an answer that is being made: wait for it, end it, or be taken in at its next step."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer that is owed. `turn_id` is the request's message_id, `message_id` the user's message it answers.

    `order` ranks the turns of a conversation; `attempts` counts the generations that were begun, `lost` those of them
    whose instance died or lost its lease. A `suspended` turn waits for its user's approval, until `due_at` at most;
    `awaiting` has the ids. An `absorbed` one was taken in by the answer to another. `has_run`: there is a `SavedRun`.
    `stopped_by` is the message that ended it; `persona` the name of the twin's persona, where the token has one.
    `trace` is where the request's trace had come to (`tracing.here`), so that the answering instance continues it.
    """

    user_id: str
    turn_id: str
    message_id: str
    conversation_id: str
    session_id: str | None
    order: float
    state: Literal[
        "queued", "running", "suspended", "settled", "complete", "stopped", "interrupted", "failed", "absorbed"
    ]
    generation_id: str | None
    attempts: int
    stop_requested: bool
    partial: str
    created_at: datetime
    trace: str = ""
    lost: int = 0
    epoch: int = 0
    mode: MessageMode = "queue"
    stopped_by: str | None = None
    has_run: bool = False
    awaiting: tuple[str, ...] = ()
    due_at: datetime | None = None
    persona: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an answer ended; what `twin_message` will carry. `error` is a protocol code where it failed, for which the
    endpoint may have said when to try again; `cut` says what cut a complete answer short, if anything did. `asked`
    counts the characters that the model was sent, for answers whose `usage` nobody reports."""

    status: AnswerStatus
    text: str
    generation_id: str
    model: str
    usage: Json | None = None
    used_traits: tuple[str, ...] = ()
    error: str | None = None
    retry_after_ms: int | None = None
    cut: Cut | None = None
    steps: tuple[Step, ...] = ()
    reasoning: str | None = None
    steered_by: tuple[str, ...] = ()
    stopped_by: str | None = None
    asked: int = 0


@dataclass(slots=True)
class Generation:
    """One attempt at an answer while it is made: what all chunks share, and all text so far.

    The one value here that changes; only the instance that generates (or relays) it appends to `texts`.
    """

    generation_id: str
    conversation_id: str
    in_response_to: str
    session_id: str | None
    started_at: float
    texts: list[str] = field(default_factory=list)
    epoch: int = 0
    """Of the turn; 0 on instances that only relay it."""


EvidenceKind = Literal[
    "confirmed", "edited", "change", "explicit", "ended", "host", "inferred", "up", "down", "withdrawn", "rejected"
]
"""How an observation was made. `change`: the user says that it has become so; `ended`: that it holds no more."""

EVIDENCE_VERSION = 2
"""Of what the fields of `Evidence` mean. Until 1 a dislike was evidence against `interests.likes`."""

TraitStatus = Literal["applied", "tentative", "unused", "rejected", "superseded"]


@dataclass(frozen=True, slots=True)
class Entity:
    """A person or an animal in the user's life, as far as the user has told: `relation` as they call it ("daughter",
    "cat"), `name`, and how many there are ("two kids": 2); empty, and 0, where they have not."""

    kind: Literal["person", "pet"]
    relation: str = ""
    name: str = ""
    count: int = 0

    @property
    def label(self) -> str:
        """Who it is, in the user's words: "Mia, daughter"."""
        return ", ".join(part for part in (self.name, self.relation) if part)


@dataclass(frozen=True, slots=True)
class Evidence:
    """One observation about one slot of the profile; append-only. `quote` is the user's own words.

    `about` is the answer that was rated, for `up`, `down` and `withdrawn` (the rating was taken back). `entity` is who
    is observed: under a slot of people or pets (`family.children`) that they are there, under any other a fact about
    them; None for the user. `when` is what the user said of the time ("since May"). `version` is `EVIDENCE_VERSION` as
    it was when the piece was made.
    """

    user_id: str
    key: str
    value: str
    polarity: Literal[1, -1]
    kind: EvidenceKind
    observed_at: datetime
    session_id: str
    message_id: str
    quote: str
    extractor: str
    about: str = ""
    entity: Entity | None = None
    when: str = ""
    version: int = EVIDENCE_VERSION

    @property
    def evidence_id(self) -> str:
        """Equal for the same observation, so that running a job twice adds nothing."""
        of = (self.entity.relation, self.entity.name) if self.entity is not None else ()
        return "\x1f".join((self.message_id, self.kind, self.key, self.value, str(self.polarity), *of))


@dataclass(frozen=True, slots=True)
class Trait:
    """What the twin holds about its user, with the number that the evidence gives on `as_of`.

    `pinned`: the user confirmed it or wrote it in. `entity`: who it is of, or, of people and animals, who it is; None:
    the user. `names`: what its evidence calls it (`traits.own_name`), first what gives it its id; empty: the value.
    `when`: what they said last of time and end, and in which month. `is_denied`: they said last that it is not so.
    """

    trait_id: str
    key: str
    value: str
    status: TraitStatus
    confidence: float
    supporting: float
    opposing: float
    valid_from: datetime
    valid_to: datetime | None
    as_of: datetime
    pinned: bool = False
    entity: Entity | None = None
    names: tuple[str, ...] = ()
    when: str = ""
    is_denied: bool = False


@dataclass(frozen=True, slots=True)
class TraitChange:
    """A trait that now reads otherwise than before; `reason` names the evidence's kind."""

    trait: Trait
    previous: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Profile:
    """All traits of a user; `version` grows by one with every visible change."""

    user_id: str
    version: int
    traits: tuple[Trait, ...]


@dataclass(frozen=True, slots=True)
class Fact:
    """That a trait held from `valid_at` to `invalid_at` (None: still), as it was known from `created_at` on;
    `expired_at` is when its end became known. `about`: of whom, where it is not the user."""

    trait_id: str
    key: str
    value: str
    valid_at: datetime
    invalid_at: datetime | None
    created_at: datetime
    expired_at: datetime | None
    about: str = ""

    @property
    def fact_id(self) -> str:
        """The same for the same trait and beginning, so that telling it twice tells it once."""
        text = f"{self.trait_id}\x1f{self.valid_at.isoformat()}"
        return "fact-" + hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Line:
    """What one side said in a conversation."""

    role: Literal["user", "twin"]
    text: str


@dataclass(frozen=True, slots=True)
class Exchange:
    """A user's message, its answer, and the last lines of both sides `before` it, the oldest first."""

    user_id: str
    message_id: str
    conversation_id: str
    session_id: str
    at: datetime
    text: str
    answer: str
    epoch: int = 0
    before: tuple[Line, ...] = ()


@dataclass(frozen=True, slots=True)
class Fitness:
    """How a model did in the test of reading: of `facts` it learned `learned`, of `traps` it fell into `fallen`."""

    facts: int
    learned: int
    traps: int
    fallen: int

    @property
    def is_fit(self) -> bool:
        """Whether it may read what users write: it missed two facts at most, and fell into one trap at most."""
        return self.facts - self.learned <= 2 and self.fallen <= 1
