"""The client's half of the resume contract, without a socket."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twin_sio.client import (
    ApprovalRequested,
    ApprovalResolved,
    ChunkApplied,
    ClientState,
    Failed,
    MessageChanged,
    ReasoningApplied,
    Settled,
    StepChanged,
    ToolCalled,
    WantsHistory,
    WantsResume,
)
from twin_sio.client.requests import Requests

Envelope = dict[str, Any]


def event(type: str, payload: dict[str, Any], message_id: str = "", **metadata: Any) -> Envelope:
    return {"type": type, "payload": payload, "metadata": {"message_id": message_id or f"id-{type}", **metadata}}


def ready(seq: int = 0, epoch: int = 0) -> Envelope:
    payload = {"seq": seq, "sessions": [], "heartbeat_interval_ms": 25000, "epoch": epoch}
    return event("session_ready", payload)


def said(seq: int, text: str = "hello") -> Envelope:
    return event("user_message", {"text": text}, f"u{seq}", seq=seq, session_id="other")


def answered(seq: int, to: str, text: str = "hi", generation: str = "g1", status: str = "complete") -> Envelope:
    payload = {"text": text, "generation_id": generation, "status": status, "model": "m", "used_traits": []}
    return event("twin_message", payload, f"t{seq}", seq=seq, in_response_to=to)


def chunk(index: int, text: str, generation: str = "g1", to: str = "u1", **more: Any) -> Envelope:
    payload = {"text": text, "generation_id": generation, "chunk_index": index, "is_last_chunk": False, **more}
    return event("twin_message_chunk", payload, f"c-{generation}-{index}", in_response_to=to)


def receipt(message_id: str, seq: int, status: str = "accepted") -> Envelope:
    payload = {"message_id": message_id, "status": status}
    return event("message_received", payload, f"r-{message_id}", seq=seq, in_response_to=message_id)


def mine(message_id: str, text: str = "hello") -> Envelope:
    return event("user_message", {"text": text}, message_id)


def a_client(last_seq: int | None = 0, *envelopes: Envelope) -> ClientState:
    state = ClientState(last_seq=last_seq)
    for envelope in envelopes:
        state.receive(envelope)
    return state


def kinds(changes: list[Any]) -> list[type]:
    return [type(change) for change in changes]


def view(state: ClientState) -> dict[str, Any]:
    """What a user could see of the state."""
    return {
        "last_seq": state.last_seq,
        "transcript": [
            (m.message_id, m.role, m.text, m.seq, m.status, m.in_response_to, m.feedback) for m in state.transcript()
        ],
        "read": state.read_up_to,
        "traits": state.traits,
        "version": state.profile_version,
        "running": {g.generation_id: g.text for g in state.generations.values()},
        "waiting": [one.approval_id for one in state.progress.waiting()],
    }


def activity(step_id: str, state: str, to: str = "u1", **more: Any) -> Envelope:
    payload = {"step_id": step_id, "kind": "tool", "name": "book", "title": "Book a table", "state": state, **more}
    return event("twin_activity", payload, f"s-{step_id}-{state}", in_response_to=to)


def thought(index: int, text: str, generation: str = "g1", to: str = "u1") -> Envelope:
    payload = {"text": text, "generation_id": generation, "chunk_index": index}
    return event("twin_reasoning_chunk", payload, f"r-{generation}-{index}", in_response_to=to)


def asks(approval_id: str) -> dict[str, Any]:
    fields = {"approval_id": approval_id, "call_id": f"call-{approval_id}", "tool": "book", "title": "Book a table"}
    return {**fields, "arguments": {"people": 2}, "expires_at": "2026-06-12T14:22:31.123Z"}


def requested(seq: int, approval_id: str, to: str = "u1") -> Envelope:
    return event("approval_requested", asks(approval_id), f"a{seq}", seq=seq, in_response_to=to)


def resolved(seq: int, approval_id: str, decision: str = "approve", **more: Any) -> Envelope:
    payload = {"approval_id": approval_id, "decision": decision, **more}
    return event("approval_resolved", payload, f"d{seq}", seq=seq, in_response_to="u1")


# -- seq ---------------------------------------------------------------------------------------------------------------


def test_a_new_client_starts_at_the_head() -> None:
    """A client without a past starts at the head of the log."""
    assert a_client(None, ready(41)).last_seq == 41


def test_a_durable_event_is_applied_once() -> None:
    state = a_client(0, said(1))
    assert state.receive(said(1)) == []
    assert [m.message_id for m in state.transcript()] == ["u1"]


def test_a_gap_asks_for_a_resume() -> None:
    """A hole asks for a resume and nothing behind it is applied."""
    state = a_client(1)
    assert state.receive(said(3)) == [WantsResume(1)]
    assert state.receive(said(4)) == []
    assert state.transcript() == []
    for envelope in (said(2), said(3), said(4)):
        assert kinds(state.receive(envelope)) == [MessageChanged]
    assert state.last_seq == 4


def test_an_event_lost_within_a_resume_is_asked_for_again() -> None:
    state = a_client(1)
    state.receive(said(3))
    changes = state.receive(event("resumed", {"through_seq": 3, "complete": True}))
    assert WantsResume(1) in changes


def test_a_heartbeat_that_is_ahead_asks_for_a_resume() -> None:
    state = a_client(2)
    assert state.receive(event("heartbeat_ack", {"head_seq": 2})) == []
    assert state.receive(event("heartbeat_ack", {"head_seq": 5})) == [WantsResume(2)]


def test_a_resync_always_asks_for_a_resume() -> None:
    """A resync asks for a resume though one is under way."""
    state = a_client(2, said(4))
    assert state.receive(event("resync", {"reason": "gap"})) == [WantsResume(2)]


def test_what_retention_removed_is_skipped_and_history_is_asked_for() -> None:
    state = a_client(2)
    changes = state.receive(event("resumed", {"through_seq": 9, "complete": False}))
    assert WantsHistory("retention") in changes
    assert state.last_seq == 9


def test_an_erased_log_is_followed_anew() -> None:
    """A log that was erased is followed from its new start."""
    state = a_client(50)
    assert WantsHistory("log_restarted") in state.receive(ready(2))
    assert kinds(state.receive(said(3))) == [MessageChanged]


def test_an_erasure_while_away_leaves_what_is_not_sent() -> None:
    """Also where the seqs go on, so that nothing else tells of it."""
    state = ClientState()
    state.receive(ready(3, epoch=1))
    state.receive(said(4))
    state.sending(event("user_message", {"text": "mine"}, "m-unsent"))
    assert WantsHistory("log_restarted") not in state.receive(ready(4, epoch=1))
    changes = state.receive(ready(9, epoch=2))
    assert WantsHistory("log_restarted") in changes
    assert [message.text for message in state.transcript()] == ["mine"]
    assert kinds(state.receive(said(10))) == [MessageChanged]


# -- the outbox --------------------------------------------------------------------------------------------------------


def test_a_message_stays_in_the_outbox_until_it_is_received() -> None:
    state = a_client(0)
    state.sending(mine("a"))
    assert list(state.outbox) == ["a"]
    assert state.transcript()[0].status == "sending"
    changes = state.receive(receipt("a", 1))
    assert kinds(changes) == [Settled, MessageChanged]
    assert state.outbox == {}
    assert (state.transcript()[0].seq, state.last_seq) == (1, 1)


def test_a_receipt_can_reveal_a_gap() -> None:
    """A receipt that reveals a hole settles the message and asks for a resume."""
    state = a_client(0)
    state.sending(mine("a"))
    assert kinds(state.receive(receipt("a", 3))) == [Settled, MessageChanged, WantsResume]
    assert (state.outbox, state.last_seq) == ({}, 0)


def test_an_own_message_resumes_once() -> None:
    """An own message that comes back in a resume stands there once."""
    state = a_client(0)
    state.sending(mine("a"))
    state.receive(event("user_message", {"text": "hello"}, "a", seq=1, session_id="mine"))
    state.receive(receipt("a", 1, "duplicate"))
    assert [(m.message_id, m.seq) for m in state.transcript()] == [("a", 1)]
    assert state.outbox == {}


def test_a_second_receipt_changes_nothing() -> None:
    state = a_client(0)
    state.sending(mine("a"))
    state.receive(receipt("a", 1))
    assert state.receive(receipt("a", 1, "duplicate")) == []


def test_an_acknowledgement_that_overtakes_an_event_is_no_hole() -> None:
    state = a_client(0)
    state.sending(mine("a"))
    assert state.acknowledged(receipt("a", 2)) == []
    for envelope in (said(1), receipt("a", 2)):
        assert state.receive(envelope) != []
    assert (state.last_seq, state.outbox) == (2, {})


def test_an_answer_is_applied_once() -> None:
    """An answer that comes as acknowledgement and as event is applied once."""
    state = a_client(0)
    state.sending(mine("a"))
    assert kinds(state.acknowledged(receipt("a", 1))) == [Settled, MessageChanged]
    assert state.receive(receipt("a", 1)) == []


def test_a_refused_message_leaves_the_outbox_and_says_so_once() -> None:
    state = a_client(0)
    state.sending(mine("a"))
    refusal = event("error", {"code": "busy"}, "e1", in_response_to="a")
    assert kinds(state.receive(refusal)) == [Settled, MessageChanged, Failed]
    assert state.receive(refusal) == []
    assert state.transcript()[0].status == "refused"


def test_a_repeats_answer_is_shown() -> None:
    """The old answer to a repeat is shown to a client that never saw it."""
    state = a_client(None, ready(8))
    state.sending(mine("u5"))
    state.receive(receipt("u5", 5, "duplicate"))
    state.receive(answered(6, "u5", "as I said"))
    assert [m.text for m in state.transcript()] == ["hello", "as I said"]
    assert state.last_seq == 8


def test_a_late_receipt_undoes_no_newer_feedback() -> None:
    """The receipt was lost, another device rated since, and both came by a resume before the repeat's receipt."""
    state = a_client(0, said(1), answered(2, "u1"))
    state.sending(event("feedback", {"message_id": "t2", "rating": "down"}, "f"))
    state.receive(event("feedback", {"message_id": "t2", "rating": "down"}, "f", seq=3))
    state.receive(event("feedback", {"message_id": "t2", "rating": "up"}, "other", seq=4))
    state.receive(receipt("f", 3, "duplicate"))
    assert state.messages["t2"].feedback == {"rating": "up"}
    assert "f" not in state.outbox


