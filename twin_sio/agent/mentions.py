"""How a piece of evidence names somebody: what its words say of who it is. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from twin_sio.agent.leaving import PUNCTUATION
from twin_sio.agent.relations import AND, EX, LINKS, NAMING, NUMBERS, SMALL, WHICH, Relation, relation
from twin_sio.agent.traits import EXISTENCE, PARTNER, normal
from twin_sio.domain import Entity, Evidence

_NAME_WORDS: Final = 3  # of a name that follows a relation
_POSSESSIVE: Final = re.compile("['\N{RIGHT SINGLE QUOTATION MARK}]s$")


class Mention(NamedTuple):
    """How a piece names somebody. `sort` is what they are as far as it tells them from others in the slot, `which` of
    them in it (`WHICH`)."""

    slot: str
    kind: Literal["person", "pet"]
    relation: str
    sort: str
    name: str
    number: int
    is_many: bool
    which: str = ""

    @property
    def full_sort(self) -> str:
        """The sort with which of it: `sister/older`."""
        return f"{self.sort}/{self.which}" if self.which else self.sort


def entity_of(key: str, value: str) -> Entity:
    """Who the value of a slot of people or animals is, as far as its words say: "two kids", "my wife Clara", "Mia"."""
    one = _read(key, value)
    return Entity(one.kind, one.relation, one.name, one.number)


def mention(piece: Evidence) -> Mention | None:
    """How a piece names somebody; None where it is about the user alone."""
    one = _mention(piece)
    if one is None or one.is_many or one.slot == PARTNER or one.sort == EX:
        return one
    # Whoever read it may have left out of the relation what the value says.
    said = (piece.entity.relation if piece.entity is not None else "", piece.value if piece.key in EXISTENCE else "")
    word = next((word for text in said for word in _plain(text) if word in WHICH), "")
    if not word:
        return one
    is_told = bool(one.name) or word in normal(one.relation).split()
    return one._replace(which=WHICH[word], relation=one.relation if is_told else f"{word} {one.relation}".strip())


def _plain(text: str) -> list[str]:
    """The words that are no names, as values are compared: capitals stand before names."""
    words = [word.strip(PUNCTUATION) for word in text.split()]
    return [normal(word) for at, word in enumerate(words) if at == 0 or word[:1].islower()]


def _mention(piece: Evidence) -> Mention | None:
    entity = piece.entity
    if piece.key in EXISTENCE and (entity is None or not (entity.name or entity.relation or entity.count)):
        return _read(piece.key, piece.value)
    if entity is None or not (entity.name or entity.relation):
        return None
    # As the model put it: the last word of "my younger sister" is what somebody is.
    called = normal(entity.relation)
    slot = piece.key if piece.key in EXISTENCE else ""
    found = relation(called, slot) or relation(called.rpartition(" ")[2], slot)
    sort = called if found is None else "" if found.is_general else found.sort
    is_many = not entity.name and (entity.count > 1 or (found is not None and found.is_many))
    return Mention(
        slot or (found.slot if found else ""),
        entity.kind,
        entity.relation,
        sort if slot != PARTNER or sort == EX else "",
        entity.name,
        entity.count,
        is_many,
    )


def _read(key: str, value: str) -> Mention:
    """The words of a value one by one: a number, what somebody is, a name; what is none of it stays a phrase."""
    words = [plain for word in value.split() if (plain := word.strip(PUNCTUATION))]
    said = [relation(_bare(word), key) for word in words]
    found = max((one for one in said if one is not None), key=lambda one: not one.is_general, default=None)
    sorts = {one.sort for one in said if one is not None and not one.is_general and one.sort != EX}
    called = next((word for word, one in zip(words, said, strict=True) if one is not None and one == found), "")
    called = _POSSESSIVE.sub("", called)
    name = "" if len(sorts) > 1 else _name_in(key, words, said)
    number = 0 if name or len(sorts) > 1 else _number_in(words, said)
    if len(sorts) > 1 or (found is None and not name and number == 0):  # "a son and a daughter", "golden retriever"
        phrase = " ".join(words[next((at for at, word in enumerate(words) if not _is_small(words, at)), 0) :])
        return Mention(key, _kind(key), phrase, normal(phrase), "", 0, len(sorts) > 1)
    sort = found.sort if found is not None and not found.is_general else ""
    if found is None and name:
        called = _kind_before_name(key, words)
        sort = normal(called)
    is_many = not name and (number > 1 or (found is not None and found.is_many))
    is_partner = key == PARTNER and sort != EX
    return Mention(key, _kind(key), called, "" if is_partner else sort, name, number, is_many)


def _kind(key: str) -> Literal["person", "pet"]:
    return "pet" if key == "pets.has" else "person"


def _bare(word: str) -> str:
    return _POSSESSIVE.sub("", normal(word))


def _is_small(words: Sequence[str], at: int) -> bool:
    """Whether a word says nothing; capitalised it may be a name (Mia, which is Italian for my)."""
    low = normal(words[at])
    return low in SMALL and (words[at] == low or (at == 0 and len(words) > 1))


def _number_in(words: Sequence[str], said: Sequence[Relation | None]) -> int:
    """How many there are: a number alone, before the word for several, or right before the word for one."""
    for at, word in enumerate(words):
        low = normal(word)
        if low not in NUMBERS and not (low.isdecimal() and len(low) < 4):
            continue
        after = next((one for one in said[at + 1 :] if one is not None), None)
        is_next = after is not None and said[at + 1] is not None
        if len(words) == 1 or (after is not None and (after.is_many or is_next)):
            count = NUMBERS.get(low) or int(low)
            return count if count > 1 else 0
    return 0


def _name_in(key: str, words: Sequence[str], said: Sequence[Relation | None]) -> str:
    """What follows a naming word or the word for what somebody is, stands before that with a capital, or is alone."""
    after_naming = next((at + 1 for at, word in enumerate(words) if normal(word) in NAMING), None)
    related = [at for at, one in enumerate(said) if one is not None]
    if after_naming is not None:
        return _as_name(words[after_naming:], is_sure=True)
    if not related:
        own = [word for at, word in enumerate(words) if not _is_small(words, at) and not word.isdecimal()]
        return _as_name(own, is_sure=_kind(key) == "person" and len(own) == len(words) == 1)
    after = [words[at] for at in range(related[-1] + 1, len(words)) if not _is_small(words, at)]
    before = [words[at] for at in range(related[0]) if not _is_small(words, at)]
    return _as_name(after, is_sure=len(after) == 1) or _as_name(before, is_sure=False)


def _as_name(words: Sequence[str], *, is_sure: bool) -> str:
    """The words as a name up to the first that links them to others; without capitals only where it is sure."""
    upto = next((at for at, word in enumerate(words) if normal(word) in LINKS), len(words))
    if upto < len(words) and normal(words[upto]) in AND:
        return ""  # several
    name = words[:upto]
    is_name = 0 < len(name) <= _NAME_WORDS and not any(letter.isdecimal() for word in name for letter in word)
    return " ".join(name) if is_name and (is_sure or all(word[:1].isupper() for word in name)) else ""


def _kind_before_name(key: str, words: Sequence[str]) -> str:
    """What somebody is in words of the user's own: "golden retriever", of one that is named so and so."""
    at = next((at for at, word in enumerate(words) if normal(word) in NAMING), 0)
    return " ".join(words[nth] for nth in range(at) if not _is_small(words, nth)) if key == "pets.has" else ""


def is_ex(entity: Entity | None) -> bool:
    """Whether somebody is called what they were: what is told of an ex is told of them as such."""
    words = normal(entity.relation).split() if entity is not None else []
    return any((found := relation(word)) is not None and found.sort == EX for word in (" ".join(words), *words))
