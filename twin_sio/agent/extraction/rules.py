"""What a message plainly says of its writer, by rule: few patterns, each sure of itself.

Used where no model can be had or none is fit. English, German, Spanish and French. What a pattern does not know it does
not guess: a missed fact can be said again, a false one has to be found first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

from twin_sio.agent.extraction.clauses import Clause, clauses
from twin_sio.agent.extraction.rule_table import (
    _IN_ORDER,
    _RULES,
    _Rule,
)
from twin_sio.agent.extraction.slots import Slot, canonical, comparison
from twin_sio.agent.reading import Reading
from twin_sio.agent.traits import normal
from twin_sio.domain import Entity, Evidence, Exchange

SIGNATURE: Final = "rules@1"
MAX_READINGS: Final = 20

_LONGEST_CLAUSE: Final = 300  # what goes on for longer is no plain statement; some patterns take its square
_LONGEST_GREETING: Final = 60

_NOTHING: Final = re.compile(
    r"(?i)(?:it|that|this|these|those|you|him|her|them|me|us|your|his|my|our|their|when|how|what|where|being|to|"
    r"having|"
    r"getting|one|something|anything|everything|nothing|somebody|someone|both|all|not|the (?:idea|way|fact|thing)|"
    r"es|das|dich|ihn|sie|dein\w*|mein\w*|wie|wenn|dass|mich|nicht|kein\w*|lo|la idea|que|cuando|tu|mi|esto|eso|"
    r"ça|cela|que|quand|ton|ta|mon|ma|te|vous|bien|pas)(?!\w)"
)
_INSIDE: Final = re.compile(
    r"(?i)(?<!\w)(?:i|you|he|she|they|it|that|this|when|because|if|who|which|than|but|as|is|are|was|were|ich|du|er|"
    r"dass|wenn|weil|nicht|que|cuando|porque|quand|parce|qui|over|to)(?!\w)"
)
_NO_PLACE: Final = re.compile(r"i|\w+day|\w*english|german|christmas|hell|peace|fear|january|september")
_COUNTRY: Final = re.compile(
    r"germany|france|spain|italy|portugal|austria|switzerland|poland|netherlands|belgium|denmark|sweden|norway|"
    r"finland|"
    r"ireland|england|scotland|wales|uk|usa?|canada|mexico|brazil|argentina|chile|peru|colombia|japan|china|"
    r"india|korea|"
    r"australia|israel|turkey|greece|ukraine|romania|hungary|czechia|croatia|serbia|iceland|egypt|morocco|kenya|"
    r"nigeria|"
    r"deutschland|frankreich|spanien|italien|österreich|schweiz|polen|niederlande|alemania|francia|españa|italia|"
    r"suiza|"
    r"méxico|brasil|allemagne|espagne|italie|suisse|autriche|belgique|pologne"
)
_CONTINUED: Final = re.compile(r"(?i:and|und|y|et) (?P<value>[\w+#-]{3,}(?: \w{4,})?)\W*$")
_VERBS: Final = re.compile(
    r"(?i)(?:love|like|hate|prefer|live|work|play|have|had|want|need|will|would|do|does|did|am|is|are|was|go|get|"
    r"so|then|"
    r"now|also|more|other|habe|bin|esse|trinke|liebe|hasse|odio|vivo|tengo|suis|aime)\b"
)
_GREETING: Final = re.compile(r"(?i)\s*(?:hi|hello|hey|good \w+)\b[^.!?]*[,.!]\s*$")
_IAM: Final = re.compile(r"(?:I am|I['’]m) (?P<value>[A-ZÀ-Þ][\w'’-]+)\W*$")


def read(text: str) -> list[Reading]:
    """What the patterns read in a text; each value of a slot once, and no more than a person says in a message."""
    found: dict[tuple[str, str], Reading] = {}
    for clause, slot, rule in _found(text):
        one = Reading(slot.key, slot.value, rule.polarity, rule.kind, clause.text)
        if rule.polarity < 0 and rule.kind == "change":
            one = one._replace(polarity=1, kind="ended")
        elif rule.polarity < 0 and rule.key == "interests.likes":
            one = one._replace(key="interests.dislikes", polarity=1)
        found.setdefault((one.key, normal(one.value)), one)
        if len(found) == MAX_READINGS:
            break
    return list(found.values())


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


def _found(text: str) -> Iterator[tuple[Clause, Slot, _Rule]]:
    before: tuple[Clause, _Rule] | None = None
    for clause in clauses(text):
        if clause.stance != "plain":
            before = None
            continue
        readings = list(_read(clause))
        if not readings and before is not None and before[0].sentence == clause.sentence:
            readings = list(_more(clause, before[1]))
        if not readings and clause.start <= _LONGEST_GREETING and _GREETING.match(text[: clause.start]):
            readings = list(_introduced(clause))
        before = (clause, readings[0][0]) if readings else None
        for rule, slot in readings:
            yield clause, slot, rule


def _read(clause: Clause) -> Iterator[tuple[_Rule, Slot]]:
    """The first reading of the clause, the negated before the plain; of work, role and employer."""
    if len(clause.text) > _LONGEST_CLAUSE:
        return
    keys: set[str] = set()
    for rule in _IN_ORDER:
        if keys and (not rule.key.startswith("work.") or rule.key in keys):
            continue
        if (found := rule.pattern.match(clause.text)) and (slot := _slot(rule, found)) is not None:
            yield rule, slot
            if not rule.key.startswith("work."):
                return
            keys.add(rule.key)


def _introduced(clause: Clause) -> Iterator[tuple[_Rule, Slot]]:
    if (
        len(clause.text) <= _LONGEST_CLAUSE
        and (named := _IAM.match(clause.text))
        and (slot := canonical("identity.name", named["value"])) is not None
    ):
        yield _RULES[0], slot


def _more(clause: Clause, rule: _Rule) -> Iterator[tuple[_Rule, Slot]]:
    """The second of two things that are liked in one breath ("jazz and hiking")."""
    more = _CONTINUED.match(clause.text) if len(clause.text) <= _LONGEST_CLAUSE else None
    if more is None or rule.key != "interests.likes" or _VERBS.match(more["value"]):
        return
    if (slot := _thing(rule.key, more["value"])) is not None:
        yield rule, slot


def _slot(rule: _Rule, found: re.Match[str]) -> Slot | None:
    value = found["value"]
    if rule.key == "preferences.compared":
        sides = (value, found["other"])
        return None if any(map(_is_nothing, sides)) else comparison(*sides)
    return _CHECKS.get(rule.key, _thing)(rule.key, value)


def _is_nothing(value: str) -> bool:
    return _NOTHING.match(value) is not None or _INSIDE.search(value) is not None


def _thing(key: str, value: str) -> Slot | None:
    value = re.sub(r"(?i)^to (?=\w)", "", value)
    return None if _is_nothing(value) else canonical(key, value)


def _place(key: str, value: str) -> Slot | None:
    name = normal(value)
    if _NO_PLACE.fullmatch(name):
        return None
    return canonical("location.country" if _COUNTRY.fullmatch(name) else key, value)


def _as_it_is(key: str, value: str) -> Slot | None:
    return canonical(key, value)


_CHECKS: Final[dict[str, Callable[[str, str], Slot | None]]] = {
    "location.city": _place,
    "work.role": _as_it_is,
    "work.employer": _as_it_is,
    "identity.name": _as_it_is,
}