def test_own_feedback_is_on_the_message_once_it_is_received() -> None:
    state = a_client(0, said(1), answered(2, "u1"))
    state.sending(event("feedback", {"message_id": "t2", "rating": "up"}, "f"))
    state.receive(receipt("f", 3))
    assert state.messages["t2"].feedback == {"rating": "up"}
    assert state.last_seq == 3


@pytest.mark.parametrize(
    ("request_type", "answer"),
    [
        ("history", event("history", {"messages": []}, in_response_to="q")),
        ("profile_get", event("profile", {"version": 1, "traits": []}, in_response_to="q")),
        ("conversations", event("conversations", {"conversations": []}, in_response_to="q")),
        ("search", event("search", {"messages": [], "complete": True}, in_response_to="q")),
        ("auth_refresh", event("auth_refreshed", {}, in_response_to="q")),
    ],
)
def test_a_request_is_settled_by_its_answer(request_type: str, answer: Envelope) -> None:
    """A request is settled by its answer and by nothing else."""
    state = a_client(0)
    state.sending(event(request_type, {}, "q"))
    state.receive(event("twin_thinking", {"state": "thinking"}, in_response_to="q"))
    assert "q" in state.outbox
    assert Settled("q", answer) in state.receive(answer)


# -- generations -------------------------------------------------------------------------------------------------------


