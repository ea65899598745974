"""Whom a model's candidate is about: the user, somebody in their life, or somebody of theirs. Pure.

That somebody in the user's life has a partner, a child or an animal is a fact of theirs, and none of the user's. A
model is asked whose such a one is (`whose`); what it says there, and what it says where it should say who, is
understood as far as it can be.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

from twin_sio.agent.extraction import prompts
from twin_sio.agent.extraction.grounding import words_of
from twin_sio.agent.extraction.slots import Slot
from twin_sio.agent.relations import SMALL, relation, relation_of
from twin_sio.agent.traits import EXISTENCE, PARTNER, category, normal
from twin_sio.domain import Entity

OF_OTHERS: Final[Mapping[str, str]] = {key: f"life.{key.partition('.')[2]}" for key in EXISTENCE} | {
    "pets.has": "life.pets"
}
"""Where it stands that somebody else than the user has somebody, by where it stands of the user."""

_CALLED: Final = 40  # characters of the word for what somebody is, and of a name that stands in its place
_COUNT_MAX: Final = 100  # children, cats; more is no count of them
_NOBODY: Final = frozenset({"", "-", ".", "none", "null", "n/a", "nobody", "unknown"})
_USER: Final = frozenset(
    {"self", "me", "user", "myself", "i", "person", "my", "mine", "our", "us", "we"}
    | {"ich", "mich", "mein", "meine", "yo", "mi", "mí", "moi", "mon", "ma", "je", "io", "eu"}
)
"""What models call the user, or nobody, where the user is meant."""
_RELATIVES: Final = "family.relatives"
_OWNED: Final[Mapping[str, frozenset[str]]] = {
    PARTNER: EXISTENCE - {PARTNER, "pets.has"},
    "family.children": EXISTENCE - {PARTNER, "pets.has"},
    "family.siblings": EXISTENCE - {"pets.has"},
    "family.parents": EXISTENCE - {"pets.has"},
    _RELATIVES: EXISTENCE - {"pets.has"},
    "pets.has": EXISTENCE - {PARTNER, "family.children", "pets.has"},
}
"""By slot, what those are who may have what it holds: a brother is no partner, but may have one; a child may have a
child."""


class People(NamedTuple):
    """The words for what those in the user's life are to them, and the names of those who are family."""

    words: frozenset[str]
    family: frozenset[str]


def people_of(listed: Sequence[Any], known: Sequence[str]) -> People:
    """Who is in the user's life, by a model's candidates and the lines that it was shown (`PEOPLE`)."""
    said = [(one.get("about"), one.get("name")) for one in listed if isinstance(one, dict)]
    for line in known:
        name, comma, word = line.partition(":")[0].rpartition(",")
        said += [(word, name)] if comma else []
    called = [(normal(word), name) for word, name in said if isinstance(word, str) and len(word) <= _CALLED]
    family = (normal(name) for word, name in called if isinstance(name, str) and name and _is_family(word))
    return People(frozenset(word for word, _ in called), frozenset(family))


def of_whom(candidate: Mapping[str, Any], slot: Slot, value: str, people: People) -> tuple[Slot | None, Entity | None]:
    """Where a candidate belongs (None: nowhere), and whom it is about (None: the user). What is told of those of
    somebody in the user's life is kept where they have a name. A relative whom one of the family has, too, as a
    grandchild, is the user's."""
    about = " ".join(candidate.get("about", "").split())[:_CALLED]
    name = " ".join(candidate.get("name", "").split())[: prompts.MAX_VALUE]
    is_pet = slot.key == "pets.has" or candidate.get("key", "").startswith("pet")
    called = "" if _is_user(about) else about
    if category(slot.key) == "people" and name and normal(name) == normal(value) and slot.key not in EXISTENCE:
        slot = Slot("people.friends", slot.value)  # `people.acquaintances`
    owner = _owner(candidate.get("whose", ""), people.words)
    is_relative = slot.key == _RELATIVES and _slot_of(called) == _RELATIVES
    if owner is not None and is_relative and (_is_family(owner.relation) or normal(owner.name) in people.family):
        owner = None
    if owner is not None and not owner.label:
        return None, None
    if owner is not None and slot.key not in EXISTENCE:
        if not name and normal(called) in ("", normal(owner.relation or owner.name)):
            return slot, owner
        return (slot, Entity("pet" if is_pet else "person", "", name)) if name else (None, None)
    if owner is None and _is_owner(called, name, slot.key, value):
        owner = Entity("person", called, name)
    if owner is not None:
        return Slot(OF_OTHERS[slot.key], value), owner
    if slot.key not in EXISTENCE and not called:
        return slot, None
    if not called and not name:
        called = value[:_CALLED]
    if is_pet and name and _slot_of(called) in (PARTNER, "family.children"):  # of the household
        called, name = "", value[:_CALLED]
    count = min(_COUNT_MAX, max(0, candidate.get("count", 0)))
    return slot, Entity("pet" if is_pet else "person", called, name, count)


def _is_user(word: str) -> bool:
    bare = normal(word).removeprefix("the ")
    return bare in _NOBODY or bare in _USER


def _owner(whose: str, words: Collection[str]) -> Entity | None:
    """Somebody as `whose` names them: "my sister", "Ana's", "sister, Ana"; without relation and name where nobody can
    know who it is ("her"). None where it is the user, or nobody."""
    if _is_user(whose):
        return None
    called = name = ""
    for part in " ".join(whose.split())[: 2 * _CALLED].split(","):
        kept = [word for word in part.split() if normal(word) not in SMALL]
        plain = " ".join(kept).removesuffix("'s").removesuffix("’s")[:_CALLED]
        if not plain:
            continue
        if normal(plain) in words or relation(normal(plain)) is not None:
            called = plain
        else:
            name = plain
    return Entity("person", called, name)


def _slot_of(called: str) -> str:
    """The slot of those who are called so; empty where that is not known."""
    found = relation_of(called)
    return found.slot if found is not None else ""


def _is_family(called: str) -> bool:
    return _slot_of(called).startswith("family.")


def _is_owner(called: str, name: str, key: str, value: str) -> bool:
    """Whether somebody who is named by what they are cannot be what a slot of people holds, and another than they is
    its value: the brother of "his husband"."""
    owner, said = relation_of(called), words_of(value)
    if owner is None or owner.slot not in _OWNED.get(key, ()):
        return False
    held = [one for word in said if (one := relation(word)) is not None]
    if any(one.slot == owner.slot for one in held):  # "my daughter has two kids"
        is_one = owner.slot == key and not (owner.is_many or owner.is_general)
        return is_one and any(one.is_many and one.sort != owner.sort for one in held)
    is_another = bool(name) and set(words_of(name)).isdisjoint(said)
    if key == PARTNER and owner.slot.startswith("people."):  # a friend may be the partner, but not by another name
        return is_another and not held
    return is_another or (key != _RELATIVES and any(one.slot == key for one in held))
