"""Events, evidence and traits as they stand in documents, of this version and of earlier ones."""

from __future__ import annotations

from dataclasses import fields

from twin_sio.domain import Entity, Event, Evidence, Trait
from twin_sio.store.encryption import FieldCipher
from twin_sio.store.mongo.client import Doc


def event_of(doc: Doc, sealer: FieldCipher) -> Event:
    """A stored event, opened."""
    return Event(
        user_id=doc["user_id"],
        seq=doc["seq"],
        type=doc["type"],
        message_id=doc["message_id"],
        conversation_id=doc["conversation_id"],
        at=doc["at"],
        payload=sealer.open(doc["payload"]),
        session_id=doc["session_id"],
        in_response_to=doc["in_response_to"],
        epoch=doc.get("epoch", 0),
    )


def piece_of(opened: Doc) -> Evidence:
    """A stored piece; what was stored before there were versions is of the first."""
    return Evidence(**{"version": 1, **opened, "entity": _entity(opened)})


_OF_A_TRAIT = frozenset(field.name for field in fields(Trait))


def trait_of(opened: Doc) -> Trait:
    """A stored trait; what only a later version knows of it is left out, as instances of two versions run together."""
    known = {name: value for name, value in opened.items() if name in _OF_A_TRAIT}
    return Trait(**{**known, "entity": _entity(opened), "names": tuple(opened.get("names", ()))})


def _entity(opened: Doc) -> Entity | None:
    entity = opened.get("entity")
    return Entity(**entity) if entity is not None else None