def test_chunks_are_joined_in_order() -> None:
    """Chunks are joined in order and the final text closes them."""
    state = a_client(0, said(1), chunk(0, "Go"), chunk(1, "od"), chunk(2, ".", is_last_chunk=True))
    assert state.generations["g1"].text == "Good."
    state.receive(answered(2, "u1", "Good."))
    assert state.generations == {}
    assert state.answers("u1")[0].joined_matches is True


def test_a_final_text_that_differs_from_its_chunks_is_recorded() -> None:
    state = a_client(0, said(1), chunk(0, "Bad", is_last_chunk=True), answered(2, "u1", "Good."))
    assert state.answers("u1")[0].joined_matches is False


def test_nothing_is_said_about_chunks_that_were_not_all_seen() -> None:
    state = a_client(0, said(1), chunk(0, "Go"), answered(2, "u1", "Good."))
    assert state.answers("u1")[0].joined_matches is None


def test_a_repeated_chunk_is_dropped() -> None:
    state = a_client(0, chunk(0, "a"), chunk(1, "b"))
    assert state.receive(chunk(1, "b")) == []
    assert state.generations["g1"].text == "ab"


def test_a_merged_chunk_heals_a_gap() -> None:
    """A missing chunk asks for a resume and a merged one heals it."""
    state = a_client(0, chunk(0, "a"))
    assert state.receive(chunk(2, "c")) == [WantsResume(0)]
    assert state.receive(chunk(3, "abcd", first_chunk_index=0)) == [ChunkApplied("g1", "u1", "main", "abcd", True)]
    state.receive(chunk(4, "e"))
    assert state.generations["g1"].text == "abcde"


