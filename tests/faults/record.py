"""What one device was sent, kept apart from any client's own idea of it: the protocol's contract done once more.

The contract: a durable event counts once, in the order of `seq`; what is not newer than the newest is dropped, what is
beyond a hole is dropped too (a resume brings it). Chunks are joined by index within a generation.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any

WITHOUT_TOOLS = frozenset({"user_message", "twin_message", "feedback", "read_receipt", "profile_update"})
DURABLE = WITHOUT_TOOLS | {"approval_requested", "approval_resolved"}
Json = dict[str, Any]


@dataclass
class Joined:
    """The chunks of one generation as a device has joined them."""

    in_response_to: str | None
    text: str = ""
    next_index: int = 0
    is_whole: bool = False
    has_gap: bool = False
    at: list[float] = field(default_factory=list)


class Record:
    """One device. Times are `time.monotonic()`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.first: int | None = None
        self.last: int | None = None
        self.applied: list[tuple[int, str | None, str]] = []
        self.generations: dict[str, Joined] = {}
        self.finals: dict[str, tuple[str, Joined | None]] = {}
        self.answers: dict[str, Json] = {}
        self.connected_at: list[float] = []
        self.resumed_at: list[tuple[float, int]] = []
        self.final_at: dict[str, float] = {}
        self.resyncs: list[float] = []
        self.errors: list[Json] = []
        self.receipts: dict[str, list[Json]] = {}
        self.holes = 0  # events that came ahead of their turn: no server of ours does that
        self.incomplete = 0

    def hook(self, way: str, envelope: Json) -> None:
        """For `TwinClient(on_envelope=...)`."""
        if way == "in":
            self.take(envelope)

    def take(self, envelope: Json) -> None:
        kind, payload, meta = envelope.get("type"), envelope.get("payload", {}), envelope.get("metadata", {})
        at = time.monotonic()
        if kind == "session_ready":
            self.connected_at.append(at)
            if self.last is None:
                self.first = self.last = payload["seq"]
        elif kind == "resumed":
            self.resumed_at.append((at, payload["through_seq"]))
            self.incomplete += not payload["complete"]
        elif kind == "resync":
            self.resyncs.append(at)
        elif kind == "error":
            self.errors.append(payload)
        elif kind == "twin_message_chunk":
            self._chunk(payload, meta, at)
        elif kind == "message_received":
            self.receipts.setdefault(payload["message_id"], []).append(envelope)
            if meta.get("seq") is not None:
                self._durable(meta["seq"], payload["message_id"], "own")
        elif kind in DURABLE and meta.get("seq") is not None:  # a correction that changes nothing is not in the log
            if kind == "twin_message":
                self._final(meta["message_id"], payload, at)
                self.answers[meta["in_response_to"]] = payload
            self._durable(meta["seq"], meta.get("message_id"), kind)

    def _durable(self, seq: int, message_id: str | None, kind: str) -> None:
        following = 0 if self.last is None else self.last + 1
        if seq > following:
            self.holes += 1
        elif seq == following:
            self.last = seq
            self.applied.append((seq, message_id, kind))

    def _chunk(self, payload: Json, meta: Json, at: float) -> None:
        joined = self.generations.setdefault(payload["generation_id"], Joined(meta.get("in_response_to")))
        index, first = payload["chunk_index"], payload.get("first_chunk_index", payload["chunk_index"])
        if index < joined.next_index:
            return
        if first == 0:
            joined.text, joined.has_gap = payload["text"], False
        elif first == joined.next_index:
            joined.text += payload["text"]
        else:
            joined.has_gap = True
        joined.next_index = index + 1
        joined.is_whole = bool(payload.get("is_last_chunk"))
        joined.at.append(at)

    def _final(self, message_id: str, payload: Json, at: float) -> None:
        if message_id not in self.finals:
            self.finals[message_id] = (payload["text"], self.generations.get(payload.get("generation_id", "")))
            self.final_at[message_id] = at

    # -- judging -----------------------------------------------------------------------------------------------------

    def resumed_after(self, since: float) -> float | None:
        """Seconds from `since` to the first `resumed` after it."""
        return next((at - since for at, _ in self.resumed_at if at > since), None)

    def lost(self, log: Sequence[Json]) -> list[int]:
        """Seqs of the log since this device first connected that it was never sent in their turn."""
        have = {seq for seq, _, _ in self.applied}
        return [event["seq"] for event in log if event["seq"] > (self.first or 0) and event["seq"] not in have]

    def false(self, log: Sequence[Json]) -> list[int]:
        """Seqs under which this device was sent something other than what the log holds, or that it does not hold."""
        known = {event["seq"]: event["message_id"] for event in log}
        return [seq for seq, message_id, _ in self.applied if known.get(seq) != message_id]

    def doubled(self) -> int:
        """Events that were counted twice, by their id."""
        ids = [message_id for _, message_id, _ in self.applied]
        return len(ids) - len(set(ids))

    def inverted(self) -> int:
        """Events that came ahead of their turn, and neighbours in the wrong order."""
        seqs = [seq for seq, _, _ in self.applied]
        return self.holes + sum(1 for one, two in itertools.pairwise(seqs) if two <= one)

    def joined_whole(self) -> int:
        """Answers of which every chunk was joined, to the last."""
        return sum(1 for _, joined in self.finals.values() if joined is not None and joined.is_whole)

    def misjoined(self) -> list[str]:
        """Answers whose joined chunks are not the stored text: not its begin, or said to be whole and not equal."""
        wrong = []
        for message_id, (text, joined) in self.finals.items():
            if joined is None:
                continue
            is_wrong = joined.text != text if joined.is_whole else not text.startswith(joined.text)
            if is_wrong or (joined.has_gap and joined.is_whole):
                wrong.append(message_id)
        return wrong


@dataclass
class Sum:
    """The failures of many devices together."""

    lost: int = 0
    doubled: int = 0
    inverted: int = 0
    false: int = 0
    misjoined: int = 0

    def __add__(self, other: Sum) -> Sum:
        mine, theirs = astuple(self), astuple(other)
        return Sum(*(one + two for one, two in zip(mine, theirs, strict=True)))


def judged(records: Iterable[Record], log: Sequence[Json]) -> Sum:
    """Compare the devices of one user with the log."""
    total = Sum()
    for record in records:
        total.lost += len(record.lost(log))
        total.doubled += record.doubled()
        total.inverted += record.inverted()
        total.false += len(record.false(log))
        total.misjoined += len(record.misjoined())
    return total
