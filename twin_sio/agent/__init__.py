"""The twin's mind: the ports other packages see, and the values that pass through them.

`factory` is what a factory of an own agent is given. Adapters: `graph` (LangGraph), `langgraph_agent` (a graph of
somebody else), `model` (OpenAI API), `tools`, `extraction`, `summarizer`, `embeddings`. Pure: `prompts` and `scoring`.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from twin_sio.domain import ApprovalRequest, Cut, Evidence, Exchange, Fact, HostTool, Json, SavedRun, Step


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One line of the conversation as the model will read it; `seq` is its place in the log. An answer that its user
    has stopped `was_stopped`; `stopped_by` is the id of the message by which, if it was one."""

    role: Literal["user", "assistant"]
    text: str
    seq: int = 0
    was_stopped: bool = False
    stopped_by: str | None = None


@dataclass(frozen=True, slots=True)
class RelatedMessage:
    """A line of any of the user's conversations that has to do with what they say now."""

    said: ChatMessage
    at: datetime


@dataclass(frozen=True, slots=True)
class RecalledMemory:
    """What lies beyond the lines of a conversation: its summary so far, related lines, the most related first, and
    facts about the user that held once and hold no more, the last to end first."""

    summary: tuple[str, ...] = ()
    related: tuple[RelatedMessage, ...] = ()
    former: tuple[Fact, ...] = ()


@dataclass(frozen=True, slots=True)
class ProfileContext:
    """What a prompt says of the user: its sections, and the ids of the traits in them.

    `is_rejected` tells whether a text holds a value that the user has rejected. `former` is what held once and holds
    no more, the last to end first.
    """

    sections: tuple[str, ...]
    used_traits: tuple[str, ...]
    is_rejected: Callable[[str], bool]
    former: tuple[Fact, ...] = ()


class Run(Protocol):
    """One attempt at an answer, as the service keeps it: what an agent with several steps saves, asks for and takes
    in."""

    saved: SavedRun
    """What earlier attempts at the same answer have left."""

    def begin_loop(self) -> None:
        """The agent works in steps, and takes in messages between them; without this they end its answer."""
        ...

    def count_asked(self, characters: int) -> None:
        """The model is sent so many: by them the tokens of an answer count that was stopped before its usage was
        told."""
        ...

    async def save(self, state: Json) -> None:
        """Store the agent's state for the next attempt, in place of what was saved before; it is stored once this
        returns. Raises `StorageUnavailable`, also where another attempt has taken over."""
        ...

    async def steering(self) -> Sequence[tuple[str, str]]:
        """The id and text of every message that is taken in by this answer, those of `saved.steered` first. Each
        belongs to this answer alone from then on. Raises `StorageUnavailable`."""
        ...

    async def host_tools(self) -> Sequence[HostTool]:
        """What the user's sessions offer now, each name once."""
        ...

    async def call_host(self, call_id: str, tool: HostTool, arguments: Json, timeout_s: float) -> Json:
        """Have the session run the tool; `{output}` or `{error}`. Asked for the same `call_id` again, as by a later
        attempt, it asks the same session, which runs no call twice, or gives the result that has come since. Raises
        `TimeoutError`."""
        ...


class DetachedRun(Run):
    """The run of an answer that nobody keeps: without tools there is nothing to save."""

    def __init__(self) -> None:
        self.saved = SavedRun()

    def begin_loop(self) -> None:
        pass

    def count_asked(self, characters: int) -> None:
        pass

    async def save(self, *_: object) -> None:
        pass

    async def steering(self) -> Sequence[tuple[str, str]]:
        return ()

    async def host_tools(self) -> Sequence[HostTool]:
        return ()

    async def call_host(self, *_: object) -> Json:
        raise TimeoutError