def test_a_merged_chunk_in_the_middle_is_appended_as_one() -> None:
    state = a_client(0, chunk(0, "a"))
    [grew] = state.receive(chunk(3, "bcd", first_chunk_index=1))
    assert isinstance(grew, ChunkApplied)
    assert not grew.replaced
    state.receive(chunk(4, "e"))
    assert state.generations["g1"].text == "abcde"


def test_a_newer_attempt_replaces_the_older() -> None:
    """A newer attempt replaces the older and the older ones late chunks are dropped."""
    state = a_client(0, chunk(0, "old"), chunk(0, "new", "g2"))
    assert state.receive(chunk(1, "er", "g1")) == []
    assert {g.generation_id: g.text for g in state.generations.values()} == {"g2": "new"}


def test_a_chunk_behind_its_final_message_is_dropped() -> None:
    state = a_client(0, said(1), answered(2, "u1"))
    assert state.receive(chunk(0, "late")) == []
    assert state.generations == {}


def test_a_second_answer_stands_beside_the_first() -> None:
    state = a_client(0, said(1), answered(2, "u1", "one"), answered(3, "u1", "two", "g2"))
    assert [m.text for m in state.answers("u1")] == ["one", "two"]


# -- the rest ----------------------------------------------------------------------------------------------------------


def test_unknown_types_and_fields_are_ignored() -> None:
    state = a_client(0)
    assert state.receive(event("hologram", {"x": 1})) == []
    assert kinds(state.receive(said(1) | {"more": True})) == [MessageChanged]


def test_an_unknown_event_with_a_seq_counts_and_changes_nothing_else() -> None:
    """The log has it: the next event is no gap, and one behind it is."""
    state = a_client(0, said(1))
    before = view(state)
    assert state.receive(event("hologram", {"x": 1}, seq=2)) == []
    assert view(state) == {**before, "last_seq": 2}
    assert state.receive(event("hologram_message", {"x": 1}, seq=2)) == []
    assert kinds(state.receive(said(3))) == [MessageChanged]
    assert state.receive(event("hologram", {"x": 1}, seq=5)) == [WantsResume(3)]
    assert state.last_seq == 3


def test_a_device_that_left_no_longer_types() -> None:
    state = a_client(0, event("typing_indicator", {"is_typing": True}, session_id="phone"))
    assert state.typing == {"phone"}
    state.receive(event("presence", {"session_id": "phone", "state": "left", "device": {}, "sessions": []}))
    assert state.typing == set()


def test_a_history_page_puts_older_messages_before_what_is_there() -> None:
    page = {"messages": [{"message_id": "u3", "role": "user", "text": "past", "timestamp": "t", "seq": 3}]}
    state = a_client(None, ready(8), said(9), event("history", page))
    assert [m.text for m in state.transcript()] == ["past", "hello"]


def test_an_older_profile_never_replaces_a_newer_one() -> None:
    trait = {"trait_id": "a", "key": "city", "value": "Graz"}
    state = a_client(0, event("profile_update", {"version": 4, "changes": [trait | {"reason": "explicit"}]}, seq=1))
    state.receive(event("profile", {"version": 3, "traits": []}))
    assert (state.profile_version, state.traits) == (4, {"a": trait})


# -- what the twin does ------------------------------------------------------------------------------------------------


def test_an_approval_waits_until_it_is_decided() -> None:
    state = a_client(0, said(1))
    (change,) = state.receive(requested(2, "a"))
    assert isinstance(change, ApprovalRequested)
    assert (change.approval.approval_id, change.approval.in_response_to) == ("a", "u1")
    assert state.receive(requested(2, "a")) == []
    assert state.progress.waiting() == [change.approval]
    assert state.progress.waiting("elsewhere") == []
    (done,) = state.receive(resolved(3, "a", "reject", comment="too late"))
    assert done == ApprovalResolved("a", "main", "reject", change.approval, "too late")
    assert (state.progress.waiting(), state.last_seq) == ([], 3)


