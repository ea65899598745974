"""The twin's mind: the ports other packages see, and the values that pass through them.

Adapters: `graph` (LangGraph), `model` (OpenAI API), `extraction`, `summarizer`, `embeddings`. Pure: `prompts` and
`scoring`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from twin_sio.domain import Cut, Evidence, Exchange, Fact, Json


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One line of the conversation as the model will read it; `seq` is its place in the log."""

    role: Literal["user", "assistant"]
    text: str
    seq: int = 0


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


@dataclass(frozen=True, slots=True)
class AgentRequest:
    """The user's message that is to be answered."""

    user_id: str
    conversation_id: str
    message_id: str
    seq: int
    text: str


@dataclass(frozen=True, slots=True)
class Stage:
    """The answer has reached a stage the user may be shown."""

    state: Literal["recalling", "thinking"]


@dataclass(frozen=True, slots=True)
class Delta:
    """The next piece of the answer; never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class Done:
    """The answer has ended. `used_traits` are the ids of the traits that the prompt held; `cut` says what cut it
    short, if anything did."""

    model: str
    used_traits: tuple[str, ...]
    usage: Json | None = None
    cut: Cut | None = None


Step = Stage | Delta | Done


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

    def answer(self, ask: AgentRequest) -> AsyncGenerator[Step, None]:
        """Stages, then deltas, then exactly one `Done`.

        The first delta comes at once, later ones gathered over the chunk interval. Raises `ModelUnavailable` or
        `ModelTimeout` (also in the middle: what was yielded stands) and `StorageUnavailable`. Closing the generator
        (or cancelling its reader) ends the model's call at once.
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
