"""What is kept, as ports with their guarantees. Adapters: `mongo` (the system of record), `redis` (what may be lost).

Every method may raise `StorageUnavailable`; then nothing is promised to have been stored, and asking again is safe.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from twin_sio.domain import (
    AppendResult,
    Caller,
    Device,
    Event,
    Evidence,
    Fact,
    Identity,
    Json,
    NewEvent,
    Outcome,
    Profile,
    Trait,
    TraitChange,
    Turn,
)


@dataclass(frozen=True, slots=True)
class Page:
    """A piece of a conversation, oldest first, and whether there is more in the direction asked for."""

    events: tuple[Event, ...]
    has_more: bool


@dataclass(frozen=True, slots=True)
class ConversationSummary:
    """One line of the conversation list."""

    conversation_id: str
    title: str
    last: Event | None
    unread: int


class Log(Protocol):
    """The durable events of every user: dense, ordered, append-only. It alone decides the order."""

    async def append(self, draft: NewEvent) -> AppendResult:
        """Store with the next `seq` of its user; on return it survives the death of any one machine.

        Two drafts with one `(user_id, message_id)` are stored once: the later one gets the earlier event with
        `is_new` false, whatever it holds. There is never a gap and never a second event of one seq.
        """
        ...

    async def read(self, user_id: str, after: int, limit: int) -> Sequence[Event]:
        """At most `limit` events with `seq > after`, in order; only what can no longer be rolled back. Fewer where
        they are large, and none only where there are none."""
        ...

    async def head(self, user_id: str) -> int:
        """The newest seq of the user; 0 where there is none."""
        ...

    async def remove(self, event: Event) -> None:
        """Take an event back that was written while its user was being erased."""
        ...

    async def heads(self, user_ids: Sequence[str]) -> Mapping[str, int]:
        """The newest seq of each of the users that have one."""
        ...

    async def get(self, user_id: str, message_id: str) -> Event | None:
        """The user's event of this id."""
        ...

    async def page(
        self,
        user_id: str,
        conversation_id: str,
        *,
        before: int | None,
        after: int | None,
        limit: int,
        characters: int | None = None,
    ) -> Page:
        """Messages (user's and twin's) of a conversation next to a seq: stable, since seqs never change.

        Without `before` and `after`: the newest. Not many more than `characters` in all, but one message at least.
        """
        ...

    async def feedback(self, user_id: str, message_ids: Sequence[str]) -> Mapping[str, Json]:
        """The newest feedback payload to each of these messages."""
        ...

    async def to_correct(self, older_than_s: float, limit: int) -> Sequence[tuple[str, str]]:
        """`(user_id, message_id)` of feedback with a correction that no job has learned from after this time; the
        newest first, so that those from which nothing can be learned do not stand in the others' way."""
        ...

    async def corrected(self, user_id: str, message_id: str) -> None:
        """The correction in this feedback has been learned from."""
        ...

    async def conversations(
        self, user_id: str, *, before: int | None = None, limit: int = 1_000
    ) -> Sequence[ConversationSummary]:
        """The user's conversations, the one with the newest message first, from those whose last message is older than
        the seq `before`."""
        ...

    async def read_up_to(self, user_id: str, conversation_id: str) -> int:
        """The seq up to which the conversation is read; 0 where nothing is."""
        ...

    async def mark_read(self, user_id: str, conversation_id: str, seq: int, epoch: int = 0) -> bool:
        """Remember that the conversation is read up to `seq`; false where it was before, as far or farther."""
        ...


