"""What a prompt says of its user: a profile as text. Pure.

All that a user wrote stands there as JSON (`prompts.json_line`)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from twin_sio.agent import ProfileContext
from twin_sio.agent.prompts import FORMER_FACTS, json_line, tokens
from twin_sio.agent.relations import relation_of
from twin_sio.agent.traits import (
    CITY,
    EXISTENCE,
    PARTNER,
    REPLACED,
    STATUS,
    category,
    fact_of,
    holds_one_thing,
    is_functional,
    is_sensitive,
    normal,
    without_rejected_people,
)
from twin_sio.domain import Entity, Fact, Profile, Trait

PINNED_TOKENS: Final = 1_000  # what the user confirmed is in the prompt however small the budget, up to this much
SAID_TOKENS: Final = 300  # and what they said of an allergy or a condition, up to this
DENIED_TOKENS: Final = 150  # of what they said is not so
_LIFE_SLOTS: Final = frozenset({CITY, STATUS, "work.role", "work.employer"})
"""Of what has ended, what is told first, beside who is gone."""
_FIRST_SLOTS: Final = (
    frozenset({"identity.name", "identity.nickname", "identity.pronouns", "identity.age", "work.status"})
    | _LIFE_SLOTS
    | (EXISTENCE - {"people.friends", "people.colleagues"})
)
"""Of what holds, what is told first: small things that were said of late must not push out who somebody is."""
_SHORTEST: Final = 6  # tokens of a line

TRAITS_HEADING: Final = "## What you know about them"
PEOPLE_HEADING: Final = "## People and animals in their life"
PEOPLE_RULE: Final = "What stands after somebody's name is true of them, not of the person you are talking with."
SAID_HEADING: Final = "## They said this (not confirmed)"
SAID_RULE: Final = "Take care not to go against it. Do not bring it up by yourself."
GONE: Final = " (no longer in their life)"
QUESTION_HEADING: Final = "## What you may ask"


def known(profile: Profile, *, budget_tokens: int) -> ProfileContext:
    """What a prompt says of the user and of those in their life: what they confirmed first, and what they said of their
    health, faith and the like, whatever the budget; then, in three eighths of the budget, of what is applied who they
    are and the surest, what they said is not so, and one question at most. What has ended is apart
    (`ProfileContext.former`)."""
    budget = budget_tokens // 8 * 3
    traits = without_rejected_people(profile)
    ranked = sorted(traits, key=lambda trait: (-trait.confidence, trait.key, trait.trait_id))
    applied = [trait for trait in ranked if trait.status == "applied"]
    tentative = [trait for trait in ranked if trait.status == "tentative"]
    denied = _denied(ranked)
    said = [trait for trait in (*tentative, *denied) if is_sensitive(trait.key)]
    said.sort(
        key=lambda trait: (trait.entity is not None, trait.key != "health.allergy", category(trait.key) != "health")
    )
    pinned, spent = _fitting([trait for trait in applied if trait.pinned], PINNED_TOKENS)
    budget -= spent
    stated, spent = _fitting(said, SAID_TOKENS)
    budget -= spent
    first = sorted(applied, key=lambda trait: trait.key not in _FIRST_SLOTS or _is_of_another(trait))
    more, spent = _fitting([trait for trait in first if not trait.pinned], budget)
    budget -= spent
    not_so, spent = _fitting([trait for trait in denied if not is_sensitive(trait.key)], min(budget, DENIED_TOKENS))
    budget -= spent
    gone = _gone(traits)
    sections = [*_facts((*pinned, *more, *not_so), gone), *_said(stated)]
    # What is denied is not rated with the answer: a good one would speak for it.
    used = [trait.trait_id for trait in (*pinned, *more, *stated) if not trait.is_denied]
    asked = next((trait for trait in tentative if not is_sensitive(trait.key)), None)
    if asked is not None:
        question = (
            f"{QUESTION_HEADING}\nYou are not sure of this; do not rely on it. Where it fits, and at most once, "
            f"you may ask whether it is so. {_line_of(asked)}"
        )
        if tokens(question) <= budget:
            sections.append(question)
            used.append(asked.trait_id)
    return ProfileContext(tuple(sections), tuple(used), _rejected(profile), _ended(traits, gone))


def _denied(traits: Sequence[Trait]) -> list[Trait]:
    """What the user said is not so, the last first: "no kids"; not what is only another value of a slot of one, and
    where there is somebody since, or a car, or a job, not that there is none."""
    applied = [trait for trait in traits if trait.status == "applied"]
    has_one = {(trait.key, trait.entity) for trait in applied if is_functional(trait.key)}
    since = {trait.key: trait.valid_from for trait in sorted(applied, key=lambda one: one.valid_from)}
    denied = [
        trait
        for trait in traits
        if trait.is_denied
        and (trait.key, trait.entity) not in has_one
        and not (_is_there_or_not(trait.key) and trait.key in since and since[trait.key] > trait.valid_from)
    ]
    return sorted(denied, key=lambda trait: -trait.opposing)


def _is_there_or_not(key: str) -> bool:
    return key in EXISTENCE or key in REPLACED or holds_one_thing(key)


def _is_of_another(trait: Trait) -> bool:
    return trait.entity is not None and trait.key not in EXISTENCE


def _ended(traits: Sequence[Trait], gone: Collection[Entity]) -> tuple[Fact, ...]:
    """What held once and holds no more: who is gone and what made up their life before all else, then the last to end;
    behind that what is known of those who are gone, and what was only ever told to have ended."""
    ended = [(trait, trait.valid_to) for trait in traits if trait.status == "superseded" and trait.valid_to is not None]

    def rank(one: tuple[Trait, datetime]) -> tuple[bool, bool, float]:
        trait, over = one
        is_somebody = trait.key in EXISTENCE
        is_first = is_somebody or (trait.key in _LIFE_SLOTS and trait.entity is None)
        is_last = not is_first and (trait.entity in gone or trait.valid_from == over)
        return is_last, not is_first, -over.timestamp()

    return tuple(_former_fact(trait, over) for trait, over in sorted(ended, key=rank)[:FORMER_FACTS])


def _gone(traits: Iterable[Trait]) -> frozenset[Entity]:
    """Those who were in the user's life and are not any more."""
    over = (trait.entity for trait in traits if trait.status == "superseded" and trait.key in EXISTENCE)
    return frozenset(who for who in over if who is not None)


