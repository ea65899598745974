"""Parsing what users write: in time that grows with the text, in a process that ends where it takes too long."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from tests.factories import least_cpu_s
from twin_sio.agent import Unreadable
from twin_sio.agent.reading import ProcessReader, read

UNITS = ("a", "a a ", " ", ".", ", ", "'", '"', "and ", "ne ", "an engineer at ", "I love jazz and ", "<", "i'd ", "— ")


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("start", ["", "I am a ", "I like "])
def test_reading_is_linear(unit, start):
    """Four times the text takes no more than some four times as long."""

    def cost(length: int) -> float:
        text = (start + unit * length)[: length - 1] + "x"
        return least_cpu_s(lambda: read({"text": text}), times=3)

    assert cost(4000) < 12 * max(cost(1000), 0.01)


@pytest.fixture
async def reader() -> AsyncIterator[ProcessReader]:
    one = ProcessReader(cpu_s=0.3)
    yield one
    await one.close()


async def test_a_process_reads_what_is_read_here(reader: ProcessReader) -> None:
    text = "I live in Lisbon and I love jazz. \ud800"
    assert await reader.plain(text) == read({"text": text})
    assert len(reader._idle) == 1


async def test_a_costly_text_ends_its_process() -> None:
    """A text that takes too long ends its process and the next is read."""
    hasty = ProcessReader(cpu_s=0.001)
    hasty._idle.append(process := await hasty._process())
    with pytest.raises(Unreadable) as failure:
        await hasty.plain("I love jazz and I live in Lisbon. " * 1_000)
    assert failure.value.code == "too_slow"
    assert process.returncode is not None
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
    assert await hasty.plain("") == []
    await hasty.close()


async def test_failures_leave_by_their_kind_only(reader: ProcessReader) -> None:
    with pytest.raises(Unreadable) as failure:
        await reader._read({"words": "secret"})
    assert failure.value.code == "KeyError"