@dataclass(frozen=True, slots=True)
class AgentRequest:
    """The user's message that is to be answered. `turn_id` is the answer's own: of each regeneration another.
    `persona` is the name of a persona that the user's token has, or empty."""

    user_id: str
    conversation_id: str
    message_id: str
    seq: int
    text: str
    turn_id: str = ""
    persona: str = ""
    run: Run = field(default_factory=DetachedRun)

    def digest(self, *parts: object) -> str:
        """Names something of this answer, the same in every attempt at it: 32 hexadecimal digits."""
        return hashlib.sha256("\x1e".join(map(str, (self.user_id, self.turn_id, *parts))).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Stage:
    """The answer has reached a stage the user may be shown."""

    state: Literal["recalling", "thinking"]


@dataclass(frozen=True, slots=True)
class Delta:
    """The next piece of the answer; never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """The next piece of what the model thinks, where that is shown; no part of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Activity:
    """A step begins, or has changed. A later one with the same `step_id` takes its place."""

    step: Step


@dataclass(frozen=True, slots=True)
class Suspended:
    """The answer cannot go on before its user has decided. The agent's state is saved; the next attempt finds the
    decisions in `Run.saved`."""

    requests: tuple[ApprovalRequest, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """The answer has ended. `used_traits` are the ids of the traits that the prompt held; `cut` says what cut it
    short, if anything did; `text` is the whole answer, where the deltas may have held more: thoughts that could not be
    told from it."""

    model: str
    used_traits: tuple[str, ...]
    usage: Json | None = None
    cut: Cut | None = None
    text: str | None = None


AnswerPart = Stage | Delta | Reasoning | Activity | Suspended | Done


class Memory(Protocol):
    """What the twin may recall; implemented over the store."""

    async def history(self, ask: AgentRequest, limit: int) -> Sequence[ChatMessage]:
        """At most `limit` lines said before `ask` in its conversation, oldest first; of several answers to one
        message the newest only. Raises `StorageUnavailable`."""
        ...

    async def known(self, user_id: str) -> ProfileContext:
        """What the prompt says of the user, from the profile as it stands now. Raises `StorageUnavailable`."""
        ...

    async def context(self, user_id: str) -> Json | None:
        """The newest host context that has not expired, of any of the user's sessions."""
        ...

    async def past(self, ask: AgentRequest) -> RecalledMemory:
        """What can be recalled in time; what is late, or fails, is left out. Never raises."""
        ...


class Agent(Protocol):
    """Answers a message as the user's twin."""

    def answer(self, ask: AgentRequest) -> AsyncGenerator[AnswerPart, None]:
        """Stages, then deltas, then exactly one `Done`, or one `Suspended`. Activities and reasoning may come between.

        An attempt after another begins the text anew, with what the earlier ones have said. The first delta comes at
        once, later ones gathered over the chunk interval. Raises `ModelUnavailable` or `ModelTimeout` (also in the
        middle: what was yielded stands) and `StorageUnavailable`. Closing the generator (or cancelling its reader) ends
        the model's call at once.
        """
        ...


class Unreadable(Exception):
    """A text could not be parsed: `code` is `too_slow`, or the kind of what went wrong. It would be the same again."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Extractor(Protocol):
    """Finds what messages show of their user. Raises `Unreadable`."""

    async def candidates(
        self, exchanges: Sequence[Exchange], known: Mapping[str, Sequence[str]] | None = None
    ) -> Sequence[Evidence]:
        """Evidence from messages of one conversation in their order, from the user's own words only: every quote is a
        substring of its `exchange.text`. `known` has the user's values so far, by key.

        Raises `ModelUnavailable` / `ModelTimeout`; for unusable output of the model the rules stand in.
        """
        ...

    async def extract_by_rules(self, exchange: Exchange) -> Sequence[Evidence]:
        """What can be read without a model: little, and sure."""
        ...

    def without_duplicates(self, found: Sequence[Evidence], earlier: Sequence[Evidence]) -> Sequence[Evidence]:
        """What of `found` is not already in `earlier`, what another extractor read in the same messages."""
        ...


class Summarizer(Protocol):
    """Writes down what a conversation was about. Raises `ModelUnavailable` / `ModelTimeout`."""

    async def title(self, said: Sequence[ChatMessage]) -> str | None:
        """A short title in the conversation's language, one line; None where the model gave none that is fit."""
        ...

    async def summary(self, points: Sequence[str], said: Sequence[ChatMessage], budget_tokens: int) -> Sequence[str]:
        """`points` brought up to date with what was said since, within the budget; empty where the model gave none."""
        ...


class Embedder(Protocol):
    """Turns texts into vectors whose cosine is high where the texts are related. They reveal what was said."""

    model: str
    """The name of the model: only vectors of one model can be compared."""

    async def embed(self, texts: Sequence[str]) -> Sequence[bytes]:
        """A vector per text, float16, of length 1; of nothing the zero vector. Raises `ModelUnavailable`."""
        ...