def _former_fact(trait: Trait, over: datetime) -> Fact:
    value = _who(trait) if trait.entity is not None and trait.key in EXISTENCE else trait.value
    return replace(fact_of(trait, over), value=f"{value} ({trait.when})" if trait.when else value)


def _facts(traits: Sequence[Trait], gone: Collection[Entity]) -> list[str]:
    """The sections of what is true of the user, and of those in their life, each of whom has a line. How many they are
    is said where not all have a name."""
    own = [f"- {_line_of(trait)}" for trait in traits if trait.entity is None]
    of_others = [(who, trait) for trait in traits if (who := trait.entity) is not None]
    # Who was a friend or a colleague before is one person with the partner of that name.
    partners = {normal(who.name): who for who, trait in of_others if trait.key == PARTNER and who.name}
    people: dict[Entity, str] = {}
    facts: dict[Entity, list[str]] = defaultdict(list)
    for who, trait in of_others:
        is_one = partners.get(normal(who.name), who) == who and not _are_named(trait, of_others)
        if trait.key in EXISTENCE and is_one:
            people.setdefault(who, f"- {_line_of(trait)}")
    for who, trait in of_others:
        if trait.key not in EXISTENCE:
            one = partners.get(normal(who.name), who)
            people.setdefault(one, f"- {json_line(_who(trait))}{GONE if one in gone else ''}")
            facts[one].append(f"{_slot(trait)}: {_value_of(trait)}")
    lines = [": ".join((line, "; ".join(facts[who]))) if who in facts else line for who, line in people.items()]
    sections = ["\n".join((TRAITS_HEADING, *own))] if own else []
    return [*sections, "\n".join((PEOPLE_HEADING, PEOPLE_RULE, *lines))] if lines else sections


def _are_named(several: Trait, of_others: Sequence[tuple[Entity, Trait]]) -> bool:
    """Whether all of several people or animals ("two kids") stand there by their names."""
    count = several.entity.count if several.entity is not None and not several.is_denied else 0
    sort = relation_of(several.entity.relation) if several.entity is not None else None
    if count < 2 or sort is None:
        return False
    one = sort._replace(is_many=False)
    named = [who for who, trait in of_others if trait.key == several.key and who.name]
    return len({who.name for who in named if sort.is_general or relation_of(who.relation) == one}) >= count


def _said(traits: Sequence[Trait]) -> list[str]:
    lines = [f"- {_line_of(trait)}" for trait in traits]
    return ["\n".join((SAID_HEADING, SAID_RULE, *lines))] if lines else []


def _fitting(traits: Sequence[Trait], budget: int) -> tuple[list[Trait], int]:
    """The traits whose lines fit, the first first, and the tokens they take."""
    kept, spent = [], 0
    for trait in traits:
        if budget - spent < _SHORTEST:
            break
        cost = tokens(f"- {_line_of(trait)}\n")
        if spent + cost <= budget:
            kept.append(trait)
            spent += cost
    return kept, spent


def _line_of(trait: Trait) -> str:
    """A trait by itself, with whom it is of where that is not the user."""
    if trait.entity is None:
        return f"{_slot(trait)}: {_value_of(trait)}"
    if trait.key in EXISTENCE:
        return f"{_slot(trait)}: {'not ' if trait.is_denied else ''}{json_line(_who(trait))}"
    return f"{json_line(_who(trait))}: {_slot(trait)}: {_value_of(trait)}"


def _value_of(trait: Trait) -> str:
    """A value, whether it is denied, and what they said of the time."""
    value = f"not {json_line(trait.value)}" if trait.is_denied else json_line(trait.value)
    return f"{value} ({json_line(trait.when)})" if trait.when else value


def _who(trait: Trait) -> str:
    """Who an entity is: by name and relation, else as the user put it."""
    if trait.entity is None or (trait.key in EXISTENCE and not trait.entity.name):
        return trait.value
    return trait.entity.label


def _slot(trait: Trait) -> str:
    return trait.key.replace("_", " ")


_TOKEN: Final = re.compile(r"\w+|[^\w\s]")
_REJECTED_WORDS: Final = 8  # of a longer value these first ones are enough to know it by


def _rejected(profile: Profile) -> Callable[[str], bool]:
    """Whether a text holds a value that the user has rejected, word by word: whatever the number of the values, it
    takes as long as the text is."""
    # What the user has rejected stands in old lines still; a prompt that shows it teaches it again.
    values = {_words(trait.value)[:_REJECTED_WORDS] for trait in profile.traits if trait.status == "rejected"}
    values.discard(())
    lengths = sorted({len(value) for value in values})

    def is_rejected(text: str) -> bool:
        words = _words(text) if lengths else ()
        return any(words[at : at + length] in values for length in lengths for at in range(len(words) - length + 1))

    return is_rejected


def _words(text: str) -> tuple[str, ...]:
    """The words and the single signs of a text, as values are compared."""
    return tuple(_TOKEN.findall(normal(text)))