class Turns(Protocol):
    """The answers that are owed. A lease per conversation keeps them one at a time and in order."""

    async def ensure(self, turn: Turn) -> Turn:
        """Store the turn unless its `(user_id, turn_id)` exists; the stored one either way."""
        ...

    async def get(self, user_id: str, turn_id: str) -> Turn | None:
        """The turn of this request."""
        ...

    async def pending_counts(self, user_id: str, limit: int) -> Mapping[str, int]:
        """How many answers are owed in each of the user's conversations; counts no more than `limit` in all."""
        ...

    async def answering(self, user_id: str) -> int:
        """In how many of the user's conversations somebody is answering: the leases that are held now."""
        ...

    async def acquire(self, user_id: str, conversation_id: str, owner: str, lease_s: float, epoch: int = 0) -> bool:
        """Take the conversation's lease if it is free or expired; times are the database's own."""
        ...

    async def renew(self, user_id: str, conversation_id: str, owner: str, lease_s: float) -> bool:
        """Prolong a lease that is still held; false: it is lost."""
        ...

    async def release(self, user_id: str, conversation_id: str, owner: str) -> None:
        """Give the lease back if it is still held."""
        ...

    async def next(self, user_id: str, conversation_id: str) -> Turn | None:
        """The oldest turn of the conversation that is not finished."""
        ...

    async def begin(self, turn: Turn, generation_id: str) -> Turn | None:
        """Make it running under a fresh generation, one attempt more; None where it has moved on meanwhile. A crash of
        the store may take it back: then the generation cannot be settled. One that was running counts as `lost`."""
        ...

    async def hand_over(self, turn: Turn) -> None:
        """Make a running turn wait again, for another instance to begin: this one goes away, and was not lost."""
        ...

    async def checkpoint(self, turn: Turn, partial: str) -> Turn | None:
        """Keep what was generated so far; the turn as stored, or None where another generation has taken over."""
        ...

    async def settle(self, turn: Turn, outcome: Outcome) -> bool:
        """Decide the answer, once: false where another generation was first. The one point of no return."""
        ...

    async def outcome(self, turn: Turn) -> Outcome | None:
        """The answer that was decided for this turn, if it was."""
        ...

    async def close(self, turn: Turn, status: str) -> bool:
        """The decided answer stands in the log: the turn is over. False where it was erased meanwhile."""
        ...

    async def request_stop(self, user_id: str, message_id: str) -> Turn | None:
        """Ask the running or waiting answer to this message to end; None where there is none."""
        ...

    async def abandoned(self, older_than_s: float, limit: int) -> Sequence[tuple[str, str]]:
        """`(user_id, conversation_id)` whose lease has expired, or that wait unowned for longer than given."""
        ...

    async def unlearned(self, older_than_s: float, limit: int) -> Sequence[tuple[str, str]]:
        """`(user_id, turn_id)` of answered turns that no job has learned from after this time, the newest first: see
        `Log.to_correct`."""
        ...

    async def learned(self, user_id: str, turn_id: str) -> None:
        """The exchange has been learned from."""
        ...


@dataclass(frozen=True, slots=True)
class Summary:
    """What was said in a conversation up to and with the message of seq `upto`, as points; `since` is when the oldest
    message that it draws on was sent. Without any: nothing, up to 0."""

    points: tuple[str, ...] = ()
    upto: int = 0
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Thread:
    """What is kept of a conversation beside its messages. `key` is of this very conversation: what is written to one
    that was erased since is dropped, also where another of the same id has begun."""

    user_id: str
    conversation_id: str
    key: str
    title: str | None
    summary: Summary


@dataclass(frozen=True, slots=True)
class MessageVector:
    """The vector of a message; `seq` is the message's."""

    message_id: str
    vector: bytes
    seq: int = 0


class Memories(Protocol):
    """Titles, summaries and vectors: what is made of messages, and ends with them."""

    async def thread(self, user_id: str, conversation_id: str) -> Thread | None:
        """What is kept of the conversation as of now; None where there is no such conversation."""
        ...

    async def set_title(self, thread: Thread, title: str, since: datetime) -> bool:
        """Give the conversation a title made of messages from `since` on; false where it has one, or is gone."""
        ...

    async def set_summary(self, thread: Thread, summary: Summary) -> bool:
        """Put `summary` in the place of the thread's; false where it is another by now, or the thread is gone."""
        ...

    async def expire(self, before: datetime) -> int:
        """Drop titles and summaries that draw on messages older than this; of how many conversations."""
        ...

    async def without_vector(self, user_id: str, model: str, newest: int) -> Sequence[Event]:
        """Those of the user's `newest` events that are messages and have no vector of this model, oldest first."""
        ...

    async def embed(self, user_id: str, model: str, vectors: Sequence[MessageVector]) -> None:
        """Keep vectors with their messages; a message that is gone takes none."""
        ...

    async def vectors(self, user_id: str, model: str, limit: int, *, after: int = 0) -> Sequence[MessageVector]:
        """The vectors of this model of the user's newest messages with `seq > after`, at most `limit`, newest first."""
        ...

    async def messages(self, user_id: str, message_ids: Sequence[str]) -> Sequence[Event]:
        """The user's messages of these ids, as far as they exist, in any order."""
        ...


