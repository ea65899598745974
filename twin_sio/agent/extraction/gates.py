"""What is asked of a model's candidates before it is asked to doubt them: few things, and those that need no
understanding of a language. Pure.

The words that are quoted stand in the message. The value stands there too, or in the words of the twin that they
affirm, or in the person's own lines before or what is known of them, which they may point to: every name and number
of it, and half of its other words, in whatever form; what has ended may have been named long ago, and one of a few
states is told by its word (`prompts.STATES`). What stands between quotation marks from end to end is somebody's
words. What is read of a message that gives an order about the profile, or may, is marked, for `controls`. Nothing of
health, faith, politics or sexuality is concluded. A model may be as wrong as it likes: it can only choose among what
the user has written.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, Literal

from twin_sio.agent.extraction import prompts
from twin_sio.agent.extraction.grounding import (
    bare_with_places,
    by_beginning,
    plain_text,
    stands_in,
    words_of,
    words_stand_in,
)
from twin_sio.agent.extraction.instructions import is_instruction
from twin_sio.agent.extraction.orders import SUSPECT_THRESHOLD
from twin_sio.agent.extraction.slots import Slot, canonical, comparison
from twin_sio.agent.relations import relation
from twin_sio.agent.traits import EXISTENCE, OPPOSITE, category, is_sensitive, is_too_long, normal
from twin_sio.domain import Entity, Exchange, Json

Learnt = Literal["explicit", "change", "ended", "inferred"]

LONGEST: Final = 4_000
"""Characters of a message that are looked at: who writes more has pasted something."""

_LEARNT: Final[dict[str, Learnt]] = {one: one for one in ("explicit", "change", "ended", "inferred")}
_FIELDS: Final = 16  # that a candidate may have
_FIELD_CHARACTERS: Final = 1_000  # of one of them: a quote is shorter
_CALLED: Final = 40  # characters of the word for what somebody is
_COUNT_MAX: Final = 100  # children, cats; more is no count of them
_PLACES_MAX: Final = 20  # of a quote that are looked at
_ENDINGS: Final = " .,;:!?…"  # of a quote, with which models end it in mid-sentence
_CITED: Final = re.compile(
    r"\"[^\"]*\"|“[^”]*”|„[^“”]*[“”]|«[^»]*»|「[^」]*」|```.*?(?:```|\Z)|`[^`\n]*`|^[ \t]*>[^\n]*",
    re.DOTALL | re.MULTILINE,
)
_SELF: Final = frozenset({"", "self", "me", "user", "myself", "i", "person", "the user"})
_NO_NAMES: Final = frozenset({"fact", "facts", "has", "is", "other", "info", "current"})
"""Names of slots that say nothing of what is in them."""
_OF_OTHERS: Final = {key: f"life.{key.partition('.')[2]}" for key in EXISTENCE} | {"pets.has": "life.pets"}
"""Where it stands that somebody else than the user has somebody."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A candidate that passed. `n` is the place of its exchange among those that were read; where that `is_suspect`, it
    may give an order about what is stored, and does so where it `is_order`: then nothing is learnt of it."""

    n: int
    key: str
    value: str
    polarity: Literal[1, -1]
    kind: Learnt
    quote: str
    when: str = ""
    entity: Entity | None = None
    is_suspect: bool = False
    is_order: bool = False

    def note(self, number: int) -> Json:
        """As the second question shows it."""
        about = "self" if self.entity is None else " ".join(filter(None, (self.entity.relation, self.entity.name)))
        says = f"{self.key}: {self.value}" if self.polarity > 0 else f"not {self.key}: {self.value}"
        return {
            "n": number,
            "message": self.n + 1,
            "says": says,
            "kind": self.kind,
            "about": about or "self",
            "quote": self.quote,
        }


def is_set_aside(candidate: Any) -> bool:
    """Whether the model itself takes it for no statement of the user's."""
    kind = candidate.get("kind") if isinstance(candidate, dict) else None
    return isinstance(kind, str) and kind in prompts.KINDS and kind not in _LEARNT


def passed(
    exchanges: Sequence[Exchange],
    listed: Sequence[Any],
    known: Mapping[str, Sequence[str]] | None = None,
    *,
    injection_gate: bool = True,
) -> list[Proposal]:
    """The candidates of a model that pass, `MAX_CANDIDATES` of each exchange at most, none twice; what is malformed is
    dropped alone. `known`: what the model was shown of them. `injection_gate`: those of a message that gives an order
    about what is stored, or may, are marked."""
    words = [value for values in (known or {}).values() for value in values]
    messages = [_Message(exchange, words, injection_gate) for exchange in exchanges]
    called = _called(listed, (known or {}).get(prompts.PEOPLE, ()))
    # By what it says: a model may list one thing twice.
    found: dict[tuple[object, ...], Proposal] = {}
    counts = [0] * len(exchanges)
    for candidate in listed[: prompts.MAX_CANDIDATES * len(exchanges)]:
        if not _is_short(candidate):
            continue
        n = _where(candidate, messages)
        if counts[n] >= prompts.MAX_CANDIDATES:
            continue
        counts[n] += 1
        proposal = _passed(candidate, n, messages[n], called)
        if proposal is not None:
            whose = (proposal.entity.relation, proposal.entity.name) if proposal.entity is not None else ()
            is_end = proposal.kind == "ended"
            name = (n, proposal.key, proposal.value.casefold(), proposal.polarity, is_end, whose)
            found.setdefault(name, proposal)
    return list(found.values())