@pytest.mark.parametrize("seq", [3, None])
def test_an_own_decision_counts_once_with_its_receipt(seq: int | None) -> None:
    """The receipt may come in the place of the event, or before it; what was decided is said once."""
    state = a_client(0, said(1), requested(2, "a"))
    state.sending(event("approval", {"approval_id": "a", "decision": "approve"}, "d"))
    changes = state.receive(event("message_received", {"message_id": "d", "status": "accepted"}, "r", seq=seq))
    assert kinds(changes) == [Settled, ApprovalResolved]
    assert state.outbox == {}
    assert state.receive(resolved(3, "a")) == []
    assert (state.progress.waiting(), state.last_seq) == ([], 3)


def test_a_device_without_a_past_finds_approvals_in_the_history() -> None:
    """One that was decided meanwhile does not come back with an older page."""
    page = {"messages": [], "has_more": False, "conversation_id": "trip"}
    entries = [{**asks(one), "in_response_to": "u1", "seq": n} for n, one in enumerate("ab", 2)]
    state = a_client(None, ready(3), event("history", {**page, "approvals": entries}))
    assert [(one.approval_id, one.in_response_to) for one in state.progress.waiting("trip")] == [
        ("a", "u1"),
        ("b", "u1"),
    ]
    state.receive(resolved(4, "a"))
    assert state.receive(event("history", {**page, "approvals": entries}, "another")) == []
    assert [one.approval_id for one in state.progress.waiting("trip")] == ["b"]


@pytest.mark.parametrize("loss", [ready(1), event("resumed", {"through_seq": 9, "complete": False})])
def test_approvals_of_a_lost_log_are_forgotten(loss: Envelope) -> None:
    state = a_client(0, said(1), requested(2, "a"), loss)
    assert state.progress.waiting() == []


def test_steps_are_replaced_by_id_and_go_with_the_answer() -> None:
    """A step's newest state counts; the answer has all of them."""
    state = a_client(0, said(1), activity("s1", "started"), activity("s2", "started"))
    (change,) = state.receive(activity("s1", "done", summary="Booked"))
    assert change == StepChanged("main", "u1", change.step)
    assert [(one["step_id"], one["state"]) for one in state.progress.steps["u1"].values()] == [
        ("s1", "done"),
        ("s2", "started"),
    ]
    answer = answered(2, "u1")
    steps = [{"step_id": "s1", "kind": "tool", "name": "book", "title": "Book a table", "state": "done"}]
    answer["payload"] |= {"steps": steps, "reasoning": "hm", "stopped_by": "u5"}
    state.receive(answer)
    assert state.progress.steps == {}
    message = state.answers("u1")[0]
    assert (message.steps, message.reasoning, message.stopped_by) == (tuple(steps), "hm", "u5")


def test_reasoning_is_joined_and_a_new_generation_begins_anew() -> None:
    state = a_client(0, said(1))
    for index, text in enumerate(("let ", "me ", "think")):
        assert kinds(state.receive(thought(index, text))) == [ReasoningApplied]
    assert state.receive(thought(1, "me ")) == []
    assert state.progress.reasoning["u1"].text == "let me think"
    (change,) = state.receive(thought(0, "anew", "g2"))
    assert (change.replaced, state.progress.reasoning["u1"].text) == (True, "anew")
    assert state.receive(thought(3, "late", "g1")) == []
    state.receive(answered(2, "u1", generation="g2"))
    assert state.receive(thought(1, "late", "g2")) == []
    assert state.progress.reasoning == {}


def test_who_joins_late_sees_the_reasoning_from_then_on() -> None:
    state = a_client(0, thought(7, "so "), thought(8, "it is"))
    assert state.progress.reasoning["u1"].text == "so it is"


def test_an_answer_that_took_a_message_in_answers_it_as_well() -> None:
    """Live and in a page of the history."""
    answer = answered(3, "u1")
    answer["payload"]["steered_by"] = ["u2"]
    state = a_client(0, said(1), said(2), answer)
    assert state.answers("u2") == state.answers("u1") != []
    entry = {"message_id": "t3", "role": "twin", "text": "hi", "seq": 3, "in_response_to": "u1", "steered_by": ["u2"]}
    later = a_client(None, event("history", {"messages": [entry], "conversation_id": "main"}))
    assert [one.message_id for one in later.answers("u2")] == ["t3"]


def test_a_call_of_a_tool_is_handed_on() -> None:
    payload = {"call_id": "c", "name": "open", "arguments": {"page": 1}, "timeout_ms": 900}
    assert a_client(0).receive(event("tool_call", payload)) == [ToolCalled("c", "open", {"page": 1}, 900, "main")]


