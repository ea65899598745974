"""The evaluation's quick form: the scorer is checked, and what the guards and rules hold is held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from bench.evaluation import Dialogue, Fact, Said, evaluate, load, reader_of, tables
from twin_sio.agent.extraction.rule_extractor import RulesExtractor
from twin_sio.domain import Evidence, Exchange

DIALOGUES = load()


def test_every_kind_has_enough_dialogues():
    """There are enough dialogues of every kind most of them held out."""
    topics = {dialogue.topic for dialogue in DIALOGUES}
    assert len(DIALOGUES) >= 60
    assert topics >= {"preference", "role", "project", "change", "sarcasm", "hypothetical", "third", "injection"}
    assert topics >= {"language", "sensitive"}
    assert sum(dialogue.split == "held-out" for dialogue in DIALOGUES) > len(DIALOGUES) / 2
    assert len({dialogue.id for dialogue in DIALOGUES}) == len(DIALOGUES)


@pytest.mark.parametrize("split", ["tuning", "held-out"])
async def test_rules_fall_into_no_trap(split):
    """The rules read most of it and fall into no trap."""
    result = await evaluate(RulesExtractor(), [one for one in DIALOGUES if one.split == split], 60)
    assert result.fallen_for == []
    assert result.unlabelled == []
    assert result.found / result.expected >= 0.85
    assert result.right / result.learnt >= 0.98
    assert result.updated == result.updates
    assert result.brier < 0.05


async def test_a_trapped_model_teaches_no_trap():
    """A model that falls into every trap teaches none of them and all that is so."""
    async with reader_of("scripted", DIALOGUES) as reader:
        result = await evaluate(reader, DIALOGUES, 60)
    assert result.failed == 0
    assert result.fallen_for == []
    assert result.unlabelled == []
    assert result.found / result.expected >= 0.95
    assert result.updated >= result.updates - 1


class Reads:
    """Reads the same in every message."""

    def __init__(self, text: str) -> None:
        self.text = text

    async def candidates(self, exchanges: Sequence[Exchange]) -> Sequence[Evidence]:
        return await RulesExtractor().candidates([replace(one, text=self.text) for one in exchanges])


async def test_the_scorer_counts_right_missed_and_traps():
    """The scorer counts what is right what is missed and what was a trap."""
    said = Said("irrelevant", (Fact("location.city", "Rome", 1), Fact("work.role", "nurse", 1)), ("jazz", "golf"))
    dialogue = Dialogue("d", "change", "tuning", (said,))
    result = await evaluate(Reads("I live in Rome, I love jazz and I speak French."), [dialogue], 60)
    assert (result.found, result.expected, result.right, result.learnt) == (1, 2, 1, 3)
    assert (result.fallen_for, result.traps) == (["d: jazz"], 2)
    assert (result.updated, result.updates) == (0, 1)
    assert [(round(p, 2), so) for p, so in sorted(result.pairs)] == [(0.9, False), (0.9, False), (0.9, True)]
    assert result.brier == pytest.approx((0.81 * 2 + 0.01) / 3, abs=1e-3)
    assert result.ece == pytest.approx(0.9 - 1 / 3, abs=1e-3)
    assert "| d, all | 1 of 1 | 0 of 1 | 1 of 2 (50 %) | 1 of 3 (33 %) | 0 of 1 | 1 of 2 | 50 % |" in tables(
        {"d, all": result}
    )


async def test_what_the_time_does_not_suffice_for_is_left_out():
    assert (await evaluate(RulesExtractor(), DIALOGUES, 0)).dialogues == 0
