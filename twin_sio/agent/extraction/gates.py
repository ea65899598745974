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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from typing import Any, Final, Literal

from twin_sio.agent.extraction import prompts
from twin_sio.agent.extraction.grounding import Words, bare_with_places, plain_text, stands_in, words_stand_in
from twin_sio.agent.extraction.instructions import is_instruction
from twin_sio.agent.extraction.orders import SUSPECT_THRESHOLD
from twin_sio.agent.extraction.slots import Slot, canonical, comparison
from twin_sio.agent.extraction.whose import OF_OTHERS, People, of_whom, people_of
from twin_sio.agent.traits import EXISTENCE, OPPOSITE, REPLACED, category, is_functional, is_sensitive, is_too_long
from twin_sio.domain import Entity, Exchange, Json

Learnt = Literal["explicit", "change", "ended", "inferred"]

LONGEST: Final = 4_000
"""Characters of a message that are looked at: who writes more has pasted something."""

_LEARNT: Final[dict[str, Learnt]] = {one: one for one in ("explicit", "change", "ended", "inferred")}
_FIELDS: Final = 16  # that a candidate may have
_FIELD_CHARACTERS: Final = 1_000  # of one of them: a quote is shorter
_PLACES_MAX: Final = 20  # of a quote that are looked at
_ENDINGS: Final = " .,;:!?…"  # of a quote, with which models end it in mid-sentence
_CITED: Final = re.compile(
    r"\"[^\"]*\"|“[^”]*”|„[^“”]*[“”]|«[^»]*»|「[^」]*」|```.*?(?:```|\Z)|`[^`\n]*`|^[ \t]*>[^\n]*",
    re.DOTALL | re.MULTILINE,
)
_NAMES: Final = {"goal": "plans", "possession": "possessions"}
"""By the category of a slot, its name under a sensitive nature: a plan is no condition."""
_NO_NAMES: Final = frozenset({"fact", "facts", "has", "is", "other", "info", "current"})
"""Names of slots that say nothing of what is in them."""


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
        # Whoever it is, the question is whether they are there: not everybody is a friend.
        slot = "in their life" if self.key.startswith("people.") else self.key
        says = f"{slot}: {self.value}" if self.polarity > 0 else f"not {slot}: {self.value}"
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
    known_words = Words(*(value for values in (known or {}).values() for value in values))
    messages: list[_Message] = []
    for exchange in exchanges:
        messages.append(_Message(exchange, messages, known_words, injection_gate))
    people = people_of(listed, (known or {}).get(prompts.PEOPLE, ()))
    # By what it says: a model may list one thing twice.
    found: dict[tuple[object, ...], Proposal] = {}
    counts = [0] * len(exchanges)
    # Of each message the slots of which a replacement did not pass: an end alone would say that there is nothing now.
    dropped: set[tuple[int, str]] = set()
    for candidate in listed[: prompts.MAX_CANDIDATES * len(exchanges)]:
        if not _is_short(candidate):
            continue
        n = _where(candidate, messages)
        if counts[n] >= prompts.MAX_CANDIDATES:
            continue
        counts[n] += 1
        proposal = _passed(candidate, n, messages, people)
        if proposal is None and candidate.get("kind") != "ended" and _replaces(key := _key(candidate)):
            dropped.add((n, key))
        if proposal is not None:
            whose = (proposal.entity.relation, proposal.entity.name) if proposal.entity is not None else ()
            is_end = proposal.kind == "ended"
            name = (n, proposal.key, proposal.value.casefold(), proposal.polarity, is_end, whose)
            found.setdefault(name, proposal)
    return [one for one in found.values() if not (one.kind == "ended" and (one.n, one.key) in dropped)]


def _replaces(key: str) -> bool:
    """Whether a new value of the slot takes the place of another: a dose, too."""
    return is_functional(key) or key in REPLACED or category(key) == "health"


def _key(candidate: Mapping[str, Any]) -> str:
    slot = canonical(candidate.get("key", ""), candidate.get("value", ""))
    return slot.key if slot is not None else ""


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
    # That somebody has a partner is no such thing, whatever may be concluded from it.
    is_plain = nature == "sexuality" and (proposal.key in EXISTENCE or proposal.key in OF_OTHERS.values())
    if nature in prompts.NATURES and not is_sensitive(proposal.key) and not is_plain:
        proposal = replace(proposal, key=_sensitive(proposal.key, nature))
    if holds != "yes":
        proposal = replace(proposal, kind="inferred")
    return None if proposal.kind == "inferred" and is_sensitive(proposal.key) else proposal


def _sensitive(key: str, nature: str) -> str:
    """The slot of a sensitive nature for what was proposed under `key`: with its name, if that says something."""
    name = _NAMES.get(category(key)) or key.partition(".")[2]
    return f"{nature}.{prompts.NATURES[nature] if name in _NO_NAMES else name}"


