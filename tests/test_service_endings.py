"""Why a session ends: told before the disconnect to those who are there, by the epoch to those who were away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import pytest

from tests.conftest import Connect, token_of
from tests.raw import RawSocket
from tests.test_service_client import the_next
from tests.test_service_data import erase
from twin_sio.admin import revoke
from twin_sio.client import Backoff, Ended, WantsHistory
from twin_sio.config import Settings
from twin_sio.store.mongo.fence import Fence

End = Callable[[str, str, Settings], Awaitable[None]]


async def _replace(url: str, user: str, _: Settings) -> None:
    async with RawSocket(url, token_of(user), session_id="phone"):
        pass


async def _revoke(_: str, user: str, settings: Settings) -> None:
    await revoke(settings, user, None, 600)


async def _erase(url: str, user: str, _: Settings) -> None:
    await erase(url, user)


@pytest.mark.parametrize(("reason", "end"), [("replaced", _replace), ("revoked", _revoke), ("erased", _erase)])
async def test_the_server_says_why(url: str, user: str, settings: Settings, reason: str, end: End) -> None:
    async with RawSocket(url, token_of(user), session_id="phone") as phone:
        await end(url, user, settings)
        await phone.until(lambda: phone.leave)
        assert [one["payload"]["reason"] for one in phone.of("session_ended")] == [reason]


async def test_the_python_client_says_why(url: str, user: str, connect: Connect) -> None:
    """And knows nothing more of what was erased."""
    client = await connect()
    await client.ask("a secret")
    stream = client.changes()
    await erase(url, user)
    assert str((await the_next(stream, Ended)).error) == "All data of this account was erased."
    assert client.state.transcript() == []


async def test_nobody_comes_in_while_all_is_erased(
    url: str, user: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever did would be shown what goes, and nobody would tell them."""
    began, goes_on = asyncio.Event(), asyncio.Event()
    remove = Fence.remove

    async def held(fence: Fence, user_id: str, epoch: int) -> Mapping[str, int]:
        if user_id == user:
            began.set()
            await goes_on.wait()
        return await remove(fence, user_id, epoch)

    monkeypatch.setattr(Fence, "remove", held)
    await (await connect()).ask("a secret")
    erasing = asyncio.create_task(erase(url, user))
    await began.wait()
    async with RawSocket(url, token_of(user)) as early:
        assert early.refusal["data"] | {"message": ""} == {
            "code": "unavailable", "message": "", "retryable": True, "retry_after_ms": 500
        }  # fmt: skip
    goes_on.set()
    await erasing
    assert (await (await connect()).history())["messages"] == []


async def test_a_device_that_was_away_forgets_what_was_erased(url: str, user: str, connect: Connect) -> None:
    """Though the log has gone past what it knows, so that it misses nothing by its seq."""
    phone = await connect(backoff=Backoff(1.0, 1.0))
    await phone.ask("a secret")
    stream = phone.changes()
    await phone.drop()
    await erase(url, user)
    other = await connect()
    await other.ask("anew")
    await other.ask("and more")
    assert (await the_next(stream, WantsHistory)).reason == "log_restarted"
    await phone.until(lambda state: len(state.transcript()) == 4)
    assert [one.text for one in phone.state.transcript() if one.role == "user"] == ["anew", "and more"]
