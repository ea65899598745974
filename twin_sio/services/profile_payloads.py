"""What of the profile goes to clients, and how much of it at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import orjson

from twin_sio.agent.explanation import FORMULA, Explanation, Reason
from twin_sio.clock import iso
from twin_sio.domain import Json, Trait, TraitChange

_UPDATE_CHARACTERS = 128 * 1024  # of a profile_update
_SHOWN_WHOLE = 200  # traits that fit into a frame, whatever they are
_PROFILE_BYTES = 256_000  # of the traits that a client is shown, so that it can read them in one frame


def profile_payload(version: int, as_of: datetime, traits: Sequence[Trait]) -> Json:
    """The profile as clients see it. Where it is more than they can read at once, what is applied and surest."""
    payload: dict[str, Any] = {"version": version, "as_of": iso(as_of)}
    shown = [trait_payload(trait) for trait in traits]
    if len(shown) > _SHOWN_WHOLE:
        ranked = sorted(range(len(shown)), key=lambda at: (traits[at].status != "applied", -traits[at].confidence, at))
        left, fitting = _PROFILE_BYTES, set()
        for at in ranked:
            left -= len(orjson.dumps(shown[at])) + 1
            if left < 0:
                payload["has_more"] = True
                break
            fitting.add(at)
        shown = [trait for at, trait in enumerate(shown) if at in fitting]
    return {**payload, "traits": shown}


def trait_payload(trait: Trait) -> dict[str, Any]:
    """A trait as clients see it; confidence to four decimals."""
    payload: dict[str, Any] = {
        "trait_id": trait.trait_id,
        "key": trait.key,
        "value": trait.value,
        "status": trait.status,
        "confidence": round(trait.confidence, 4),
        "supporting": round(trait.supporting, 4),
        "opposing": round(trait.opposing, 4),
        "valid_from": iso(trait.valid_from),
        "pinned": trait.pinned,
    }
    if trait.valid_to is not None:
        payload["valid_to"] = iso(trait.valid_to)
    if trait.when:
        payload["when"] = trait.when
    if trait.is_denied:
        payload["denied"] = True
    return payload | _entity_payload(trait)


def _entity_payload(trait: Trait) -> dict[str, Any]:
    """Who the trait is of; nothing where that is the user."""
    if trait.entity is None:
        return {}
    known = {name: value for name, value in asdict(trait.entity).items() if value}
    return {"entity": known}


def why_payload(explanation: Explanation) -> Json:
    trait = explanation.trait
    numbers = {"confidence": trait.confidence, "supporting": trait.supporting, "opposing": trait.opposing}  # unrounded
    evidence = [_reason_payload(reason) for reason in explanation.reasons]
    return {**trait_payload(trait), **numbers, "as_of": iso(trait.as_of), "formula": FORMULA, "evidence": evidence}


def _reason_payload(reason: Reason) -> Json:
    piece = reason.piece
    return {
        "side": reason.side,
        "kind": piece.kind,
        "polarity": piece.polarity,
        "value": piece.value,
        "weight": reason.weight,
        "decay": reason.decay,
        "repeat": reason.repeat,
        "effective": reason.effective,
        "age_days": reason.age_days,
        "quote": piece.quote,
        "message_id": piece.message_id,
        "session_id": piece.session_id,
        "observed_at": iso(piece.observed_at),
        "extractor": piece.extractor,
    } | ({"when": piece.when} if piece.when else {})


def changes_payload(changes: Sequence[TraitChange]) -> dict[str, Any]:
    """As many changes as fit into a frame; of more `has_more` tells, and the profile holds them."""
    payload: list[dict[str, Any]] = []
    left = _UPDATE_CHARACTERS
    for change in changes:
        left -= len(change.trait.value) + len(change.previous or "") + len(change.trait.key) + 150
        if left < 0 and payload:
            return {"changes": payload, "has_more": True}
        payload.append(change_payload(change))
    return {"changes": payload}


def change_payload(change: TraitChange) -> dict[str, Any]:
    trait = change.trait
    payload: dict[str, Any] = {
        "trait_id": trait.trait_id,
        "key": trait.key,
        "value": trait.value,
        "confidence": round(trait.confidence, 4),
        "status": trait.status,
        "reason": change.reason,
    }
    if change.previous is not None:
        payload["previous"] = change.previous
    return payload | _entity_payload(trait)
