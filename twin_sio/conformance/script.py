"""The script: one step for each rule."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import orjson
import socketio
from aiohttp import web

from twin_sio.clock import iso, monotonic, now
from twin_sio.conformance.rules import Rule, RuleViolation, T, Verdict
from twin_sio.conformance.server import (
    _HEARTBEAT_MS,
    _LEAVE_AFTER_MS,
    _RETRY_AFTER_MS,
    ScriptedServer,
    _Entry,
    _Heard,
    _main,
)
from twin_sio.protocol import (
    Incoming,
)
from twin_sio.transport.socketio import SocketServer

REPORT = "report"
_EARLY = 0.9  # clocks and timers are not exact
_QUIET_S = 2.0
_LOOK_AGAIN_S = 0.3
_UNDER_WAY_S = 0.5


class Script:
    """The rules in their order. `limit_s` is what a client has for each, `arrival_s` for coming at all."""

    def __init__(self, stage: ScriptedServer, limit_s: float, arrival_s: float) -> None:
        self._stage = stage
        self._limit_s = limit_s
        self._arrival_s = arrival_s
        self._hello: Incoming[Any] | None = None
        self._shown: list[str] = []
        self._stored_at: float | None = None

    async def play(self) -> AsyncIterator[Verdict]:
        """Every rule's verdict, as it is reached. Where the client is gone for good the rest counts as broken."""
        for rule, look in _SCRIPT:
            try:
                await look(self)
                yield Verdict(rule, True)
            except RuleViolation as broken:
                yield Verdict(rule, False, str(broken))

    # being let in

    async def retries(self) -> None:
        entries = self._stage.entries
        refused = await self._stage.until(
            lambda: _first([one for one in entries if one.auth.token]), self._arrival_s, "no client with a token came"
        )
        again = await self._comes_in(0, "it did not come back")
        waited_ms = (again.at - refused.at) * 1000
        if waited_ms < _RETRY_AFTER_MS * _EARLY:
            raise RuleViolation(f"it came back after {waited_ms:.0f} ms, and was asked for {_RETRY_AFTER_MS}")

    async def says_something(self) -> None:
        stage = self._stage
        await self._is_there()
        stage.send(stage.say_elsewhere("one"))
        self._hello = (await self._until(lambda: _first(stage.of("user_message")), "no user_message came")).event
        self._shown = ["one", self._hello.payload.text]

    async def comes_back(self) -> None:
        before = len(self._stage.entries)
        await self._is_there()
        self._stage.close()
        self._stage.deaf = False
        again = await self._comes_in(before, "it did not come back")
        if again.auth.session_id is None or again.auth.session_id != self._stage.entries[before - 1].auth.session_id:
            raise RuleViolation("it came back as another session: auth.session_id must stay the same")

    async def tells_its_seq(self) -> None:
        await self._is_there()
        await self._until(
            lambda: 1 in self._told_seqs(), f"it had seen seq 1, and told {self._told_seqs() or 'nothing'}"
        )

    def _told_seqs(self) -> list[int]:
        """What the client said it had seen: as it came in last, or since."""
        entry = self._stage.entries[-1]
        told = [entry.auth.last_seq] if entry.auth.last_seq is not None else []
        return told + [one.event.payload.last_seq for one in self._stage.of("resume") if one.at >= entry.at]

    async def sends_again(self) -> None:
        stage, hello = self._stage, self._said_hello()
        stored = await self._until(
            lambda: _first([one for one in stage.log if one.message_id == hello.message_id]),
            f"message {hello.message_id} was not acknowledged, and did not come again",
        )
        self._stored_at = monotonic()
        if stored.payload["text"] != hello.payload.text:
            raise RuleViolation("it came again with another text")

    # what is shown

    async def joins_chunks(self) -> None:
        self._stage.tell("twin_thinking", {"state": "thinking"}, **self._about())
        self._chunk("g1", 0, "Hel")
        self._chunk("g1", 1, "lo")
        self._chunk("g1", 1, "lo")
        await self._shows("Hello")

    async def merges_chunks(self) -> None:
        self._chunk("g1", 4, "Hello there,", first_chunk_index=0)
        self._chunk("g1", 3, " lost")
        self._chunk("g1", 5, " Ada")
        await self._shows("Hello there, Ada")

    async def changes_generation(self) -> None:
        self._chunk("g2", 0, "Good")
        self._chunk("g1", 6, " again")
        await self._shows("Good")

    async def finishes_once(self) -> None:
        ending = {"text": "Good morning.", "generation_id": "g2", "status": "complete", "model": "m", "used_traits": []}
        told = self._stage.append("twin_message", ending, **self._about())
        self._stage.send(told)
        self._stage.send(told)
        self._chunk("g2", 1, " morning")
        self._shown.append("Good morning.")
        await self._shows()

    async def drops_repeats(self) -> None:
        await self._is_there()
        self._stage.send(self._stage.log[0])
        await self._shows()

    # what was missed

    async def asks_at_a_hole(self) -> None:
        stage = self._stage
        await self._is_there()
        seen, since = stage.seq, len(stage.heard)
        stage.say_elsewhere("two")
        stage.send(stage.say_elsewhere("three"))
        self._shown += ["two", "three"]
        await self._asks_from(seen, since, f"seq {seen + 2} came after {seen}")

    async def fills_the_hole(self) -> None:
        await self._shows()

    async def obeys_resync(self) -> None:
        stage = self._stage
        await self._is_there()
        seen, since = stage.seq, len(stage.heard)
        self._shown.append(stage.say_elsewhere("four").payload["text"])
        stage.tell("resync", {"reason": "gap"})
        await self._asks_from(seen, since, "resync came")

    async def beats(self) -> None:
        await self._is_there()
        since = len(self._stage.heard)
        await self._until(lambda: _first(self._stage.of("heartbeat", since)), f"no heartbeat ({_HEARTBEAT_MS} ms)")

    async def notices_that_it_is_behind(self) -> None:
        stage = self._stage
        await self._is_there()
        seen, since = stage.seq, len(stage.heard)
        self._shown.append(stage.say_elsewhere("five").payload["text"])
        stage.tells_head = True
        await self._asks_from(seen, since, f"a heartbeat_ack told head_seq {stage.seq}")
        await self._shows()

    async def _asks_from(self, seen: int, since: int, why: str) -> None:
        asked = await self._until(lambda: _first(self._stage.of("resume", since)), f"{why}, and no resume came")
        if asked.event.payload.last_seq > seen:
            raise RuleViolation(f"{why}, and resume asked from {asked.event.payload.last_seq}: it has only seen {seen}")

    # coming to an end

    async def refreshes(self) -> None:
        await self._is_there()
        since = len(self._stage.heard)
        self._stage.tell("auth_expiring", {"expires_at": iso(now() + timedelta(seconds=60))})
        await self._until(lambda: _first(self._stage.of("auth_refresh", since)), "no auth_refresh came")

    async def leaves_a_draining_server(self) -> None:
        stage = self._stage
        await self._is_there()
        before, began = len(stage.entries), monotonic()
        stage.forgetful, stage.tells_head = True, False
        stage.tell("server_draining", {"reconnect_after_ms": _LEAVE_AFTER_MS})
        stage.say_elsewhere("gone by the time it is asked for")
        closing = asyncio.get_running_loop().call_later(_QUIET_S, stage.close)
        try:
            again = await self._comes_in(before, "it did not come back", _QUIET_S)
        finally:
            closing.cancel()
        if (again.at - began) * 1000 < _LEAVE_AFTER_MS * _EARLY:
            raise RuleViolation(f"it came back after {(again.at - began) * 1000:.0f} ms, not {_LEAVE_AFTER_MS}")

    async def fetches_history(self) -> None:
        await self._is_there()
        entry = self._stage.entries[-1]

        def asked() -> bool:
            return any(one.at >= entry.at for one in self._stage.of("history"))

        await self._until(asked, "what was missed could not be resumed, and no history was asked for")

    async def leaves_alone(self) -> None:
        hello, stored_at = self._said_hello(), self._stored_at
        if stored_at is None:
            raise RuleViolation("not reached: it was never acknowledged")
        again = [one for one in self._stage.of("user_message") if one.event.message_id == hello.message_id]
        late = [one for one in again if one.at > stored_at + _UNDER_WAY_S]
        if late:
            raise RuleViolation(f"it was sent {len(late)} times more")

    async def stays_away(self) -> None:
        stage = self._stage
        await self._is_there()
        before = len(stage.entries)
        if stage.sid is not None:
            await stage.server.disconnect(stage.sid)
        try:
            await stage.until(lambda: len(stage.entries) > before, _QUIET_S, "")
        except RuleViolation:
            return
        raise RuleViolation("it was told to leave (Socket.IO disconnect), and came back")

    async def speaks(self) -> None:
        if self._stage.faults:
            raise RuleViolation("; ".join(self._stage.faults[:5]))

    # small things

    def _said_hello(self) -> Incoming[Any]:
        if self._hello is None:
            raise RuleViolation("not reached: it never said anything")
        return self._hello

    def _about(self) -> dict[str, Any]:
        hello = self._said_hello()
        return _main({"in_response_to": hello.message_id, "conversation_id": hello.conversation_id})

    def _chunk(self, generation_id: str, index: int, text: str, **more: Any) -> None:
        piece = {"text": text, "generation_id": generation_id, "chunk_index": index, "is_last_chunk": False, **more}
        self._stage.tell("twin_message_chunk", piece, **self._about())

    async def _until(self, check: Callable[[], T | None], otherwise: str) -> T:
        return await self._stage.until(check, self._limit_s, otherwise)

    async def _is_there(self) -> None:
        await self._until(lambda: self._stage.sid, "not reached: it is not connected, and did not come")

    async def _comes_in(self, before: int, otherwise: str, more_s: float = 0.0) -> _Entry:
        stage = self._stage
        return await stage.until(
            lambda: _first([one for one in stage.entries[before:] if one.let_in]), self._limit_s + more_s, otherwise
        )

    async def _shows(self, unfinished: str = "") -> None:
        """Ask what the client shows; a client may be a moment behind, so that it is asked once more."""
        expected = [*self._shown, *([unfinished] if unfinished else [])]
        shown = await self._report()
        if shown != expected:
            await asyncio.sleep(_LOOK_AGAIN_S)
            shown = await self._report()
        if shown != expected:
            raise RuleViolation(f"it shows {_short(shown)}, not {_short(expected)}")

    async def _report(self) -> object:
        stage = self._stage
        await self._is_there()
        since = len(stage.heard)
        stage.send(stage.say_elsewhere("What do you show?", REPORT))

        def reported() -> _Heard | None:
            return _first([one for one in stage.of("user_message", since) if one.event.conversation_id == REPORT])

        told = (await self._until(reported, f"no report came (a user_message in {REPORT!r})")).event.payload.text
        try:
            return orjson.loads(told)
        except orjson.JSONDecodeError:
            raise RuleViolation("the report is no JSON list") from None


