"""What was said in a conversation, read out of the events of its log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from twin_sio.domain import Event


def with_answers(events: Sequence[Event]) -> Iterator[tuple[Event, Event | None]]:
    """Each message of the user's with its answer, in the order of the messages: of several answers the newest that has
    a text; None where there is none among the events."""
    answers = {
        event.in_response_to: event for event in events if event.type == "twin_message" and event.payload["text"]
    }
    for event in events:
        if event.type == "user_message":
            yield event, answers.get(event.message_id)
