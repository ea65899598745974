"""What is said of variables that are no settings, or no longer, and of values that cannot be used: never the value,
which may be a secret."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from difflib import get_close_matches
from typing import Any, Final, NamedTuple

from twin_sio.config.groups import ScoreWeights

# By the type of the error; what is in braces is a bound of ours.
_REASONS: Final = {
    "literal_error": "it must be {expected}",
    "greater_than_equal": "it must be {ge} or more",
    "greater_than": "it must be more than {gt}",
    "less_than_equal": "it must be {le} or less",
    "less_than": "it must be less than {lt}",
    "extra_forbidden": "there is no such key",
    "json_invalid": "it is not a JSON object",
}
_KINDS: Final = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a number",
    "bool": "true or false",
    "string": "a text",
    "path": "a path",
    "tuple": "a list",
    "mapping": "a JSON object",
    "dict": "a JSON object",
    "model": "a JSON object",
}


def reason_of(error: Any) -> str:
    """Of an error of pydantic's, as `ValidationError.errors` has it: with its own text only where that is ours."""
    kind = str(error["type"])
    if kind == "value_error":
        return str(error["msg"]).removeprefix("Value error, ")
    if kind in _REASONS:
        bounds = {name: _shown(bound) for name, bound in error.get("ctx", {}).items()}
        return _REASONS[kind].format(**bounds)
    wanted = _KINDS.get(kind.partition("_")[0])
    return f"it must be {wanted}" if wanted else "it cannot be used"


def _shown(bound: object) -> str:
    return str(bound).removesuffix(".0").replace("'", "")


# -- variables that were settings once: a start that still sets one is refused with what takes its place --------------

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


# -- variables that are no settings: most are misspelt, and would be waited for in vain -------------------------------

_PREFIX: Final = "TWIN_"
# Read by the command line, and by deploy/docker-compose.yml.
_OF_OTHERS: Final = ("TWIN_URL", "TWIN_TOKEN", "TWIN_REDIS_PASSWORD")
_OF_SERVICE: Final = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_\w+)?)$")
_NEAR: Final = 0.75  # as `difflib` has it, from 0 to 1


class UnknownVariable(NamedTuple):
    """A variable that nothing reads, and the setting whose name is the nearest; empty: none is near."""

    name: str
    nearest: str

    def __str__(self) -> str:
        return f"{self.name} is no setting and is ignored. {self.advice}"

    @property
    def advice(self) -> str:
        """What to do about it."""
        return f"Is it {self.nearest}?" if self.nearest else "docs/configuration.md has them all."


def unknown_variables(names: Iterable[str], known: Iterable[str]) -> list[UnknownVariable]:
    """Those of `names` that look like a setting, and are none of `known`."""
    read = {*known, *_OF_OTHERS}
    given = {name.upper(): name for name in names}  # case does not matter in a setting's name
    found = [name for name in sorted(given) if name.startswith(_PREFIX) and name not in read]
    return [
        UnknownVariable(given[name], next(iter(get_close_matches(name, read, 1, _NEAR)), ""))
        for name in found
        if not _is_of_kubernetes(name, given)
    ]


def _is_of_kubernetes(name: str, names: Container[str]) -> bool:
    """Whether it tells of a Service whose name begins with `twin`: pods are given such variables."""
    service = _OF_SERVICE.sub("", name)
    return service != name and f"{service}_SERVICE_HOST" in names
