"""What is found in a user's lines: by words, by vectors, and beside them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from twin_sio.store.line_index import LineIndex
from twin_sio.store.ports import StoredLine
from twin_sio.store.words import Words

BESIDE = [
    "The weather is fine today",
    "Nothing much happened at work",
    "We had soup for dinner",
    "The train was late again",
]


def index_of(*texts: str, floor: float | None = None) -> LineIndex:
    """An index of these lines, each in a conversation of its own, after some that have nothing to do with them."""
    index = LineIndex(floor)
    index.add([StoredLine(n, f"c{n}", True, text) for n, text in enumerate([*BESIDE, *texts], 1)])
    return index


def found(index: LineIndex, text: str, most: int = 10) -> list[int]:
    """What is found, counted from the first line that is not beside."""
    return [seq - len(BESIDE) - 1 for seq in index.search(text, None, most)]


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        ("I adopted two kittens", "when did I adopt a kitten?"),
        ("Ich habe zwei Hunde", "Wie heißt mein Hund?"),
        ("J'ai acheté une maison", "les maisons"),
        ("Compré unos zapatos rojos", "zapato rojo"),
        ("l'ecole commence demain", "école"),
        ("У меня есть собака", "мои собаки"),
        ("我昨天去了上海博物馆", "上海的博物馆"),
        ("昨日は東京タワーに行った", "東京タワー"),
        ("สวัสดีฉันชอบแมวมาก", "แมว"),
        ("Melanie's birthday is in May", "MELANIE"),
        ("the flight is LH 454 at 9", "LH454 or 454?"),
        ("it costs 1200 euros", "1200"),
        ("ｆｕｌｌｗｉｄｔｈ letters", "fullwidth"),
    ],
)
def test_inflected_words_are_found_in_many_languages(said: str, asked: str) -> None:
    assert found(index_of(said), asked)[:1] == [0]


def test_what_shares_no_word_is_not_found() -> None:
    assert index_of("I adopted two kittens").search("parliament", None, 10) == []


@pytest.mark.parametrize(
    "hostile", ['" OR words:*', "NEAR(a b)", "a* b^ -c", "'; DROP TABLE line; --", "\x00", "😀", ""]
)
def test_a_search_is_words_and_no_query(hostile: str) -> None:
    index = index_of("I adopted two kittens")
    assert index.search(hostile, None, 10) == []
    assert found(index, "kitten") == [0]


def test_an_answer_is_found_beside_its_question() -> None:
    """A line counts where its neighbour in the conversation has the words, and not across conversations."""
    index = LineIndex(None)
    talk = ["What is your brother called?", "Rafael", "A nice name"]
    index.add([StoredLine(n, "main", n % 2 == 0, text) for n, text in enumerate(talk, 1)])
    index.add([StoredLine(4, "other", True, "Ok")])
    assert index.search("my brother", None, 10)[:2] == [1, 2]
    assert 4 not in index.search("my brother", None, 10)
    assert index.search("my brother", None, 10, beside=False) == [1]


def test_what_the_user_said_comes_before_the_twin() -> None:
    index = LineIndex(None)
    index.add([StoredLine(1, "a", False, "You love hiking"), StoredLine(2, "b", True, "I love hiking")])
    assert index.search("hiking", None, 10) == [2, 1]


def test_the_line_that_asks_is_not_found() -> None:
    index = index_of("my kitten", "where is my kitten?")
    assert [seq - len(BESIDE) for seq in index.search("kitten", None, 10, without=len(BESIDE) + 2)] == [1]


def test_lines_come_in_any_order_and_repeats_add_nothing() -> None:
    lines = [StoredLine(n, "main", True, text) for n, text in enumerate([*BESIDE, "my brother", "Rafael"], 1)]
    there, back = LineIndex(None), LineIndex(None)
    there.add(lines)
    for line in [*reversed(lines), *lines]:
        back.add([line])
    assert there.search("brother", None, 10) == back.search("brother", None, 10) == [5, 6, 4]
    assert (back.count, back.oldest, back.newest, back.complete_to) == (6, 1, 6, 6)


def test_what_is_removed_is_found_no_more() -> None:
    index = index_of("my kitten", "another kitten", "a third kitten", floor=0.3)
    first = len(BESIDE) + 1
    index.remove([first + 1])
    assert sorted(found(index, "kitten")) == [0, 2]
    index.remove_before(first + 2)
    assert found(index, "kitten") == [2]
    assert (index.count, index.oldest) == (1, first + 2)
    assert index.oldest_of(1) == 0
    index.add([StoredLine(50, "main", True, "again a kitten")])
    assert index.oldest_of(1) == 50


def unit(*numbers: float) -> bytes:
    row = np.array(numbers, "f4")
    return bytes((row / np.linalg.norm(row)).astype("<f2").tobytes())


def test_vectors_find_what_shares_no_word() -> None:
    """By the cosine from the floor on, and only of the same length; a late vector is added to its line."""
    index = LineIndex(0.5)
    texts: Sequence[tuple[str, bytes | None]] = [("feline", unit(1, 0)), ("dog", unit(0, 1)), ("cub", None)]
    index.add([StoredLine(n, f"c{n}", True, text, vector) for n, (text, vector) in enumerate(texts, 1)])
    assert index.complete_to == 2
    assert index.search("kitten", unit(1, 0.1), 10) == [1]
    assert index.search("kitten", unit(1, 0, 0), 10) == []
    index.add([StoredLine(3, "c3", True, "cub", unit(1, 0.1)), StoredLine(1, "c1", True, "feline", unit(1, 0))])
    assert index.search("kitten", unit(1, 0.1), 10) == [3, 1]
    assert index.complete_to == 3
    index.remove([3])
    assert index.search("kitten", unit(1, 0.1), 10) == [1]


def test_a_long_line_is_searched_at_its_beginning() -> None:
    index = index_of("kitten " + "lorem " * 2000 + "zebra")
    assert (found(index, "kitten"), found(index, "zebra")) == ([0], [])


def test_words_are_bounded() -> None:
    (words,) = Words().of(["x" * 10_000])
    assert max(map(len, words)) <= 40
