"""Durable events that not every client knows: what the others get in their place, so that no seq is missing to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from twin_sio.protocol import SERVER_EVENTS
from twin_sio.transport.frames import EncodedFrame, event_frame

_FEATURES: Mapping[bytes, str] = {
    b'2["%s",' % name.encode(): event.feature for name, event in SERVER_EVENTS.items() if event.feature is not None
}
_BEGINNINGS = tuple(_FEATURES)


@dataclass(frozen=True, slots=True)
class NewerEvent:
    """For an event of a type that was added later: the feature by which a client says that it knows it, and the frame
    for one that does not."""

    feature: str
    in_its_place: EncodedFrame


def newer_event(frame: EncodedFrame) -> NewerEvent | None:
    """None for nearly every event: told by how its frame begins, which is all that this costs it."""
    if not frame.raw.startswith(_BEGINNINGS):
        return None
    envelope = orjson.loads(frame.envelope)
    metadata = envelope["metadata"]
    # About the user's own message, which they have read: it changes nothing that an older client shows.
    receipt = {
        "type": "read_receipt",
        "payload": {"message_id": metadata.get("in_response_to", metadata["message_id"])},
        "metadata": {key: value for key, value in metadata.items() if key != "in_response_to"},
    }
    feature = _FEATURES[frame.raw[: frame.raw.index(b",") + 1]]
    return NewerEvent(feature, event_frame("read_receipt", receipt))