def doubted(proposal: Proposal, holds: str | None, nature: str) -> Proposal | None:
    """What is left of a proposal after the second question (`holds` is None where it was not answered).

    `no` drops it. `unclear` leaves an inference what was proposed as one, and drops what was proposed as plainly said:
    one of the two answers is wrong then. Without an answer it is an inference; an end is none, and a sensitive thing
    is not inferred, whatever it is called.
    """
    if holds == "no" or (holds == "unclear" and proposal.kind != "inferred"):
        return None
    if holds is None and proposal.kind == "ended":
        return None
    # That somebody is there, and where, is of no such nature, whatever may be concluded from it.
    is_plain = proposal.key in EXISTENCE or category(proposal.key) == "location"
    if nature in prompts.NATURES and not is_sensitive(proposal.key) and not is_plain:
        name = proposal.key.partition(".")[2]
        proposal = replace(proposal, key=f"{nature}.{prompts.NATURES[nature] if name in _NO_NAMES else name}")
    if holds != "yes":
        proposal = replace(proposal, kind="inferred")
    return None if proposal.kind == "inferred" and is_sensitive(proposal.key) else proposal


class _Message:
    """A message, with what its quotes are looked up in."""

    def __init__(self, exchange: Exchange, known: Sequence[str], injection_gate: bool) -> None:
        self.text = exchange.text[:LONGEST]
        self.plain = plain_text(self.text)
        self._bare, self._places = bare_with_places(self.text)
        before = [
            (line.role, plain_text(line.text[: prompts.LINE_CHARACTERS]))
            for line in exchange.before[-prompts.LINES_BEFORE :]
        ]
        self.twin_before = [text for role, text in before if role == "twin"]
        self._own_words = " \n ".join((*(text for role, text in before if role == "user"), *map(plain_text, known)))
        # By their first letters, since only words that share these can be forms of one.
        self.words = by_beginning(self.plain)
        self.is_suspect = injection_gate and is_instruction(self.text, SUSPECT_THRESHOLD)
        self.is_order = self.is_suspect and is_instruction(self.text)
        # Where others' words stand, in the order of the text.
        self._cited = [found.span() for found in _CITED.finditer(self.text)]

    @cached_property
    def words_before(self) -> Mapping[str, Collection[str]]:
        """The words that the person said before, as `words`."""
        return by_beginning(self._own_words)

    def is_quotation(self, quote: str) -> bool:
        """Whether each time that the words stand there they stand between quotation marks, in code, or in a line that
        is cited."""
        at, places = self.text.find(quote), 0
        while at >= 0 and places < _PLACES_MAX:
            nth = bisect_right(self._cited, at, key=lambda span: span[0]) - 1
            if nth < 0 or at + len(quote) > self._cited[nth][1]:
                return False
            at, places = self.text.find(quote, at + 1), places + 1
        return places > 0

    def quoted(self, quote: str) -> str | None:
        """The words of the message that a quote is of, as they stand there; None where they do not."""
        if quote in self.text:
            return quote
        wanted = bare_with_places(quote.rstrip(_ENDINGS))[0]
        at = self._bare.find(wanted) if wanted else -1
        if at < 0:
            return None
        return self.text[self._places[at] : self._places[at + len(wanted) - 1] + 1]


def _where(candidate: dict[str, Any], messages: Sequence[_Message]) -> int:
    """Which message a candidate is of: the one it names if that holds its quote, else the last that does."""
    # A model counts from 1, and miscounts: the quote decides.
    named = candidate.get("n", 0) - 1
    order = [named, *reversed(range(len(messages)))] if 0 <= named < len(messages) else reversed(range(len(messages)))
    return next((n for n in order if messages[n].quoted(candidate.get("quote", "")) is not None), 0)


def _called(listed: Sequence[Any], people: Sequence[str]) -> frozenset[str]:
    """The words for what somebody is to the person, as the model and the known values have them."""
    said = (one.get("about") for one in listed if isinstance(one, dict))
    known = (line.partition(":")[0].rpartition(",")[2] for line in people if "," in line.partition(":")[0])
    return frozenset(normal(word) for word in (*said, *known) if isinstance(word, str) and len(word) <= _CALLED)


