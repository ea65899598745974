"""The evaluation's quick form: the scorer is checked, public formats are read, and what is held is held."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.evaluation import report
from bench.evaluation.claims import evaluate_claims
from bench.evaluation.datasets import DatasetError, first_person, months
from bench.evaluation.datasets import load as load_dataset
from bench.evaluation.dialogues import DATA, SOURCES, Dialogue, Label, Turn, load
from bench.evaluation.learning import Learnt, Share, evaluate
from bench.evaluation.readers import reader_of
from bench.evaluation.retrieval import evaluate_retrieval
from tests.commands import output_of
from twin_sio.agent.embeddings import LocalEmbedder
from twin_sio.domain import Evidence, Exchange

PHONES, GRAMMAR = map(load, SOURCES)


def test_every_kind_has_enough_dialogues() -> None:
    topics = {dialogue.topic for dialogue in GRAMMAR}
    assert topics >= {"preference", "role", "project", "change", "sarcasm", "hypothetical", "third", "injection"}
    labels = [label for dialogue in PHONES for turn in dialogue.turns for label in turn.expect]
    assert len(PHONES) >= 170
    assert sum(label.kind in ("change", "ended") for label in labels) >= 40
    assert sum(bool(turn.traps) for dialogue in PHONES for turn in dialogue.turns) >= 50
    for dialogues in (PHONES, GRAMMAR):
        assert len({dialogue.id for dialogue in dialogues}) == len(dialogues)


def test_every_quote_of_a_proposal_stands_in_its_message() -> None:
    texts = {(one.id, n): turn.text for one in [*PHONES, *GRAMMAR] for n, turn in enumerate(one.turns)}
    proposals = [json.loads(line) for line in (DATA / "proposals.jsonl").read_text().splitlines()]
    assert {(one["id"], one["turn"]) for one in proposals} == texts.keys()
    for one in proposals:
        for candidate in [*one["strong"], *one["traps"]]:
            assert candidate["quote"] in texts[one["id"], one["turn"]], candidate


async def test_rules_fall_into_no_trap_of_their_own_hand() -> None:
    async with reader_of("rules", GRAMMAR) as rules:
        result = await evaluate(rules, GRAMMAR, 60)
    assert result.fallen_for == []
    assert result.wrong == []
    assert result.recall.count / result.recall.of >= 0.85


async def test_what_a_strong_model_finds_is_learnt() -> None:
    """Nearly all of it, changes and ends as well, in every language; and its profile is up to date afterwards."""
    async with reader_of("strong", PHONES) as strong:
        result = await evaluate(strong, PHONES, 60)
    assert result.failed.count == 0
    for share in (result.kept, result.kept_changes, result.updates, result.recall):
        assert share.count / share.of >= 0.85
    assert result.wrong == []


async def test_a_foolish_model_that_doubts_honestly_teaches_little_that_is_wrong() -> None:
    for dialogues in (PHONES, GRAMMAR):
        async with reader_of("trap", dialogues) as trap:
            result = await evaluate(trap, dialogues, 60)
        assert result.traps.count / result.traps.of <= 0.05
        assert result.passed.count / result.passed.of <= 0.05
        assert result.kept.count / result.kept.of >= 0.85
        assert result.wrong == []


class Says:
    """Learns the same of every message."""

    def __init__(self, *pieces: tuple[str, str, str]) -> None:
        self._pieces = pieces

    async def candidates(
        self,
        exchanges: Sequence[Exchange],
        known: Mapping[str, Sequence[str]] | None = None,
    ) -> Sequence[Evidence]:
        (exchange,) = exchanges
        return [
            Evidence("user", key, value, 1, kind, exchange.at, "s", exchange.message_id, exchange.text, "test")  # type: ignore[arg-type]
            for key, value, kind in self._pieces
        ]


async def test_the_scorer_counts_right_missed_and_traps() -> None:
    labels = (
        Label("location.city", "Rome", 1),
        Label("work.role", "nurse", 1, "inferred", is_plain=False),
        Label("possessions.car", "volvo", 1, "ended"),
    )
    said = Turn("", "irrelevant", labels, ("jazz", "golf"))
    said_of = Says(("location.city", "rome", "explicit"), ("interests.likes", "Jazz", "explicit"),
                   ("possessions.car", "volvo", "explicit"))  # fmt: skip
    result = await evaluate(said_of, [Dialogue("d-1", "change", "en", (said,))], 60)
    shares = (result.recall, result.plain, result.changes, result.precision, result.traps, result.updates)
    assert [(one.count, one.of) for one in shares] == [(1, 3), (1, 2), (0, 1), (1, 3), (1, 2), (0, 1)]
    assert result.fallen_for == ["d-1: jazz"]
    assert len(result.missed) == len(result.wrong) == 2
    assert result.brier == pytest.approx((0.81 * 2 + 0.01) / 3, abs=1e-3)


async def test_a_label_is_learnt_under_a_strong_models_name_for_it() -> None:
    label = Label("work.role", "sell vapes", 1, also=("work.job_title", "vape seller"))
    for value, found in (("vape seller", 1), ("sell vapes", 1), ("seller of cars", 0)):
        said = Turn("", "i sell vapes", (label,), ())
        result = await evaluate(Says(("work.role", value, "explicit")), [Dialogue("d-1", "work", "en", (said,))], 60)
        assert result.recall.count == found


async def test_what_the_time_does_not_suffice_for_is_left_out() -> None:
    assert (await evaluate(Says(), PHONES, 0)).dialogues == Share(0, len(PHONES))


def test_the_tables_have_an_interval_and_a_hand_for_each_figure(tmp_path: Path) -> None:
    result = Learnt(recall=Share(12, 20), pairs=[(0.9, True)])
    text = report.learnt_tables({("phones", "rules"): result}, SOURCES, {"phones": "en 3"})
    assert "| facts learnt (recall) | 12 of 20 = 60 % (39-78) |" in text
    assert "a hand that has not seen the code" in text
    assert "wrote the rules" not in text
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}old\n{report.END}after\n")
    report.write(page, text)
    assert page.read_text() == f"before\n{report.BEGIN}\n{text}{report.END}after\n"


# -- public formats

LOCOMO = [
    {
        "sample_id": "conv-0",
        "conversation": {
            "speaker_a": "Ana",
            "speaker_b": "Ben",
            "session_1_date_time": "1:56 pm on 8 May, 2023",
            "session_1": [
                {"speaker": "Ana", "dia_id": "D1:1", "text": "I adopted a kitten last week"},
                {"speaker": "Ben", "dia_id": "D1:2", "text": "How lovely"},
            ],
            "session_2_date_time": "2:00 pm on 9 May, 2023",
            "session_2": [{"speaker": "Ben", "dia_id": "D2:1", "text": "I bought a boat"}],
        },
        "qa": [
            {"question": "When did Ana adopt a kitten?", "answer": "May", "evidence": ["D1:1"], "category": 2},
            {"question": "What is Ben's boat like?", "answer": "new", "evidence": ["D2:1; D9:9"], "category": 1},
            {"question": "Did Ana sell a house?", "evidence": ["D1:1"], "category": 5},
            {"question": "Is Ana tall?", "answer": "?", "evidence": [], "category": 3},
        ],
    }
]
LONGMEMEVAL = [
    {
        "question_id": "q",
        "question_type": "single-session-user",
        "question": "What did I adopt?",
        "answer": "a kitten",
        "haystack_session_ids": ["s1", "s2"],
        "haystack_dates": ["2023/05/20 (Sat) 02:21", "2023/05/21 (Sun) 02:21"],
        "haystack_sessions": [
            [
                {"role": "user", "content": "I adopted a kitten", "has_answer": True},
                {"role": "assistant", "content": "Oh"},
            ],
            [{"role": "user", "content": "Write a poem"}],
        ],
        "answer_session_ids": ["s1"],
    }
]
PERSONACHAT = {
    "train": [
        {
            "personality": ["i have two cats .", "i am a nurse ."],
            "utterances": [
                {"history": ["hi"], "candidates": ["no", "hello"]},
                {"history": ["hi", "hello", "any pets ?"], "candidates": ["no", "i have two cats"]},
            ],
        }
    ],
    "valid": [],
}
PARLAI = """1 your persona: i have two cats.
2 your persona: i am a nurse.
3 hi\thello\t\tno|hello
4 any pets ?\ti have two cats\t\tno|i have two cats
1 your persona: i sing.
2 hi\ti sing\t\tx|i sing
"""
PREFEVAL = [
    {"preference": "I dislike spicy food", "question": "Where shall I eat?", "explanation": "x"},
    {
        "preference": "I prefer trains",
        "question": "How do I get to Rome?",
        "explanation": "x",
        "conversation": {"1": {"user": "Trains, please", "assistant": "Sure"}},
    },
]
HALUMEM = {
    "uuid": "u",
    "persona_info": "x",
    "sessions": [
        {
            "start_time": "Sep 04, 2025",
            "dialogue": [
                {"role": "user", "content": "I adopted a kitten", "timestamp": "x", "dialogue_turn": 0},
                {"role": "assistant", "content": "Oh", "timestamp": "x", "dialogue_turn": 0},
            ],
            "memory_points": [{"memory_content": "Ana adopted a kitten", "memory_type": "Event Memory"}],
            "questions": [
                {
                    "question": "What did Ana adopt?",
                    "answer": "a kitten",
                    "question_type": "Basic Fact Recall",
                    "evidence": [{"memory_content": "Ana adopted a kitten", "memory_type": "Event Memory"}],
                }
            ],
        }
    ],
}
FILES: dict[str, Any] = {
    "LoCoMo": json.dumps(LOCOMO),
    "LongMemEval": json.dumps(LONGMEMEVAL),
    "PersonaChat": json.dumps(PERSONACHAT),
    "PersonaChat text": PARLAI,
    "PrefEval": json.dumps(PREFEVAL),
    "HaluMem": f"{json.dumps(HALUMEM)}\n{json.dumps(HALUMEM)}\n",
}


@pytest.mark.parametrize("name", FILES)
def test_a_public_format_is_known_by_its_content(name: str, tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_text(FILES[name])
    dataset = load_dataset(path)
    assert dataset.name == name.partition(" ")[0]
    assert dataset.talks or dataset.claims


@pytest.mark.parametrize(
    "text",
    ["", "not json", "[]", "{}", "[1]", '[{"conversation": 1, "qa": 2}]', '{"train": [{"utterances": []}]}', "\xff"],
)
def test_another_file_is_refused_with_a_reason(text: str, tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(DatasetError, match="data"):
        load_dataset(path)


async def test_most_of_months_of_talk_is_found_again() -> None:
    """Of the project's own; each label names a line that there is."""
    talk = months(DATA / "months.jsonl")
    ids = {line.id for one in talk.talks for line in one.lines}
    assert all(group <= ids for one in talk.talks for question in one.questions for group in question.evidence)
    for embedder in (None, LocalEmbedder()):
        (found,) = (await evaluate_retrieval(talk, embedder)).values()
        assert found.found[-1] / found.evidence >= 0.7