@dataclass(frozen=True, slots=True)
class Answers:
    """How many answers a user got up to a seq, and in how many the prompt held a trait. Failed ones do not count."""

    through_seq: int = 0
    count: int = 0
    using: int = 0


class Statistics(Protocol):
    """What was counted about each user's profile, and the sum over all. Numbers only, no text of anybody."""

    async def answers(self, user_id: str) -> Answers:
        """The user's answers as of now; those that were counted before are not read again."""
        ...

    async def put(
        self, user_id: str, at: datetime, counts: Json, answers: Answers, stamp: str | None, epoch: int = 0
    ) -> None:
        """Keep the counts; the user is due again with the next write of the profile, which had `stamp`."""
        ...

    async def due(self, before: datetime, limit: int) -> Sequence[str]:
        """Users whose profile was written since it was counted, or was counted last before `before`."""
        ...

    async def recompute_total(self) -> None:
        """Add all users up; for `total`."""
        ...

    async def total(self) -> Json:
        """The counts of all users, as they were when they were summed up last; empty before."""
        ...


class GraphUnavailable(Exception):
    """The graph did not do as it was told; telling it again is safe."""


class Facts(Protocol):
    """The graph of what holds and what held. It may be lost, and made anew. All raise `GraphUnavailable`."""

    async def read(self, user_id: str) -> Sequence[Fact]:
        """All that is held of the user, at most 1,000; asking leaves nothing behind."""
        ...

    async def write(
        self, user_id: str, facts: Sequence[Fact], gone: Sequence[Fact], traits_gone: Sequence[str]
    ) -> None:
        """Hold `facts`, in the place of those of the same id; hold `gone`, and traits without facts, no longer."""
        ...

    async def erase(self, user_id: str) -> None:
        """Leave no graph of the user."""
        ...


@dataclass(frozen=True, slots=True)
class Projection:
    """A version of a profile that the graph has not been told."""

    user_id: str
    version: int
    at: datetime
    traits: tuple[Trait, ...]


class Outbox(Protocol):
    """What the graph has not been told: versions, written together with the profile's, and erasures."""

    async def due(self, limit: int) -> Sequence[str]:
        """Users with something that should be tried now."""
        ...

    async def take(self, user_id: str) -> Projection | None:
        """The user's oldest version, for the caller alone for a minute; None where none is, or it is not due."""
        ...

    async def done(self, projection: Projection) -> bool:
        """The graph was told; false where the user was erased since it was taken."""
        ...

    async def postpone(self, user_id: str, first_s: float, most_s: float) -> None:
        """Try the user again after `first_s`, the next time after twice that, up to `most_s`."""
        ...

    async def length(self) -> int:
        """How many versions wait, of all users; about."""
        ...

    async def erase(self, user_id: str, at: datetime) -> None:
        """The user's graph has to go, and what it was to be told up to `at`."""
        ...

    async def erasure(self, user_id: str) -> datetime | None:
        """When the graph was to go, while it is to be looked after; None where nothing is due."""
        ...

    async def erased(self, user_id: str, at: datetime) -> None:
        """The erasure of `at` was carried out. The first time, it is due once more a minute later: whoever was writing
        has ended by then."""
        ...


@dataclass(frozen=True, slots=True)
class Erased:
    """An erasure: the user's epoch from now on, and how much was removed, per collection."""

    epoch: int
    counts: Mapping[str, int]