class _Message:
    """A message, with what its quotes are looked up in. `earlier`: those that are read with it."""

    def __init__(self, exchange: Exchange, earlier: Sequence[_Message], known: Words, injection_gate: bool) -> None:
        self.text = exchange.text[:LONGEST]
        self.words = Words(self.text)
        self._bare, self._places = bare_with_places(self.text)
        lines = [(line.role, line.text[: prompts.LINE_CHARACTERS]) for line in exchange.before[-prompts.LINES_BEFORE :]]
        self.twin_before = [Words(text) for role, text in lines if role == "twin"]
        self._own_before = [text for role, text in lines if role == "user"]
        self._earlier = tuple(earlier)
        self._at = exchange.at
        self._known, self._injection_gate = known, injection_gate
        self.is_suspect = injection_gate and is_instruction(self.text, SUSPECT_THRESHOLD)
        self.is_order = self.is_suspect and is_instruction(self.text)
        # Where others' words stand, in the order of the text.
        self._cited = [found.span() for found in _CITED.finditer(self.text)]

    @cached_property
    def _own(self) -> Words:
        """What the person said before, but for what they cite, and for lines that may give an order."""
        own = [_CITED.sub(" ", text) for text in self._own_before]
        if self._injection_gate:
            own = [text for text in own if not is_instruction(text, SUSPECT_THRESHOLD)]
        return Words(*own, *(_CITED.sub(" ", one.text) for one in self._earlier if not one.is_suspect))

    def was_said_before(self, value: str) -> bool:
        """Whether a value stands in what the person said before, or in what is known of them."""
        return any(words_stand_in(value, said) for said in (self._own, self._known))

    def says_part_of(self, value: str, asked: str) -> bool:
        """Whether a part of a value stands in the message and the rest in what was said before: by the person, or by
        the twin, where the message answers that."""
        if not any(words_stand_in(word, self.words) for word in value.split()):
            return False
        return words_stand_in(value, self.words, self._own, self._known, Words(asked))

    def is_birthday(self, slot: Slot) -> bool:
        """Whether it is a birthday of about the day of the message, as of who says "it's my birthday today"."""
        numbers = re.findall(r"\d+", slot.value) if slot.key == "identity.birthday" else ()
        days = [self._at + timedelta(days=more) for more in (-1, 0, 1)]  # "yesterday", "tomorrow", other time zones
        said = {number for day in days for number in (day.year, day.month, day.day)}
        return bool(numbers) and all(int(number) in said for number in numbers)

    def names(self, name: str) -> bool:
        """Whether a name stands in the message, or in what was said before or is known."""
        is_in_it = words_stand_in(name, self.words) or self.was_said_before(name)
        return is_in_it or any(stands_in(name, line) for line in self.twin_before)

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


def _passed(candidate: dict[str, Any], n: int, messages: Sequence[_Message], people: People) -> Proposal | None:
    message = messages[n]
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
        slot, entity = of_whom(candidate, slot, value, people)
    if slot is None or (kind == "inferred" and is_sensitive(slot.key)):
        return None
    if message.is_quotation(quote):
        return None
    # Who is named in another message that is read with this one may be meant here already.
    if entity is not None and entity.name and not any(one.names(entity.name) for one in messages):
        if not entity.relation:
            return None
        entity = replace(entity, name="")
    # What has ended is often not named ("I sold it"), and a state seldom by its word ("I was laid off").
    is_told = kind == "ended" or _is_state(slot) or message.is_birthday(slot)
    is_told = is_told or _is_grounded(candidate, value, quote, message)
    # Of somebody it is the name, which another message may say.
    if not is_told and not (slot.key in EXISTENCE and any(one.names(value) for one in messages)):
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


# -- the value stands in the words


def _is_grounded(candidate: dict[str, Any], value: str, quote: str, message: _Message) -> bool:
    """Whether the value stands in the message, in what the person said before, or in what the quote affirms."""
    if stands_in(value, message.words) or message.was_said_before(value):  # "he lives there"
        return True
    affirmed, asked = plain_text(candidate.get("affirms", "")), ""
    if affirmed:
        asked = affirmed if any(affirmed in line.plain for line in message.twin_before) else ""
    elif message.twin_before and _is_reply(quote, message):
        asked = message.twin_before[-1].plain
    if asked and stands_in(value, Words(f"{asked} {quote}" if affirmed else asked)):
        return True
    return message.says_part_of(value, asked)


def _is_state(slot: Slot) -> bool:
    """Whether it is one of the few states that a person of any language can be in."""
    return slot.value.casefold().replace("-", " ") in prompts.STATES.get(slot.key.partition(".")[0], ())


def _is_reply(quote: str, message: _Message) -> bool:
    """Whether the quote may be all of an answer to what the twin asked."""
    return 2 * len(quote) >= len(message.text.strip())