def _first(found: list[T]) -> T | None:
    return found[0] if found else None


def _short(shown: object) -> str:
    return orjson.dumps(shown).decode()[:300]


_SCRIPT: tuple[tuple[Rule, Callable[[Script], Awaitable[None]]], ...] = (
    (
        Rule(
            "retries_a_refusal",
            "A handshake that is refused with retryable: true is tried again, not before retry_after_ms.",
            "connect_error carries data {code, message, retryable, retry_after_ms?}; most SDKs do not try again.",
        ),
        Script.retries,
    ),
    (
        Rule(
            "sends_a_message",
            "It says something: user_message with payload.text and a metadata.message_id of its own.",
            "One argument, the envelope: {payload: {text}, metadata: {message_id}}.",
        ),
        Script.says_something,
    ),
    (
        Rule(
            "comes_back_as_the_same_session",
            "After a plain close it connects again, with the same auth.session_id.",
            "Reconnect on `transport close`; make the session id once, keep it as long as the device or tab lives.",
        ),
        Script.comes_back,
    ),
    (
        Rule(
            "tells_how_far_it_read",
            "It hands back the newest seq that it saw: auth.last_seq, or a resume event.",
            "Keep the largest metadata.seq that was applied; where auth cannot change, emit resume on session_ready.",
        ),
        Script.tells_its_seq,
    ),
    (
        Rule(
            "sends_again_under_the_same_id",
            "A message without message_received is sent again, with the same message_id and text.",
            "Keep an outbox by message_id until message_received names it; send all of it after session_ready.",
        ),
        Script.sends_again,
    ),
    (
        Rule(
            "joins_chunks",
            "Chunks of a generation are joined by chunk_index; one that was there before adds nothing.",
            "Append only where chunk_index is the next one.",
        ),
        Script.joins_chunks,
    ),
    (
        Rule(
            "takes_a_merged_chunk",
            "A chunk with first_chunk_index 0 replaces all text so far; what is older than it is dropped.",
            "Set the text to its text, the next index to chunk_index + 1.",
        ),
        Script.merges_chunks,
    ),
    (
        Rule(
            "follows_a_new_generation",
            "Another generation_id for the same message takes the place of the first, whose late chunks are dropped.",
            "Keep one draft for each in_response_to, and the ids of generations that ended.",
        ),
        Script.changes_generation,
    ),
    (
        Rule(
            "finishes_once",
            "twin_message takes the place of the draft; it again, or a late chunk, changes nothing.",
            "Its text has the last word; drop durable events with seq <= last, and chunks of an ended generation.",
        ),
        Script.finishes_once,
    ),
    (
        Rule(
            "drops_repeats",
            "A durable event that was there before is dropped.",
            "Drop seq <= last.",
        ),
        Script.drops_repeats,
    ),
    (
        Rule(
            "asks_at_a_hole",
            "Where seq skips (seq > last + 1) it sends resume with the last seq before the hole.",
            "Do not apply what comes behind a hole, and do not count it as seen.",
        ),
        Script.asks_at_a_hole,
    ),
    (
        Rule(
            "fills_the_hole_in_order",
            "What was missing is shown in its place, and nothing twice.",
            "Order by seq; what came behind the hole comes again with the resume.",
        ),
        Script.fills_the_hole,
    ),
    (
        Rule("obeys_resync", "On resync it sends resume.", "resync means that live delivery had a gap."),
        Script.obeys_resync,
    ),
    (
        Rule(
            "sends_heartbeats",
            "It sends heartbeat every session_ready.heartbeat_interval_ms.",
            "Engine.IO's ping does not carry head_seq; the heartbeat event does.",
        ),
        Script.beats,
    ),
    (
        Rule(
            "notices_that_it_is_behind",
            "Where heartbeat_ack.head_seq is ahead of what it saw it sends resume, and shows what it missed.",
            "Compare head_seq with the last seq.",
        ),
        Script.notices_that_it_is_behind,
    ),
    (
        Rule(
            "refreshes_its_token",
            "On auth_expiring it sends auth_refresh with a token.",
            "Ask the host app for a fresh token; the connection stays.",
        ),
        Script.refreshes,
    ),
    (
        Rule(
            "leaves_a_draining_server",
            "On server_draining it goes after reconnect_after_ms (at the latest when it is closed) and comes back.",
            "Close the transport when the time is up, and connect again.",
        ),
        Script.leaves_a_draining_server,
    ),
    (
        Rule(
            "fetches_history_after_a_loss",
            "Where resumed tells complete: false it asks for history.",
            "Retention has removed what was missed: go on from through_seq and read the newest page.",
        ),
        Script.fetches_history,
    ),
    (
        Rule(
            "leaves_alone_what_is_stored",
            "What was acknowledged is not sent again.",
            "Take it out of the outbox on message_received, whether accepted or duplicate.",
        ),
        Script.leaves_alone,
    ),
    (
        Rule(
            "stays_away_when_told",
            "After a Socket.IO disconnect (`io server disconnect`) it does not come back.",
            "The session was replaced, or its user is gone.",
        ),
        Script.stays_away,
    ),
    (
        Rule(
            "speaks_the_protocol",
            "All that it sent is as the protocol says.",
            "See docs/protocol.md and docs/asyncapi.json.",
        ),
        Script.speaks,
    ),
)
RULES = tuple(rule for rule, _ in _SCRIPT)


@asynccontextmanager
async def conformance_server(port: int, limit_s: float, arrival_s: float) -> AsyncIterator[tuple[str, Script]]:
    """The server, on the loopback address (port 0: a free one): its URL, and the script to play."""
    server = SocketServer(socketio.AsyncManager(), cors=None, ping_interval_s=25, ping_timeout_s=20, handshake_s=10)
    stage = ScriptedServer(server)
    app = web.Application()
    server.attach(app)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", Script(stage, limit_s, arrival_s)
    finally:
        server.abort_all()
        await runner.cleanup()
