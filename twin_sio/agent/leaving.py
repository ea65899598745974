"""By which words of a user several people or animals are gone at once. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from twin_sio.agent.contributions import denies, supports
from twin_sio.agent.relations import EVERY, NOT_ALL, NUMBERS, PARTED, SINGLE, SMALL, relation
from twin_sio.agent.traits import ENDED, EXISTENCE, EXPLICIT, STATUS, normal
from twin_sio.domain import Evidence

PUNCTUATION: Final = ' \t.,;:!?()[]"“”„«»'


def ends_all(piece: Evidence) -> bool:
    """Whether the end of several, or their denial ("I have no dogs"), is about all of them: it says what they are, at
    most with how many, and no more."""
    if piece.key not in EXISTENCE or not (piece.kind == ENDED or denies(piece)):
        return False
    if denies(piece) and any(NUMBERS.get(word, 0) > 1 or word.isdecimal() for word in normal(piece.value).split()):
        return False  # who does not have two may have one
    words = [plain for word in normal(piece.value).split() if (plain := word.strip(PUNCTUATION))]
    return not any(word in NOT_ALL for word in words) and all(
        word in SMALL
        or word in EVERY
        or word.isdecimal()
        or NUMBERS.get(word, 0) > 1
        or relation(word, piece.key) is not None
        for word in words
    )


def partings(pieces: Sequence[Evidence]) -> frozenset[int]:
    """Where among the pieces, which come in the order of time, the user says to have no partner any more by what they
    are: that they are single, or have become so, or are divorced, widowed, separated and were something else before."""
    found: set[int] = set()
    was_parted = True
    for at, piece in enumerate(pieces):
        if piece.key != STATUS or piece.entity is not None or piece.kind not in EXPLICIT or not supports(piece):
            continue
        last = normal(piece.value).rpartition(" ")[2].strip(PUNCTUATION)
        # Who is divorced may be so of somebody before.
        if last in SINGLE or (last in PARTED and (piece.kind == "change" or not was_parted)):
            found.add(at)
        was_parted = last in PARTED
    return frozenset(found)
