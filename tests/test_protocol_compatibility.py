"""What clients of earlier versions sent, frame by frame, still has the effect that it had then."""

from __future__ import annotations

import pytest

from tests.conftest import settings_for, url_of, working
from tests.recorded import SAID, USER, replay, script, sessions
from tests.scripted_model import ScriptedModel
from twin_sio.clock import new_id
from twin_sio.protocol import CLIENT_EVENTS
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer
from twin_sio.runtime.serve import service

SESSIONS = sessions()
ADDED_SINCE = {"host_tools", "tool_result", "approval"}


@pytest.mark.parametrize("name", SESSIONS)
async def test_recorded_sessions_are_served_as_before(
    name: str, mongod: Mongod, redis_server: RedisServer, model: ScriptedModel
) -> None:
    """A recorded session of an earlier client is served as it was then."""
    script(model)
    redis_url = redis_server.url.removesuffix("0") + "4"
    settings = settings_for(mongod.url, redis_url, model.base_url, storage__mongodb_database=f"recorded_{new_id()[:8]}")
    async with service(settings) as running, working(settings):
        received = await replay(url_of(running), SESSIONS[name])
    answers = [one["payload"] for one in received if one["type"] == "twin_message"]
    assert not [one for one in received if one["type"] == "error"]
    assert answers[0]["text"].startswith(f"You said: {SAID}")
    assert [one["status"] for one in answers[:3]] == ["complete", "complete", "stopped"]
    (first, *_) = (one["payload"] for one in received if one["type"] == "profile_update")
    assert first["changes"][0]["value"] == "tea"
    resumed = [one["payload"] for one in received if one["type"] == "resumed"]
    assert all(one["complete"] for one in resumed)
    assert received[0]["payload"]["user_id"] == USER


@pytest.mark.parametrize(
    ("name", "never_sent"),
    [
        ("protocol-1", ["search"]),
        ("protocol-1-search", []),
        ("typescript-1", ["resume", "search"]),
        ("typescript-1-search", ["resume"]),
    ],
)
def test_the_recorded_sessions_hold_every_event_that_a_client_sends(name: str, never_sent: list[str]) -> None:
    frames = [line["client"] for line in SESSIONS[name] if "client" in line]
    sent = {name for name in CLIENT_EVENTS if any(f'["{name}",' in frame for frame in frames)}
    assert [name for name in CLIENT_EVENTS if name not in sent | ADDED_SINCE] == never_sent
    assert any(frame.startswith("40") and '"last_seq":' in frame for frame in frames)  # how the other resumes