async def test_lines_that_answer_are_found_again(tmp_path: Path) -> None:
    """Each question of whom it names, as published and in the first person; what was never said is not asked."""
    path = tmp_path / "locomo.json"
    path.write_text(FILES["LoCoMo"])
    dataset = load_dataset(path)
    asked = [(q.text, q.evidence) for talk in dataset.talks for q in talk.questions]
    assert asked == [
        ("When did Ana adopt a kitten?", (frozenset({"D1:1"}),)),
        ("When did I adopt a kitten?", (frozenset({"D1:1"}),)),
        ("What is Ben's boat like?", (frozenset({"D2:1"}),)),
        ("What is my boat like?", (frozenset({"D2:1"}),)),
    ]
    assert [[line.is_user for line in talk.lines] for talk in dataset.talks] == [
        [True, False, False],
        [False, True, True],
    ]
    found = await evaluate_retrieval(dataset, None)
    assert {kind: (one.questions, one.evidence, one.found) for kind, one in found.items()} == {
        "as published, with names": (2, 2, (2, 2)),
        "in the first person": (2, 2, (2, 2)),
    }


@pytest.mark.parametrize(
    ("question", "mine"),
    [
        ("Is Ana's cat old?", "Is my cat old?"),
        ("What does Ana like?", "What do I like?"),
        ("Where has Ana been with Ben?", "Where have I been with you?"),
        ("When is Ana going to Ben's party?", "When am I going to your party?"),
    ],
)
def test_a_question_is_put_in_the_first_person(question: str, mine: str) -> None:
    assert first_person(question, "Ana", "Ben") == mine


@pytest.mark.parametrize(("name", "people"), [("PersonaChat", 1), ("PersonaChat text", 2), ("HaluMem", 2)])
async def test_what_is_true_of_people_is_counted_by_words(name: str, people: int, tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_text(FILES[name])
    claims = load_dataset(path).claims
    assert len(claims) == people
    result = await evaluate_claims(
        Says(("pets.has", "Cats", "explicit"), ("pets.has", "kittens", "inferred")), claims, 60
    )
    assert result.messages == sum(len(one.turns) for one in claims)
    assert result.met.count == (2 if name == "HaluMem" else 1)
    assert result.supported.of == 2 * people


async def test_the_commands_help_teaches() -> None:
    code, out, _ = await output_of("bench.evaluation", "--help")
    assert code == 0
    assert b"locomo10.json" in out


async def test_a_file_of_no_known_format_ends_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("{}")
    code, _, err = await output_of("bench.evaluation", "--dataset", str(tmp_path / "x"))
    assert code == 2
    assert b"known formats" in err
    assert b"Traceback" not in err
