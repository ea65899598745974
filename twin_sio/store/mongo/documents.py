"""Evidence and traits as they stand in documents, of this version and of earlier ones."""

from __future__ import annotations

from twin_sio.domain import Entity, Evidence, Trait
from twin_sio.store.mongo.client import Doc


def piece_of(opened: Doc) -> Evidence:
    """A stored piece; what was stored before there were versions is of the first."""
    return Evidence(**{"version": 1, **opened, "entity": _entity(opened)})


def trait_of(opened: Doc) -> Trait:
    """A stored trait."""
    return Trait(**{**opened, "entity": _entity(opened), "names": tuple(opened.get("names", ()))})


def _entity(opened: Doc) -> Entity | None:
    entity = opened.get("entity")
    return Entity(**entity) if entity is not None else None
