"""Variables that were settings once: a start that still sets one is refused with what takes its place."""

from __future__ import annotations

from collections.abc import Iterable

from twin_sio.config.groups import ScoreWeights

# What no operator had to change, by the field of `Tuning` that it is now.
_CONSTANTS = {
    "TWIN_AUTH_EXPIRING_S": "auth_expiring_s",
    "TWIN_CHUNK_INTERVAL_MS": "chunk_interval_ms",
    "TWIN_CONNECTION_QUEUE": "connection_queue",
    "TWIN_EMBEDDINGS_FLOOR": "embeddings_floor",
    "TWIN_HANDSHAKE_S": "handshake_s",
    "TWIN_JOB_TIMEOUT_S": "job_timeout_s",
    "TWIN_LIMIT_GENERATIONS": "generations_per_user",
    "TWIN_LIMIT_OWED": "pending_turns_per_user",
    "TWIN_MODEL_STALL_S": "model_stall_s",
    "TWIN_RECALL_MS": "recall_ms",
    "TWIN_SLOW_SOFT_BYTES": "slow_soft_bytes",
    "TWIN_SLOW_STUCK_S": "slow_stuck_s",
    "TWIN_STALE_S": "stale_s",
    "TWIN_TURN_LEASE_S": "turn_lease_s",
    "TWIN_TURN_QUEUE": "turn_queue",
}
_PRICES = ("TWIN_MODEL_PRICE_READ", "TWIN_MODEL_PRICE_WRITTEN")

REMOVED: dict[str, str] = {
    **{
        f"TWIN_SCORE_{field.upper()}": f"set TWIN_SCORE_WEIGHTS='{{\"{field}\": ...}}' instead"
        for field in ScoreWeights.model_fields
    },
    **{name: f"it is the constant `Tuning.{field}` in twin_sio/config" for name, field in _CONSTANTS.items()},
    **dict.fromkeys(_PRICES, "multiply twin_model_tokens_total by the price in your dashboard instead"),
}


def first_removed(names: Iterable[str]) -> str | None:
    """A sentence about the first of these variables that is no longer a setting, `None` if all are fine."""
    for name in names:
        if name in REMOVED:
            return f"{name} is no longer a setting: {REMOVED[name]}."
    return None
