"""Whom a model's candidate is about: the user, somebody in their life, or somebody of theirs. Pure.

That somebody in the user's life has a partner, a child or an animal is a fact of theirs, and none of the user's. A
model is asked whose such a one is (`whose`); what it says there, and what it says where it should say who, is
understood as far as it can be.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from twin_sio.agent.extraction import prompts
from twin_sio.agent.extraction.grounding import words_of
from twin_sio.agent.extraction.slots import Slot
from twin_sio.agent.relations import SMALL, relation
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
_OWNED: Final[Mapping[str, frozenset[str]]] = {
    PARTNER: frozenset({"family.siblings", "family.parents", "family.children", "family.relatives"}),
    "family.children": EXISTENCE - {PARTNER, "family.children", "pets.has"},
    "pets.has": EXISTENCE - {PARTNER, "family.children", "pets.has"},
}
"""By slot, what those are who cannot be what it holds: a brother is no partner, but may have one."""


def words_for_people(listed: Sequence[Any], people: Sequence[str]) -> frozenset[str]:
    """The words for what somebody is to the user, as a model's candidates and the known `people` have them."""
    said = (one.get("about") for one in listed if isinstance(one, dict))
    known = (label.rpartition(",")[2] for line in people if "," in (label := line.partition(":")[0]))
    return frozenset(normal(word) for word in (*said, *known) if isinstance(word, str) and len(word) <= _CALLED)


def of_whom(
    candidate: Mapping[str, Any], slot: Slot, value: str, words: Collection[str]
) -> tuple[Slot | None, Entity | None]:
    """Where a candidate belongs (None: nowhere), and whom it is about (None: the user). What is told of those of
    somebody in the user's life is kept where they have a name. `words`: see `words_for_people`."""
    about = " ".join(candidate.get("about", "").split())[:_CALLED]
    name = " ".join(candidate.get("name", "").split())[: prompts.MAX_VALUE]
    is_pet = slot.key == "pets.has" or candidate.get("key", "").startswith("pet")
    called = "" if _is_user(about) else about
    if category(slot.key) == "people" and name and normal(name) == normal(value) and slot.key not in EXISTENCE:
        slot = Slot("people.friends", slot.value)  # `people.acquaintances`
    owner = _owner(candidate.get("whose", ""), words)
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


def _is_owner(called: str, name: str, key: str, value: str) -> bool:
    """Whether somebody who is named by what they are cannot be what a slot of people holds, and another than they is
    its value: the brother of "his husband"."""
    owner = relation(normal(called).rpartition(" ")[2])
    if owner is None or owner.slot not in _OWNED.get(key, ()):
        return False
    said = words_of(value)
    held = [one for word in said if (one := relation(word)) is not None]
    if any(one.slot == owner.slot for one in held):
        return False
    is_another = bool(name) and set(words_of(name)).isdisjoint(said)
    return is_another or any(one.slot == key for one in held)