def _passed(candidate: dict[str, Any], n: int, message: _Message, called: Collection[str]) -> Proposal | None:
    kind = _LEARNT.get(candidate.get("kind", ""))
    value = " ".join(candidate.get("value", "").split())
    quote = message.quoted(candidate.get("quote", "").strip())
    if (
        kind is None
        or not quote
        or len(quote) > prompts.MAX_QUOTE
        or not 0 < len(value) <= prompts.MAX_VALUE
        or is_too_long(value)
    ):
        return None
    slot, entity = _slot(candidate, value), None
    if slot is not None:
        slot, entity = _of_whom(candidate, slot, value, called)
    if slot is None or (kind == "inferred" and is_sensitive(slot.key)):
        return None
    if message.is_quotation(quote):
        return None
    # What has ended is often not named ("I sold it"), and a state seldom by its word ("I was laid off").
    if kind != "ended" and not _is_state(slot) and not _is_grounded(candidate, value, quote, message):
        return None
    polarity = candidate.get("polarity", "support")
    if polarity not in ("support", "oppose"):
        return None
    opposed = polarity == "oppose"
    if opposed and kind == "change":  # "I no longer live there"
        kind, opposed = "ended", False
    # "I do not like it" is a dislike, and so on: one way to store it.
    if opposed and slot.key in OPPOSITE:
        slot, opposed = Slot(OPPOSITE[slot.key], slot.value), False
    return Proposal(
        n,
        slot.key,
        slot.value,
        -1 if opposed and kind != "ended" else 1,
        kind,
        quote,
        " ".join(candidate.get("when", "").split())[:100],
        entity,
        message.is_suspect,
        message.is_order,
    )


def _is_short(candidate: Any) -> bool:
    """Whether what a model gave is of the form, and no longer than what is asked of it can be."""
    if not isinstance(candidate, dict) or len(candidate) > _FIELDS:
        return False
    return all(
        isinstance(value, int)
        if name in ("n", "count")
        else isinstance(value, str) and len(value) <= _FIELD_CHARACTERS and len(name) <= _FIELD_CHARACTERS
        for name, value in candidate.items()
    )


def _slot(candidate: dict[str, Any], value: str) -> Slot | None:
    other = candidate.get("over", "").strip()
    return comparison(value, other) if other else canonical(candidate.get("key", ""), value)


def _of_whom(
    candidate: dict[str, Any], slot: Slot, value: str, words: Collection[str]
) -> tuple[Slot | None, Entity | None]:
    """Where a candidate belongs, and whom it is about (None: the user). That somebody in the user's life has a partner,
    a child or an animal is a fact of theirs; what is told of such a one is kept where it has a name. `words`: what
    people are called that is no name."""
    about, whose = (" ".join(candidate.get(name, "").split()) for name in ("about", "whose"))
    name = " ".join(candidate.get("name", "").split())[: prompts.MAX_VALUE]
    called = "" if about.casefold() in _SELF else about[:_CALLED]
    if category(slot.key) == "people" and name and normal(name) == normal(value):  # `people.acquaintances`
        slot = Slot("people.friends" if slot.key not in EXISTENCE else slot.key, slot.value)
    is_pet = slot.key == "pets.has" or candidate.get("key", "").startswith("pet")
    if whose.casefold() in _SELF:
        whose = ""
    if slot.key in EXISTENCE and (whose or _is_owner(called, name, slot.key, value)):
        is_word = normal(whose) in words or relation(normal(whose)) is not None
        owner = Entity("person", whose if is_word else "", "" if is_word else whose) if whose else None
        return Slot(_OF_OTHERS[slot.key], value), owner or Entity("person", called, name)
    if whose:
        return (slot, Entity("pet" if is_pet else "person", "", name)) if name else (None, None)
    if not called and slot.key not in EXISTENCE:
        return slot, None
    if slot.key in EXISTENCE and not called and not name:
        called = value[:_CALLED]
    count = min(_COUNT_MAX, max(0, candidate.get("count", 0)))
    return slot, Entity("pet" if is_pet else "person", called, name, count)


def _is_owner(called: str, name: str, key: str, value: str) -> bool:
    """Whether somebody who is named by what they are is not whom a slot of people is to hold, but whose they are: the
    brother of "his husband"."""
    owner = relation(normal(called).rpartition(" ")[2])
    if owner is None or owner.slot == key:
        return False
    words = words_of(value)
    held = [one for word in words if (one := relation(word)) is not None]
    if any(one.slot == owner.slot for one in held):
        return False
    is_another = bool(name) and set(words_of(name)).isdisjoint(words)
    return is_another or any(one.slot == key for one in held)


# -- the value stands in the words


def _is_grounded(candidate: dict[str, Any], value: str, quote: str, message: _Message) -> bool:
    """Whether the value stands in the message, in what the person said before, or in what the quote affirms."""
    if plain_text(value) in message.plain or words_stand_in(value, message.words):
        return True
    if words_stand_in(value, message.words_before):  # "he lives there"
        return True
    affirmed = plain_text(candidate.get("affirms", ""))
    if affirmed:
        return any(affirmed in line for line in message.twin_before) and stands_in(value, f"{affirmed} {quote}")
    return bool(message.twin_before) and _is_reply(quote, message) and stands_in(value, message.twin_before[-1])


def _is_state(slot: Slot) -> bool:
    """Whether it is one of the few states that a person of any language can be in."""
    return slot.value.casefold().replace("-", " ") in prompts.STATES.get(slot.key.partition(".")[0], ())


def _is_reply(quote: str, message: _Message) -> bool:
    """Whether the quote may be all of an answer to what the twin asked."""
    return 2 * len(quote) >= len(message.text.strip())
