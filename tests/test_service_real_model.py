"""The real small model, the real command line, a whole conversation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conftest import Connect, settings_for, url_of
from tests.test_cli import run
from twin_sio.client import Message
from twin_sio.runtime.dev_engines.engines import MODEL_NAME, Mongod, RedisServer, start_model
from twin_sio.runtime.serve import Service, service

LINES = Path(__file__).parent / "data" / "twenty.txt"


@pytest.fixture(scope="module")
async def thinking(
    mongod: Mongod, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Service]:
    engine = start_model(tmp_path_factory.mktemp("model"))
    settings = settings_for(
        mongod.url,
        redis_server.url,
        engine.url,
        model__name=MODEL_NAME,
        model__max_tokens=16,
        model__prompt_budget_tokens=300,
    )
    try:
        async with service(settings) as running:
            yield running
    finally:
        engine.stop()


@pytest.mark.timeout(240)
async def test_twenty_lines_are_equal_on_two_devices(thinking: Service, connect: Connect, user: str) -> None:
    """Twenty lines through the command line are stored answered and equal on two devices."""
    url = url_of(thinking)
    asked = LINES.read_text().splitlines()
    phone, tablet = await connect(url), await connect(url)
    printed = await run("chat", "--url", url, "--sub", user, stdin=LINES.read_text())
    said = {line for line in printed.stderr.splitlines() if not line.startswith("(cut off: ")}  # it writes until then
    assert (printed.exit_code, said) == (0, set())
    for device in (phone, tablet):
        await device.until(lambda state: state.last_seq == 40)
    transcripts = [device.state.transcript() for device in (phone, tablet)]
    assert _as_bytes(transcripts[0]) == _as_bytes(transcripts[1]) == printed.stdout.encode()
    assert [line.text for line in transcripts[0] if line.role == "user"] == asked
    answers = [line for line in transcripts[0] if line.role == "twin"]
    assert len(answers) == 20
    assert all(line.text and line.status == "complete" for line in answers)
    stored = (await phone.history())["messages"]
    assert [(line["seq"], line["text"]) for line in stored] == [(line.seq, line.text) for line in transcripts[1]]


def _as_bytes(lines: list[Message]) -> bytes:
    names = {"user": "you", "twin": "twin"}
    return "".join(f"{names[line.role]}: {line.text}\n" for line in lines).encode()
