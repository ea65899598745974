"""The script: one step for each rule."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

from twin_sio.clock import iso, monotonic, new_id, now
from twin_sio.conformance.client import COUNT_TOOL, ClientUnderTest, first, short
from twin_sio.conformance.rules import RULES, RuleViolation, Verdict
from twin_sio.conformance.server import (
    HEARTBEAT_MS,
    RECONNECT_AFTER_MS,
    RETRY_AFTER_MS,
    ScriptedServer,
    in_main,
)
from twin_sio.protocol import Incoming

UNKNOWN_EVENT = "hologram"
_TOLERANCE = 0.9  # clocks and timers are not exact
_QUIET_S = 2.0
_REPORT_RETRY_S = 0.3
_IN_FLIGHT_S = 0.5


class Script:
    """The rules in their order. `limit_s` is what a client has for each, `arrival_s` for its first connect."""

    def __init__(self, server: ScriptedServer, limit_s: float, arrival_s: float) -> None:
        self.server = server
        self._client = ClientUnderTest(server, limit_s)
        self._arrival_s = arrival_s
        # The client's first message.
        self._message: Incoming[Any] | None = None
        # What the client must show in the conversation `main`, oldest first.
        self._shown: list[str] = []
        # When the first message was acknowledged; None before.
        self._stored_at: float | None = None

    async def play(self) -> AsyncIterator[Verdict]:
        """Every rule's verdict, as it is reached. Once the client is gone for good, the remaining rules are broken."""
        for rule, step in zip(RULES, _STEPS, strict=True):
            try:
                await step(self)
                yield Verdict(rule, True)
            except RuleViolation as broken:
                yield Verdict(rule, False, str(broken))

    # connecting

    async def retries_a_refused_handshake(self) -> None:
        attempts = self.server.attempts
        refused = await self.server.wait_for(
            lambda: first([attempt for attempt in attempts if attempt.auth.token]),
            self._arrival_s,
            "no client with a token connected",
        )
        again = await self._client.wait_accepted(0, "it did not reconnect")
        waited_ms = (again.at - refused.at) * 1000
        if waited_ms < RETRY_AFTER_MS * _TOLERANCE:
            raise RuleViolation(f"it reconnected after {waited_ms:.0f} ms; retry_after_ms was {RETRY_AFTER_MS}")

    async def sends_a_message(self) -> None:
        server = self.server
        await self._client.wait_connected()
        server.send(server.append_from_other_device("one"))
        self._message = (
            await self._client.wait_for(lambda: first(server.of("user_message")), "no user_message came")
        ).event
        self._shown = ["one", self._message.payload.text]

    async def reconnects_with_the_same_session(self) -> None:
        before, since = len(self.server.attempts), len(self.server.received)
        await self._client.wait_connected()
        # A library may deliver after the close what came together with it: a client is given time to look at "one".
        with suppress(RuleViolation):  # whether it sends heartbeats is not the question here
            await self.server.wait_for(
                lambda: first(self.server.of("heartbeat", since)[1:]), 3 * HEARTBEAT_MS / 1000, ""
            )
        self.server.close()
        self.server.ignores_messages = False
        again = await self._client.wait_accepted(before, "it did not reconnect")
        if again.auth.session_id is None or again.auth.session_id != self.server.attempts[before - 1].auth.session_id:
            raise RuleViolation("it reconnected as another session: auth.session_id must stay the same")

    async def reports_last_seq(self) -> None:
        await self._client.wait_connected()
        await self._client.wait_for(
            lambda: 1 in self._reported_seqs(),
            f"it had received seq 1, and reported {self._reported_seqs() or 'nothing'}",
        )

    def _reported_seqs(self) -> list[int]:
        """The last_seq values that the client sent: in its newest handshake, or since."""
        attempt = self.server.attempts[-1]
        in_auth = [attempt.auth.last_seq] if attempt.auth.last_seq is not None else []
        resumes = [resume for resume in self.server.of("resume") if resume.at >= attempt.at]
        return in_auth + [resume.event.payload.last_seq for resume in resumes]

    async def resends_with_the_same_id(self) -> None:
        server, hello = self.server, self._required_message()
        stored = await self._client.wait_for(
            lambda: first([event for event in server.log if event.message_id == hello.message_id]),
            f"message {hello.message_id} was not acknowledged, and was not sent again",
        )
        self._stored_at = monotonic()
        if stored.payload["text"] != hello.payload.text:
            raise RuleViolation("it was sent again with another text")

    # what is shown

    async def joins_chunks(self) -> None:
        self.server.send_new("twin_thinking", {"state": "thinking"}, **self._reply_metadata())
        self._chunk("g1", 0, "Hel")
        self._chunk("g1", 1, "lo")
        self._chunk("g1", 1, "lo")
        await self._expect_shown("Hello")

    async def applies_a_merged_chunk(self) -> None:
        self._chunk("g1", 4, "Hello there,", first_chunk_index=0)
        self._chunk("g1", 3, " lost")
        self._chunk("g1", 5, " Ada")
        await self._expect_shown("Hello there, Ada")

    async def follows_a_new_generation(self) -> None:
        self._chunk("g2", 0, "Good")
        self._chunk("g1", 6, " again")
        await self._expect_shown("Good")

    async def finishes_once(self) -> None:
        ending = {"text": "Good morning.", "generation_id": "g2", "status": "complete", "model": "m", "used_traits": []}
        answer = self.server.append("twin_message", ending, **self._reply_metadata())
        self.server.send(answer)
        self.server.send(answer)
        self._chunk("g2", 1, " morning")
        self._shown.append("Good morning.")
        await self._expect_shown()

    async def ignores_duplicates(self) -> None:
        await self._client.wait_connected()
        self.server.send(self.server.log[0])
        await self._expect_shown()

    # what was missed

    async def resumes_at_a_gap(self) -> None:
        server = self.server
        await self._client.wait_connected()
        seen, since = server.seq, len(server.received)
        server.append_from_other_device("two")
        server.send(server.append_from_other_device("three"))
        self._shown += ["two", "three"]
        await self._expect_resume(seen, since, f"seq {seen + 2} came after {seen}")

    async def fills_the_gap_in_order(self) -> None:
        await self._expect_shown()

    async def resumes_on_resync(self) -> None:
        server = self.server
        await self._client.wait_connected()
        seen, since = server.seq, len(server.received)
        self._shown.append(server.append_from_other_device("four").payload["text"])
        server.send_new("resync", {"reason": "gap"})
        await self._expect_resume(seen, since, "resync came")

    async def sends_heartbeats(self) -> None:
        await self._client.wait_connected()
        since = len(self.server.received)
        await self._client.wait_for(
            lambda: first(self.server.of("heartbeat", since)), f"no heartbeat ({HEARTBEAT_MS} ms)"
        )

    async def resumes_when_behind(self) -> None:
        server = self.server
        await self._client.wait_connected()
        seen, since = server.seq, len(server.received)
        self._shown.append(server.append_from_other_device("five").payload["text"])
        server.reports_head = True
        await self._expect_resume(seen, since, f"a heartbeat_ack had head_seq {server.seq}")
        await self._expect_shown()

    async def _expect_resume(self, seen: int, since: int, why: str) -> None:
        asked = await self._client.wait_for(
            lambda: first(self.server.of("resume", since)), f"{why}, and no resume came"
        )
        if asked.event.payload.last_seq > seen:
            raise RuleViolation(
                f"{why}, and resume had last_seq {asked.event.payload.last_seq}: it has received {seen} only"
            )

    # disconnecting

    async def refreshes_its_token(self) -> None:
        await self._client.wait_connected()
        since = len(self.server.received)
        self.server.send_new("auth_expiring", {"expires_at": iso(now() + timedelta(seconds=60))})
        await self._client.wait_for(lambda: first(self.server.of("auth_refresh", since)), "no auth_refresh came")

    async def leaves_a_draining_server(self) -> None:
        server = self.server
        await self._client.wait_connected()
        before, began = len(server.attempts), monotonic()
        server.has_lost_log, server.reports_head = True, False
        server.send_new("server_draining", {"reconnect_after_ms": RECONNECT_AFTER_MS})
        server.append_from_other_device("gone by the time it is asked for")
        closing = asyncio.get_running_loop().call_later(_QUIET_S, server.close)
        try:
            again = await self._client.wait_accepted(before, "it did not reconnect", _QUIET_S)
        finally:
            closing.cancel()
        if (again.at - began) * 1000 < RECONNECT_AFTER_MS * _TOLERANCE:
            raise RuleViolation(f"it reconnected after {(again.at - began) * 1000:.0f} ms, not {RECONNECT_AFTER_MS}")

    async def fetches_history_after_a_loss(self) -> None:
        await self._client.wait_connected()
        newest = self.server.attempts[-1]

        def asked() -> bool:
            return any(request.at >= newest.at for request in self.server.of("history"))

        await self._client.wait_for(asked, "missed events could not be resumed, and no history was requested")

    async def does_not_resend_stored_messages(self) -> None:
        hello, stored_at = self._required_message(), self._stored_at
        if stored_at is None:
            raise RuleViolation("not reached: it was never acknowledged")
        again = [sent for sent in self.server.of("user_message") if sent.event.message_id == hello.message_id]
        late = [sent for sent in again if sent.at > stored_at + _IN_FLIGHT_S]
        if late:
            raise RuleViolation(f"it was sent again {len(late)} times")

    # what was added later

    async def counts_unknown_events(self) -> None:
        server = self.server
        await self._client.wait_connected()
        since = len(server.received)
        server.send(server.append(UNKNOWN_EVENT, {"depth": 3}))
        await self._expect_newest("six", since, f"an event of an unknown type came ({UNKNOWN_EVENT})")

    async def counts_approvals(self) -> None:
        server, hello = self.server, self._required_message()
        await self._client.wait_connected()
        since = len(server.received)
        asked = {"approval_id": new_id(), "call_id": new_id(), "tool": "book", "title": "Book a table", "arguments": {}}
        about = {"in_response_to": hello.message_id, "conversation_id": hello.conversation_id}
        expires_at = iso(now() + timedelta(hours=1))
        server.send(server.append("approval_requested", {**asked, "expires_at": expires_at}, **about))
        resolved = {"approval_id": asked["approval_id"], "decision": "reject"}
        server.send(server.append("approval_resolved", resolved, **about))
        await self._expect_newest("seven", since, "an approval was asked for, and decided")

    async def _expect_newest(self, text: str, since: int, why: str) -> None:
        """A message that comes now is shown, and nothing is taken for a gap."""
        self.server.send(self.server.append_from_other_device(text))
        shown = await self._client.report()
        if self.server.of("resume", since):
            raise RuleViolation(f"{why}, and it sent resume though there was no gap")
        if not isinstance(shown, list) or not shown or shown[-1] != text:
            raise RuleViolation(f"{why}, and it shows {short(shown)} without the message after it")

    async def runs_a_tool_once(self) -> None:
        server = self.server
        if not server.of("host_tools"):
            return
        await self._client.wait_connected()
        newest = server.attempts[-1]
        await self._client.wait_for(
            lambda: any(offer.at >= newest.at for offer in server.of("host_tools")),
            "it had offered tools, and did not offer them again after it reconnected",
        )
        call_id = new_id()
        before = await self._client.call(call_id)
        self._client.send_call(call_id)
        after = await self._client.call(new_id())
        if after != before + 1 or any(result != before for result in self._client.results(call_id)):
            raise RuleViolation(f"{COUNT_TOOL} gave {before}, then {after} after the first call_id had come again")

    async def stays_disconnected(self) -> None:
        server = self.server
        await self._client.wait_connected()
        before = len(server.attempts)
        if server.sid is not None:
            server.connections.close(server.sid, "gone")
        try:
            await server.wait_for(lambda: len(server.attempts) > before, _QUIET_S, "")
        except RuleViolation:
            return
        raise RuleViolation("it reconnected after a Socket.IO disconnect")

    async def follows_the_protocol(self) -> None:
        if self.server.violations:
            raise RuleViolation("; ".join(self.server.violations[:5]))

    # helpers

    def _required_message(self) -> Incoming[Any]:
        if self._message is None:
            raise RuleViolation("not reached: it never sent a message")
        return self._message

    def _reply_metadata(self) -> dict[str, Any]:
        hello = self._required_message()
        return in_main({"in_response_to": hello.message_id, "conversation_id": hello.conversation_id})

    def _chunk(self, generation_id: str, index: int, text: str, **more: Any) -> None:
        piece = {"text": text, "generation_id": generation_id, "chunk_index": index, "is_last_chunk": False, **more}
        self.server.send_new("twin_message_chunk", piece, **self._reply_metadata())

    async def _expect_shown(self, unfinished: str = "") -> None:
        """Ask what the client shows; ask once more, because it may be a moment behind."""
        expected = [*self._shown, *([unfinished] if unfinished else [])]
        shown = await self._client.report()
        if shown != expected:
            await asyncio.sleep(_REPORT_RETRY_S)
            shown = await self._client.report()
        if shown != expected:
            raise RuleViolation(f"it shows {short(shown)}, not {short(expected)}")


# One step for each rule, in the order of the rules.
_STEPS: tuple[Callable[[Script], Awaitable[None]], ...] = (
    Script.retries_a_refused_handshake,
    Script.sends_a_message,
    Script.reconnects_with_the_same_session,
    Script.reports_last_seq,
    Script.resends_with_the_same_id,
    Script.joins_chunks,
    Script.applies_a_merged_chunk,
    Script.follows_a_new_generation,
    Script.finishes_once,
    Script.ignores_duplicates,
    Script.resumes_at_a_gap,
    Script.fills_the_gap_in_order,
    Script.resumes_on_resync,
    Script.sends_heartbeats,
    Script.resumes_when_behind,
    Script.refreshes_its_token,
    Script.leaves_a_draining_server,
    Script.fetches_history_after_a_loss,
    Script.does_not_resend_stored_messages,
    Script.counts_unknown_events,
    Script.counts_approvals,
    Script.runs_a_tool_once,
    Script.stays_disconnected,
    Script.follows_the_protocol,
)
