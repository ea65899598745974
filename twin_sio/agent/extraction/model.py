"""Extraction by a model that reads well: it proposes, then doubts its proposals. Two calls at most, whatever the number
of the messages that are read together."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

import structlog

from twin_sio.agent import Extractor
from twin_sio.agent.extraction import prompts
from twin_sio.agent.extraction.controls import chosen
from twin_sio.agent.extraction.gates import Proposal, doubted, is_set_aside, passed
from twin_sio.agent.extraction.small_talk import may_teach
from twin_sio.agent.prompts import PromptMessage
from twin_sio.domain import Evidence, Exchange, Json

log = structlog.get_logger("extraction")

_LISTED_MAX: Final = 200  # of what a model lists that is looked at
_LATELY: Final = 20  # controls that were answered of late
_FOLLOWED: Final = 4  # of them that a model held by, from which on it is taken for one that follows orders


class JsonModel(Protocol):
    """What the extractor needs of a model."""

    @property
    def name(self) -> str: ...

    async def complete_json(
        self, messages: Sequence[PromptMessage], schema: Json, *, name: str, max_tokens: int = 500
    ) -> Json | None: ...


class ModelExtractor(Extractor):
    """Asks a model what messages show, and then whether that is so. The rules read where its answer is unusable, and
    where it is found to follow orders that stand in messages."""

    def __init__(self, model: JsonModel, rules: Extractor, calls: Counter[str] | None = None) -> None:
        """`calls` counts, for the operator: `propose` and `doubt`, `skipped`, the messages that cannot teach and
        cost none, and `followed`, the doubts in which the model held by an order that nobody gave."""
        self._model = model
        self._rules = rules
        # Stands with each piece: what an earlier prompt has found can be told apart, and counted apart.
        self._signature = f"model/{model.name}@{prompts.VERSION}"
        self.calls: Counter[str] = Counter() if calls is None else calls
        # Of the last controls that the model answered, whether it held by them.
        self._followed: deque[bool] = deque(maxlen=_LATELY)

    async def candidates(
        self, exchanges: Sequence[Exchange], known: Mapping[str, Sequence[str]] | None = None
    ) -> Sequence[Evidence]:
        """See the port. A message has `MAX_CANDIDATES` pieces at most, and none twice."""
        read = [exchange for exchange in exchanges if may_teach(exchange)]
        self.calls["skipped"] += len(exchanges) - len(read)
        found = await self.read_by_model(read, known) if read else ()
        if found is not None:
            return found
        return [piece for exchange in read for piece in await self._rules.extract_by_rules(exchange)]

    async def read_by_model(
        self,
        exchanges: Sequence[Exchange],
        known: Mapping[str, Sequence[str]] | None = None,
        *,
        injection_gate: bool = True,
    ) -> Sequence[Evidence] | None:
        """`candidates` of all exchanges, by the model alone; None where its answer is unusable. `injection_gate`: see
        `gates.passed`."""
        self.calls["propose"] += 1
        shown = _fitting(known or {})
        found = await self._model.complete_json(
            prompts.propose(exchanges, shown),
            prompts.PROPOSE_SCHEMA,
            name=prompts.PROPOSE_NAME,
            max_tokens=prompts.PROPOSE_TOKENS + prompts.PROPOSE_TOKENS_OF_EACH * len(exchanges),
        )
        # An empty list is an answer; anything else than a list of objects is none.
        listed = (found or {}).get("candidates")
        if not isinstance(listed, list) or (listed and not any(isinstance(one, dict) for one in listed)):
            return None
        chosen = [one for one in listed[:_LISTED_MAX] if not is_set_aside(one)]
        # A long list over a long message takes milliseconds, and the loop has other users' jobs.
        proposals = await asyncio.to_thread(passed, exchanges, chosen, shown, injection_gate=injection_gate)
        held = await self._doubted(exchanges, proposals, shown) if proposals else ()
        if held is None:
            return None
        return [_evidence(exchanges[one.n], one, self._signature) for one in held]

    async def _doubted(
        self, exchanges: Sequence[Exchange], proposals: Sequence[Proposal], known: Mapping[str, Sequence[str]]
    ) -> list[Proposal] | None:
        """Those that the model holds by, and that are of no order. Where a message gives an order, or may, a note is
        among them that follows one: a model that does not deny it has followed that message's as well. One that has
        done so often of late is tried with every message; None where it does so again: what it reads may be anybody's.
        """
        self.calls["doubt"] += 1
        suspected, proposals = proposals, [one for one in proposals if not one.is_order]
        notes, last = [one.note(number) for number, one in enumerate(proposals, start=1)], len(proposals) + 1
        follows_often = sum(self._followed) >= _FOLLOWED
        is_tried = follows_often or any(one.is_suspect for one in suspected)
        if is_tried:
            control = chosen()
            notes.append(control.note(last, len(exchanges)))
            # Not behind the twin's last line: it is no answer to that.
            exchanges = [*exchanges[:-1], replace(exchanges[-1], answer=""), replace(exchanges[-1], text=control.text)]
        about = {prompts.PEOPLE, *(one.key for one in proposals)}
        found = await self._model.complete_json(
            prompts.doubt(exchanges, notes, {key: known[key] for key in known if key in about}),
            prompts.DOUBT_SCHEMA,
            name=prompts.DOUBT_NAME,
            max_tokens=prompts.DOUBT_TOKENS,
        )
        verdicts = _verdicts((found or {}).get("verdicts"))
        denies = verdicts[last][0] == "no" if is_tried and last in verdicts else None
        follows_orders = is_tried and not denies
        self.calls["followed"] += denies is False
        if denies is not None:  # what a model that was not tried, or gave no verdict, does with orders nobody knows
            self._followed.append(not denies)
        if not follows_often and sum(self._followed) >= _FOLLOWED:
            log.warning("model_follows_orders", model=self._model.name, meaning="for now the rules read in its place")
        if follows_often and follows_orders:
            return None
        held = (
            doubted(one, *verdicts.get(number, (None, "none")))
            for number, one in enumerate(proposals, start=1)
            if not (follows_orders and one.is_suspect)
        )
        return [one for one in held if one is not None]

    async def extract_by_rules(self, exchange: Exchange) -> Sequence[Evidence]:
        """See the port."""
        return await self._rules.extract_by_rules(exchange)

    def without_duplicates(self, found: Sequence[Evidence], earlier: Sequence[Evidence]) -> Sequence[Evidence]:
        """See the port."""
        return self._rules.without_duplicates(found, earlier)


def _fitting(known: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """As many of the known values as are shown to a model; of people so many that the others have room."""
    left, shown = prompts.KNOWN_VALUES, dict[str, list[str]]()
    for key, values in known.items():
        most = min(left, prompts.KNOWN_PEOPLE) if key == prompts.PEOPLE else left
        taken = [value[: prompts.MAX_VALUE] for value in values[:most]]
        if taken:
            shown[key] = taken
        left -= len(taken)
    return shown


def _verdicts(listed: Any) -> dict[int, tuple[str, str]]:
    """What was answered of each note; what is no verdict is left out, and of two the harder one counts."""
    found: dict[int, tuple[str, str]] = {}
    for one in listed[:_LISTED_MAX] if isinstance(listed, list) else ():
        if isinstance(one, dict) and isinstance(number := one.get("n"), int) and one.get("holds") in prompts.VERDICTS:
            nature = one.get("nature")
            verdict = one["holds"], nature if isinstance(nature, str) else "none"
            # A later "yes" does not take back a "no".
            if found.get(number, ("yes", ""))[0] == "yes":
                found[number] = verdict
    return found


def _evidence(exchange: Exchange, one: Proposal, signature: str) -> Evidence:
    return Evidence(
        user_id=exchange.user_id,
        key=one.key,
        value=one.value,
        polarity=one.polarity,
        kind=one.kind,
        observed_at=exchange.at,
        session_id=exchange.session_id,
        message_id=exchange.message_id,
        quote=one.quote,
        extractor=signature,
        when=one.when,
        entity=one.entity,
    )