class PersonalData(Protocol):
    """Everything that is kept about a user, as a whole.

    An erasure is a fence that no clock of a server decides: each user has an epoch, which grows with it, and whatever
    is written (every `epoch` of these ports) says in which one it began. What is of an earlier one is refused where
    that is known, and removed again where it is not: within moments by whoever wrote it, and by `erasures_due` where
    the writer has died since.
    """

    def export(self, user_id: str) -> AsyncGenerator[Json, None]:
        """Everything, one value after the other: `{kind, ...}`, kind `event`, `turn`, `context`, `evidence`, `profile`,
        `conversation`, `statistics`, `projection`. Values JSON can hold; times in ISO 8601. Holds few at a time."""
        ...

    async def epoch(self, user_id: str) -> int:
        """How often the user was erased: for work that begins now, and with nothing that has an epoch of its own."""
        ...

    async def erase(self, user_id: str) -> Erased:
        """Begin a new epoch and remove all of the earlier ones; what remains is a hash of the user's id.

        The user's seqs go on where they were. Running it again removes nothing.
        """
        ...

    async def erase_late(self, user_id: str, epoch: int) -> int:
        """Remove what of before this epoch was written since; how much there was."""
        ...

    async def erasures_due(self, limit: int) -> Sequence[tuple[str, int]]:
        """`(user_id, epoch)` of erasures that are to be carried out again; for the caller alone for a minute."""
        ...

    async def erased(self, user_id: str, epoch: int) -> None:
        """The erasure was carried out again: it is due once more, later, or over."""
        ...


class Migrations(Protocol):
    """What an earlier version has written under names that tell of what they name."""

    async def name_users(self, limit: int) -> int:
        """Name users by their hash; how many that was."""
        ...

    async def name_evidence(self, limit: int) -> int:
        """Name evidence by the key, where there is one; how much that was."""
        ...

    async def profiles_to_rename(self, limit: int) -> Sequence[str]:
        """Users whose stored traits have ids of before there was a key."""
        ...

    async def rename_traits(self, user_id: str, profile: StoredProfile, traits: Sequence[Trait]) -> None:
        """Put these traits, the same under other ids, into the place of the profile's, unless it was written since."""
        ...


class Contexts(Protocol):
    """What the host app says around the conversation, per session; forgotten after a time."""

    async def get(self, user_id: str, session_id: str) -> Json:
        """The session's context; empty where there is none."""
        ...

    async def put(self, user_id: str, session_id: str, context: Json, epoch: int = 0) -> datetime:
        """Replace the session's context; its time starts anew. Returns when it will be forgotten. Of many sessions
        of a user the newest 50 have one."""
        ...

    async def newest(self, user_id: str) -> Json | None:
        """The context written last by any of the user's sessions."""
        ...


@dataclass(frozen=True, slots=True)
class StoredProfile:
    """The profile, the changes of its version while they still have to be told, and its stamp."""

    profile: Profile
    unpublished: tuple[TraitChange, ...]
    revision: str | None = None
    epoch: int = 0
    good_until: datetime | None = None
    """When some of the evidence that it was made of is too old to count; None: never."""


@dataclass(frozen=True, slots=True)
class ConnectSnapshot:
    """Where a user's data stands when one of their devices connects."""

    head: int
    """The newest seq of the log; 0 where there is none."""
    profile_version: int
    """0 where there is no profile."""
    is_owed: bool
    """Whether an answer is owed or being given."""
    epoch: int = 0
    """How often the user was erased."""


class ConnectSnapshots(Protocol):
    """What every connection begins with, in one trip to the store."""

    async def of(self, user_id: str) -> ConnectSnapshot:
        """Only what can no longer be rolled back."""
        ...


