"""Every failure a client can see.

    ServiceError                      becomes an `error` event (or a refused handshake)
    ├── InvalidMessage                invalid_message, with the field's path
    ├── UnknownType                   unknown_type: no event of this name
    ├── TooLarge                      too_large, with the bound
    ├── Forbidden                     forbidden: the token lacks the scope
    ├── NotFound                      not_found
    ├── AlreadyDecided                already_decided: an approval counts once
    ├── RateLimited                   rate_limited, with a true retry_after_ms
    ├── Busy                          busy: too many answers are owed
    ├── Overloaded                    overloaded, with retry_after_ms
    ├── StorageUnavailable            storage_unavailable
    │   └── TooLate                   storage_unavailable: the user was erased since this began
    ├── ModelUnavailable              model_unavailable
    │   ├── ModelTimeout              model_timeout
    │   ├── ModelRateLimited          model_rate_limited, with retry_after_ms where the endpoint tells
    │   └── ModelRefused              model_refused: asked again the same way, it refuses again
    │       ├── ModelKeyRefused       model_key_refused
    │       ├── ModelNotFound         model_not_found: the model, or the address
    │       ├── ModelQuotaGone        model_quota_gone
    │       ├── ModelContextTooLong   model_context_too_long
    │       ├── ModelFiltered         model_filtered: by the endpoint's own rules
    │       └── ModelNoAnswer         model_no_answer: it thought, and said nothing
    ├── AuthExpired                   auth_expired
    └── HandshakeRefused              the codes of a refused handshake

Any other exception is a defect: the gateway logs it under a fresh `error_id` and sends the client `internal` with that
id, and nothing else. No text here is ever made from an exception or from a user's text.

`EngineFailure` is what operators are told of an engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

_COME_BACK_MIN_MS = 100


class ServiceError(Exception):
    """A failure with a code the protocol knows. `message` is for people and safe to show."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    text: ClassVar[str] = "Something went wrong on our side."

    def __init__(
        self, message: str | None = None, *, field: str | None = None, retry_after_ms: int | None = None
    ) -> None:
        self.message = message or self.text
        self.field = field
        self.retry_after_ms = retry_after_ms
        super().__init__(self.code)


class InvalidMessage(ServiceError):
    code = "invalid_message"
    text = "The message does not follow the protocol."


class UnknownType(ServiceError):
    code = "unknown_type"
    text = "There is no event of this name."


class TooLarge(ServiceError):
    code = "too_large"
    text = "The message is larger than the limit."


class Forbidden(ServiceError):
    code = "forbidden"
    text = "The token's scopes do not allow this."


class NotFound(ServiceError):
    code = "not_found"
    text = "There is no such message or trait of yours."


class AlreadyDecided(ServiceError):
    code = "already_decided"
    text = "This was decided before, or its time is over."


class RateLimited(ServiceError):
    """`retry_after_ms` is at least 100: of clients that come back after less, each would take another's place."""

    code = "rate_limited"
    retryable = True
    text = "Too many at once: try again after the time given."

    def __init__(self, message: str | None = None, *, retry_after_ms: int) -> None:
        super().__init__(message, retry_after_ms=max(_COME_BACK_MIN_MS, retry_after_ms))


class Busy(ServiceError):
    code = "busy"
    retryable = True
    text = "Too many messages of this conversation wait for an answer."


class Overloaded(ServiceError):
    code = "overloaded"
    retryable = True
    text = "Too busy for more: try again after the time given."


class StorageUnavailable(ServiceError):
    code = "storage_unavailable"
    retryable = True
    text = "Nothing was stored: send it again."


class TooLate(StorageUnavailable):
    """The user was erased since this began. A client that still has something to say says it in a new session."""


class ModelUnavailable(ServiceError):
    code = "model_unavailable"
    retryable = True
    text = "The model cannot be reached."


class ModelTimeout(ModelUnavailable):
    code = "model_timeout"
    text = "The model took too long."


class ModelRateLimited(ModelUnavailable):
    code = "model_rate_limited"
    text = "The model is asked too often: try again later."


class ModelRefused(ModelUnavailable):
    """For good: asked again the same way, the endpoint refuses again."""

    code = "model_refused"
    retryable = False
    text = "The model refuses what it is asked."


class ModelKeyRefused(ModelRefused):
    code = "model_key_refused"
    text = "The model refuses this service's key: its operator has to look at it."


class ModelNotFound(ModelRefused):
    code = "model_not_found"
    text = "There is no such model where this service looks for it: its operator has to look at it."


class ModelQuotaGone(ModelRefused):
    code = "model_quota_gone"
    text = "What this service may use of the model is used up: its operator has to look at it."


class ModelContextTooLong(ModelRefused):
    code = "model_context_too_long"
    text = "The message is too long for the model: write a shorter one."


class ModelFiltered(ModelRefused):
    code = "model_filtered"
    text = "The model's provider does not let this through: put it in other words."


class ModelNoAnswer(ModelRefused):
    code = "model_no_answer"
    text = "The model thought for as long as an answer may be, and said nothing."


class AuthExpired(ServiceError):
    code = "auth_expired"
    text = "The token has expired: connect with a fresh one."


class HandshakeRefused(ServiceError):
    """A handshake that is refused: sent as Socket.IO's `connect_error` data."""

    def __init__(self, code: str, message: str, *, retryable: bool = False, retry_after_ms: int | None = None) -> None:
        super().__init__(message, retry_after_ms=retry_after_ms)
        self.reason = code
        self.may_retry = retryable

    def as_data(self) -> dict[str, object]:
        """`{code, message, retryable, retry_after_ms?}`."""
        data: dict[str, object] = {"code": self.reason, "message": self.message, "retryable": self.may_retry}
        if self.retry_after_ms is not None:
            data["retry_after_ms"] = self.retry_after_ms
        return data


@dataclass(frozen=True, slots=True)
class EngineFailure:
    """What is wrong with MongoDB or Redis, for operators: a `kind` for logs, of a small fixed set, and a `sentence`."""

    kind: str
    sentence: str


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what was behind it, the first cause last."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
