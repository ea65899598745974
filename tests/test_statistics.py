"""The numbers about learning: known answers, and what holds for any."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.test_scoring import DAY, START, rated, seen
from twin_sio.agent.scoring import score
from twin_sio.agent.statistics import EXTRACTORS_MAX, EvidenceCounts, from_stored, rate, report, tally, wilson, within


@pytest.mark.parametrize(
    ("count", "of", "low", "high"),
    [
        (0, 0, 0.0, 1.0),
        (0, 10, 0.0, 0.2775),
        (1, 10, 0.0179, 0.4042),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I
        (15, 148, 0.0624, 0.1605),
    ],
)
def test_wilsons_interval_is_as_published(count, of, low, high):
    assert wilson(count, of) == pytest.approx((low, high), abs=6e-5)


@given(st.integers(1, 10_000).flatmap(lambda of: st.tuples(st.integers(0, of), st.just(of))))
def test_an_interval_contains_its_share(pair):
    """An interval holds its share and lies between nothing and all."""
    count, of = pair
    low, high = wilson(count, of)
    assert 0 <= low <= count / of + 1e-12
    assert count / of - 1e-12 <= high <= 1
    assert wilson(of - count, of) == pytest.approx((1 - high, 1 - low))
    assert wilson(10 * count, 10 * of)[1] - wilson(10 * count, 10 * of)[0] < high - low


def counted(*evidence, day=400.0, answers=0, using=0):
    return tally(evidence, score("u1", evidence, START + day * DAY), answers=answers, using=using)


def test_an_end_is_no_contradiction_and_other_words_no_other_trait():
    received = report(
        counted(
            seen("explicit", "chess"),
            seen("ended", "chess", day=2),
            seen("explicit", "engineer", key="work.role"),
            seen("explicit", "data engineer", key="work.role", day=1),
            seen("explicit", "Berlin", key="location.city"),
            seen("change", "Rome", key="location.city", day=3),
        )
    )
    assert received["contradiction_rate"] == rate(1, 4)
    assert [one["superseded"] for one in received["sources"]] == [0, 2]


def test_each_trait_counts_once_under_what_taught_it_first():
    received = report(
        counted(
            seen("inferred", "jazz"),
            seen("confirmed", "jazz", day=1),
            seen("explicit", "chess", day=400),
            seen("rejected", "chess", day=400, polarity=-1, session="x"),
            seen("inferred", "tea", day=400),
        )
    )
    assert received["traits"] == {"applied": 1, "tentative": 1, "unused": 0, "rejected": 1, "superseded": 0}
    by_kind = {one["kind"]: one for one in received["sources"]}
    assert set(by_kind) == {"inferred", "explicit"}
    assert [by_kind["inferred"][name] for name in ("applied", "held", "rejected")] == [1, 1, 0]
    assert by_kind["explicit"]["reject_rate"]["rate"] == 1.0
    assert received["reject_rate"] == rate(1, 3)


def test_a_contradiction_is_the_users_own_words_and_no_verdict():
    both = [seen("explicit", "jazz"), seen("explicit", "jazz", day=1, polarity=-1)]
    assert counted(*both).contradicted == 1
    assert counted(seen("explicit", "jazz"), rated("down", 1), seen("rejected", "jazz", day=2)).contradicted == 0
    moved = [seen("explicit", "Berlin", key="location.city"), seen("change", "Bonn", key="location.city", day=9)]
    assert counted(*moved).contradicted == 1


def test_time_to_apply_begins_with_the_first_evidence():
    """The time to apply is from the first evidence to the threshold."""
    hints = [seen(day=n) for n in range(8)]
    received = report(counted(*hints, seen("explicit", "jazz", day=3), day=8))
    assert received["time_to_apply_s"] == {"median": pytest.approx(3 * 86_400), "of": 2}  # 6 days and at once
    ill = [seen("explicit", key="health.condition"), seen("confirmed", key="health.condition", day=2)]
    assert counted(*ill).waits_s == (2 * 86_400,)
    assert counted(seen()).waits_s == ()


def test_what_is_not_known_is_said_to_be_so():
    received = report(EvidenceCounts())
    assert received["reject_rate"] == {"count": 0, "of": 0, "rate": None, "low": 0.0, "high": 1.0}
    assert received["time_to_apply_s"] == {"median": None, "of": 0}


def test_the_buckets_hold_every_wait():
    assert within((0, 59, 100_000, 1e9)) == (1, 2, 2, 2, 3, 3, 3, 4)


@given(st.lists(st.sampled_from((("inferred", 1), ("explicit", 1), ("explicit", -1), ("rejected", -1))), max_size=9))
def test_every_trait_is_counted_whatever_the_evidence(kinds):
    evidence = [seen(kind, f"v{n % 3}", day=n, polarity=sign) for n, (kind, sign) in enumerate(kinds)]
    counts = counted(*evidence)
    assert counts.total == len({piece.value for piece in evidence})
    assert counts.contradicted <= counts.total
    assert within(counts.waits_s)[-1] == len(counts.waits_s)


def test_rare_extractors_are_counted_together():
    """Of many extractors the busiest keep their names and nothing is lost."""
    rows = [{"kind": "explicit", "extractor": f"m@{n}", "status": "applied", "count": n + 1} for n in range(50)]
    counts = from_stored({"traits": rows, "contradicted": 3, "answers": 9, "answers_using": 4})
    names = {extractor for _, extractor, _ in counts.traits}
    assert len(names) == EXTRACTORS_MAX + 1
    assert {"other", "m@49"} <= names
    assert (counts.total, counts.contradicted, counts.answers, counts.answers_using) == (sum(range(51)), 3, 9, 4)
    assert from_stored({}) == EvidenceCounts()