# -- stale state plus events is fresh state ----------------------------------------------------------------------------


def a_log(random: Random, length: int) -> list[Envelope]:
    """Durable events of one user, with their chunks in between, as the server would send them live."""
    log: list[Envelope] = []
    users, twins = ["u0"], ["t0"]
    for seq in range(1, length + 1):
        choice = random.randrange(9)
        if choice <= 1:
            log.append(said(seq, f"text {seq}"))
            users.append(f"u{seq}")
        elif choice <= 3:
            to, words = random.choice(users), [f"w{i} " for i in range(random.randrange(1, 5))]
            pieces = [chunk(i, w, f"g{seq}", to, is_last_chunk=i + 1 == len(words)) for i, w in enumerate(words)]
            log += [*pieces, answered(seq, to, "".join(words), f"g{seq}")]
            twins.append(f"t{seq}")
        elif choice == 4:
            rating = {"message_id": random.choice(twins), "rating": random.choice(["up", "down", "none"])}
            log.append(event("feedback", rating, f"f{seq}", seq=seq, session_id="other"))
        elif choice == 5:
            log.append(requested(seq, f"a{random.randrange(4)}", random.choice(users)))
        elif choice == 6:
            log.append(resolved(seq, f"a{random.randrange(4)}", random.choice(["approve", "expired"])))
        elif choice == 7:
            log.append(event("hologram", {"x": seq}, f"h{seq}", seq=seq))
        else:
            change = {"trait_id": f"a{random.randrange(3)}", "key": "k", "value": f"v{seq}", "reason": "explicit"}
            log.append(event("profile_update", {"version": seq, "changes": [change]}, f"p{seq}", seq=seq))
    return log


def resume_answer(log: list[Envelope], last_seq: int) -> list[Envelope]:
    missed = [e for e in log if e["metadata"].get("seq", 0) > last_seq]
    head = max((e["metadata"].get("seq", 0) for e in log), default=0)
    return [*missed, event("resumed", {"through_seq": head, "complete": True})]


def deliver(state: ClientState, sent: list[Envelope], log: list[Envelope], loss: float, random: Random) -> None:
    """Hand over `sent`, and answer every wish for a resume over the same lossy way."""
    waiting = list(sent)
    while waiting:
        envelope = waiting.pop(0)
        if random.random() < loss:
            continue
        for change in state.receive(envelope):
            if isinstance(change, WantsResume):
                waiting = resume_answer(log, change.last_seq) + waiting


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32), length=st.integers(1, 25), loss=st.sampled_from([0.0, 0.1, 0.4]))
def test_any_delivery_ends_in_one_state(seed: int, length: int, loss: float) -> None:
    """Whatever is dropped repeated or reordered the client ends in the same state."""
    random = Random(seed)
    log = a_log(random, length)
    mangled = [envelope for envelope in log for _ in range(random.choice([1, 1, 1, 2, 3]))]
    for _ in range(random.randrange(4)):
        a, b = random.randrange(len(mangled)), random.randrange(len(mangled))
        mangled[a], mangled[b] = mangled[b], mangled[a]
    state = a_client(0)
    deliver(state, mangled, log, loss, random)
    head = max(e["metadata"].get("seq", 0) for e in log)
    deliver(state, [event("heartbeat_ack", {"head_seq": head})], log, 0.0, random)
    assert view(state) == view(a_client(0, *log))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=30))
def test_partial_text_is_always_a_prefix(
    arrivals: list[tuple[int, int]],
) -> None:
    """However chunks arrive the text is never anything but a beginning of the answer."""
    words = ["a ", "b ", "c ", "d ", "e ", "f ", "g "]
    state = a_client(0)
    for one, other in arrivals:
        first, last = min(one, other), max(one, other)
        state.receive(chunk(last, "".join(words[first : last + 1]), first_chunk_index=first))
        text = state.generations["g1"].text
        assert "".join(words).startswith(text)
        assert text == "".join(words[: state.generations["g1"].next_index])


async def test_only_the_newest_failures_are_kept() -> None:
    async def nowhere(_: Envelope) -> None: ...

    requests = Requests(ClientState(), nowhere, 10.0, heartbeats=False)
    for number in range(1_100):
        requests.on_failure(f"m{number}", {"code": "model_refused"})
    assert ("m99" in requests.failures, "m100" in requests.failures) == (False, True)