class Profiles(Protocol):
    """Evidence (append-only) and the traits that follow from it."""

    async def add_evidence(self, evidence: Sequence[Evidence], epoch: int = 0) -> int:
        """Store what is new; the same evidence twice is one. Returns how many were new."""
        ...

    async def evidence(self, user_id: str, epoch: int = 0) -> Sequence[Evidence]:
        """All evidence about the user, of this epoch and later, that is not too old to count."""
        ...

    async def remove_evidence(self, evidence: Sequence[Evidence]) -> None:
        """Keep these pieces no longer: there is no more room for them."""
        ...

    async def get(self, user_id: str) -> StoredProfile:
        """The profile; version 0 and no traits for a new user."""
        ...

    async def revision(self, user_id: str) -> str | None:
        """Another one after every write of the profile, and never the same again, not after an erasure either; None
        where there is no profile. Much cheaper than the profile."""
        ...

    async def replace(
        self, profile: Profile, untold: Sequence[TraitChange], epoch: int = 0, oldest: datetime | None = None
    ) -> bool:
        """Store as the version after the stored one; false where another writer was first, or is of a later epoch.
        `oldest`: when the oldest evidence that it was made of was observed."""
        ...

    async def refresh(self, profile: StoredProfile, traits: Sequence[Trait], oldest: datetime | None) -> None:
        """Put traits that nobody can tell from the stored ones in their place, under the same version; nothing where
        another writer was first."""
        ...

    async def users(self) -> Sequence[str]:
        """Everybody who has a profile."""
        ...

    async def told(self, user_id: str, version: int) -> None:
        """The changes of this version stand in the log."""
        ...


@dataclass(frozen=True, slots=True)
class LiveSession:
    """A session that was seen alive on some instance."""

    session_id: str
    connection_id: str
    device: Device
    at: datetime


class Revocations(Protocol):
    """Tokens that count no longer before they end."""

    async def revoke_user(self, user_id: str, at: datetime, for_s: int) -> None:
        """Every token of the user that was issued up to `at` counts no longer, for `for_s` seconds."""
        ...

    async def revoke_token(self, token_id: str, for_s: int) -> None:
        """The token with this `jti` counts no longer, for `for_s` seconds."""
        ...

    async def revoked(self, identities: Sequence[Identity]) -> Sequence[bool]:
        """Which of them count no longer. Whatever Redis has forgotten: all are good only while no store answers."""
        ...


@dataclass(frozen=True, slots=True)
class Quota:
    """At most `amount` within any `per_s` seconds; 0: no bound. `name` keeps kinds of things apart."""

    name: str
    amount: int
    per_s: int


class Quotas(Protocol):
    """What may be asked for in a time, counted over all instances; while Redis is away, over this one alone.

    No method raises, and none waits longer than half a second.
    """

    async def take(self, quota: Quota, of: str) -> int | None:
        """Count one; None. Where that would be one too many nothing is counted: ms until it would not be."""
        ...

    async def spend(self, quota: Quota, of: str, amount: int) -> None:
        """Count `amount` that was used already, even past the bound. The window begins with the first amount."""
        ...

    async def retry_after_ms(self, quota: Quota, of: str) -> int | None:
        """None while less than the bound was spent; otherwise ms until the window ends."""
        ...


class Tickets(Protocol):
    """What stands for a token once, within seconds: for clients that can send neither headers nor a first message."""

    async def issue(self, identity: Identity) -> str:
        """A fresh ticket, good for `TICKET_S` seconds. Raises `StorageUnavailable`."""
        ...

    async def redeem(self, ticket: str) -> Identity | None:
        """Whom it was issued to, the first time it is shown in time; None otherwise. Raises `StorageUnavailable`."""
        ...


TICKET_S = 30


class Presence(Protocol):
    """Which sessions are live. It expires by itself and may be lost; nothing durable relies on it."""

    async def seen(self, caller: Caller) -> None:
        """The session is alive now."""
        ...

    async def reserve(self, caller: Caller, most: int) -> bool:
        """Count the session in, unless `most` others of the user's are live: one step over all instances. What is not
        known counts as room."""
        ...

    async def joined(self, caller: Caller) -> Sequence[LiveSession]:
        """`seen`, then `sessions`, in one trip."""
        ...

    async def gone(self, caller: Caller) -> None:
        """The session has left, unless a newer connection of the same session is there."""
        ...

    async def erase(self, user_id: str) -> int:
        """Forget all sessions of the user; how many keys that were."""
        ...

    async def sessions(self, user_id: str) -> Sequence[LiveSession]:
        """The user's live sessions on all instances, as far as is known."""
        ...
