"""What a message plainly says of its writer, by rules: patterns over its clauses, each sure of itself.

Used where no model can be had or none is fit. What no pattern knows is not guessed: a missed fact can be said again, a
false one has to be found first. The patterns are in `languages/`, `values` judges what they find.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from twin_sio.agent.extraction import values
from twin_sio.agent.extraction.clauses import LONGEST, Clause, clauses
from twin_sio.agent.extraction.instructions import is_instruction
from twin_sio.agent.extraction.languages import Rule
from twin_sio.agent.extraction.orders import STRICT_THRESHOLD
from twin_sio.agent.extraction.slots import Slot, canonical, comparison
from twin_sio.agent.reading import Reading
from twin_sio.agent.traits import is_too_long, normal
from twin_sio.domain import Entity, Evidence, Exchange

SIGNATURE: Final = "rules@10"
MAX_READINGS: Final = 20


def read(text: str) -> list[Reading]:
    """What the patterns read in a text; each value of a slot once, and no more than a person says in a message."""
    text = text[:LONGEST]
    if is_instruction(text, STRICT_THRESHOLD):  # no model has doubted it
        return []
    found: dict[tuple[str, str], Reading] = {}
    is_caseless = values.is_caseless(text)
    for clause in clauses(text):
        for one in _read(clause, is_caseless):
            slot = one.key, normal(one.value)
            if not is_too_long(one.value) and (one.kind == "ended" or slot not in found):
                found[slot] = one
    return _without_implied(list(found.values()))[:MAX_READINGS]


def evidence(exchange: Exchange, one: Reading, extractor: str) -> Evidence:
    """What was read of an exchange, as evidence."""
    return Evidence(
        user_id=exchange.user_id,
        key=one.key,
        value=one.value,
        polarity=1 if one.polarity > 0 else -1,
        kind=one.kind,
        observed_at=exchange.at,
        session_id=exchange.session_id,
        message_id=exchange.message_id,
        quote=one.quote,
        extractor=extractor,
        entity=_entity(one),
        when=one.when,
    )


def _entity(one: Reading) -> Entity | None:
    if not (one.relation or one.name or one.how_many):
        return None
    return Entity("pet" if one.key.startswith("pets.") else "person", one.relation, one.name, one.how_many)


def _without_implied(found: list[Reading]) -> list[Reading]:
    """Without those who are only mentioned ("my dog") where the text says more of them: a name, how many, an end. Who
    has gone ("I lost my wife Ann") is nobody that is there."""

    def tells(one: Reading) -> bool:
        return bool(one.name or one.how_many or one.kind == "ended")

    more = [one for one in found if tells(one) or one.polarity < 0]
    claims = {(one.key, one.relation) for one in more}
    ended = {one.key for one in more if one.kind == "ended" and not one.relation}  # "my boyfriend lied and we split up"
    gone = {(one.key, one.relation) for one in more if one.kind == "ended" and one.relation}
    found = [one for one in found if one.kind == "ended" or (one.key, one.relation) not in gone]
    return [
        one
        for one in found
        if tells(one) or not one.relation or not (one.key in ended or (one.key, one.relation) in claims)
    ]


def _read(clause: Clause, is_caseless: bool) -> Iterator[Reading]:
    for variant in _variants(clause):
        keys: set[str] = set()
        stops = values.stops(variant)
        for rule in variant.language.rules:
            if rule.key in keys or not rule.is_for(variant.stance):
                continue
            for one in _found(rule, variant, stops, is_caseless):
                keys.update((rule.key, *rule.excludes))
                yield one


def _found(rule: Rule, clause: Clause, stops: Sequence[int], is_caseless: bool) -> list[Reading]:
    """What a rule reads in a clause: by the first of its patterns that finds a value, or by all, anywhere."""
    found: list[Reading] = []
    for pattern in rule.patterns:
        if rule.is_anywhere:
            matches = list(pattern.finditer(clause.spelled))
        else:
            matches = [one for stop in stops if (one := pattern.fullmatch(clause.spelled, 0, stop)) is not None][:1]
        for match in matches:
            found += _readings(rule, clause, match, is_caseless)
        if found and not rule.is_anywhere:
            break
    return found


def _variants(clause: Clause) -> Iterator[Clause]:
    """The clause, as it is and with what was left out before it; and each half of "I have a wife and two kids"."""
    language = clause.language
    yield clause
    if language.being and language.dropped_being.match(clause.spelled):
        yield clause.after(language.being)
    if language.subject and (clause.is_elided or language.dropped.match(clause.spelled)):
        clause = clause.after(language.subject)
        yield clause
    if (beside := language.beside.match(clause.spelled)) is not None:
        clause = clause.part((beside.end(), len(clause.spelled)))
        yield clause
    head = language.spread.match(clause.spelled)
    if head is None:
        return
    begin = head.end()
    for found in language.joint.finditer(clause.spelled, begin):
        yield clause.part((0, head.end()), (begin, found.start()))
        yield clause.part((0, head.end()), (found.end(), len(clause.spelled)))
        begin = found.end()


def _readings(rule: Rule, clause: Clause, match: re.Match[str], is_caseless: bool) -> Iterator[Reading]:
    if rule.takes == "compared":
        preferred, other = (values.thing(clause, *match.span(side)) for side in ("value", "other"))
        slot = comparison(preferred, other) if preferred and other else None
        if slot is not None:
            yield _reading(rule, clause, match, slot)
        return
    if _is_misnamed(clause, match) or ("role" in match.groupdict() and not values.is_role(clause, match)):
        return
    for value in [rule.value] if rule.value else values.values_of(rule.takes, clause, match, is_caseless):
        if (slot := canonical(values.key_of(rule.key, clause, value), value)) is not None:
            yield _reading(rule, clause, match, slot)


def _is_misnamed(clause: Clause, match: re.Match[str]) -> bool:
    """Whether the value is to be a name, and is none: "my wife is kind"."""
    groups = match.groupdict()
    if not groups.get("name") or match.span("name") != match.span("value"):
        return False
    return not values.own_name(clause, match)


def _reading(rule: Rule, clause: Clause, match: re.Match[str], slot: Slot) -> Reading:
    groups = match.groupdict()
    relation, number = groups.get("relation") or "", groups.get("number") or ""
    name = values.own_name(clause, match) if groups.get("name") else ""
    when = clause.language.when.search(clause.spelled, match.start())
    return Reading(
        slot.key,
        name or slot.value,
        rule.polarity,
        rule.kind,
        clause.text,
        relation if relation or name else "",
        name,
        clause.language.number(number) if number else 0,
        clause.source(*when.span()) if when is not None else "",
    )
