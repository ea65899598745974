"""What it means that an endpoint refuses, or fails. Pure.

What the far side says is read here, to be told what it means, and goes no further: it may quote a user, a key or an
address.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from twin_sio.errors import (
    ModelContextTooLong,
    ModelFiltered,
    ModelKeyRefused,
    ModelNotFound,
    ModelQuotaGone,
    ModelRateLimited,
    ModelRefused,
    ModelUnavailable,
)

READ_CHARACTERS: Final = 4_000  # of what the far side says
# Of the statuses under 500 those that pass by themselves.
_PASSING: Final = frozenset({408, 409, 425, 429})
# The headers that have it, looked at in this order.
_REQUEST_IDS: Final = ("x-request-id", "request-id", "apim-request-id", "x-amzn-requestid", "cf-ray")

# What the texts of some forty endpoints have in common, by what it means; in lower case.
_TOO_LONG: Final = re.compile(
    r"context[ _-]?(length|window|size)|maximum context|max(imum)?[ _]model[ _]len|too many (input )?tokens"
    r"|(prompt|input|messages?)( is| are)? too (long|large)|reduce (the length|your prompt|the number of messages)"
    r"|(input|prompt) tokens? .{0,40}exceed|exceeds? .{0,60}(token limit|tokens allowed|maximum number of tokens)"
    r"|string_above_max_length|request too large"
)
_FILTERED: Final = re.compile(
    r"content[ _-]?(filter|policy|management|safety)|responsible ?ai|safety (system|setting|polic)|moderation|flagged"
    r"|datainspection|inappropriate content|prohibited[ _]content|usage polic|sensitive (content|words?)|jailbreak"
)
_QUOTA: Final = re.compile(
    r"insufficient[ _-]?(quota|balance|credit|funds?)|exceeded your current quota|billing|payment required"
    r"|(out of|no|enough|more) credits?\b|quota[ _](exhausted|exceeded)|spending limit|credit balance"
)
_NO_MODEL: Final = re.compile(
    r"model[_ -]?(is[_ ])?not[_ -]?(found|exist|supported|available)|model_decommissioned|unknown model|invalid model"
    r"|(no|not a valid) (such )?model|model\W.{0,100}(does not exist|doesn't exist|not found)"
    r"|model\W.{0,100}is not (supported|available)"
    r"|deploymentnotfound|not a valid model|decommissioned"
)
_KEY: Final = re.compile(r"invalid[ _]api[ _-]?key|incorrect api key|api key not valid|invalid_authentication")
_BUSY: Final = re.compile(r"rate[ _-]?limit|too many requests|overloaded|throttl|resource[_ ]exhausted")


@dataclass(frozen=True, slots=True)
class Refusal:
    """What an endpoint answered in place of an answer, in lower case: `param` is the part of the request it names."""

    status: int
    param: str = ""
    code: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """What an operator is told of a failure: nothing of it is the far side's text.

    `code` is the protocol's, `status` HTTP's (0: there was no answer), `error` the kind of what went wrong here.
    """

    code: str
    status: int
    error: str
    request_id: str


class Failed(Exception):
    """An attempt that failed. Another may go better where `again` is true, after `wait_s` where that is told."""

    def __init__(
        self,
        kind: type[ModelUnavailable] = ModelUnavailable,
        *,
        again: bool,
        error: str = "UnusableAnswer",
        status: int = 0,
        request_id: str = "",
        wait_s: float | None = None,
        refusal: Refusal | None = None,
    ) -> None:
        super().__init__(kind.code)
        self.kind = kind
        self.again = again
        self.wait_s = wait_s
        self.refusal = refusal
        self.failure = Failure(kind.code, status, error, request_id)

    def for_caller(self) -> ModelUnavailable:
        """The failure as the rest of the service knows it."""
        return self.kind(retry_after_ms=None if self.wait_s is None else round(self.wait_s * 1000))


def of_status(status: int, headers: Mapping[str, str], body: object, error: str, now: datetime) -> Failed:
    """What an HTTP status other than success means; `error` is the name of its kind here."""
    refusal, wait_s = refusal_of(status, body), retry_after(headers, now)
    kind = _kind(refusal, has_wait=wait_s is not None)
    return Failed(
        kind,
        again=not issubclass(kind, ModelRefused) and (status in _PASSING or status >= 500),
        error=error,
        status=status,
        request_id=request_id(headers),
        wait_s=wait_s,
        refusal=refusal,
    )


def of_object(body: Mapping[str, Any]) -> Failed:
    """What an error object within an answer of status 200 means."""
    refusal = refusal_of(0, body)
    kind = _kind(refusal, has_wait=False)
    again = kind is ModelRateLimited or refusal.status >= 500
    return Failed(kind, again=again, error="ErrorObject", status=refusal.status, refusal=refusal)


def request_id(headers: Mapping[str, str]) -> str:
    """The id under which the far side knows the request; empty where it gives none that looks like one."""
    found = next((value for name in _REQUEST_IDS if (value := headers.get(name))), "")
    return found if re.fullmatch(r"[\w.:-]{1,80}", found) else ""


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """For how many seconds the far side asks to wait: in ms, in seconds, or until a date."""
    for name, unit in (("retry-after-ms", 1000.0), ("x-ms-retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = (headers.get(name) or "").strip()
        if re.fullmatch(r"\d{1,12}(\.\d{0,12})?", value):
            return float(value) / unit
        if name == "retry-after" and value:
            try:
                until = parsedate_to_datetime(value)
            except (ValueError, TypeError, OverflowError):
                return None
            return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - now).total_seconds())
    return None


def refusal_of(status: int, body: object) -> Refusal:
    """What a body says, in whichever of the usual shapes: OpenAI's `error`, FastAPI's `detail`, a list, a text."""
    # Google's has a list around it.
    if isinstance(body, list) and len(body) == 1:
        body = body[0]
    if isinstance(body, dict) and isinstance(body.get("message"), dict | list):
        body = body["message"]
    found = body
    if isinstance(body, dict):
        found = next((body[name] for name in ("error", "errors", "detail") if body.get(name)), body)
        if isinstance(found, str):
            found = {"code": body.get("code"), "param": body.get("param"), "message": found}
    if isinstance(found, list):  # FastAPI: one for each field that is wrong
        fields = [one for one in found[:8] if isinstance(one, dict)]
        params = [".".join(map(str, loc)) for one in fields if isinstance(loc := one.get("loc"), list)]
        said = " ".join(str(one.get("msg", one.get("message", ""))) for one in fields)
        return Refusal(status, _lower(params[0] if params else "").removeprefix("body."), "", _lower(said))
    if not isinstance(found, dict):
        return Refusal(status, message=_lower(found))
    code, inner = found.get("code"), found.get("innererror", found.get("metadata"))
    # Within an answer of 200 the code may be the status that it should have had.
    if not status and isinstance(code, int) and 400 <= code < 600:
        status = code
    about = " ".join(_lower(one) for one in (code, found.get("type"), found.get("status")) if one is not None)
    more = _lower(str(inner)) if isinstance(inner, dict) else ""
    message = _lower(found.get("message") or found.get("msg") or found.get("error"))
    return Refusal(status, _lower(found.get("param")), f"{about} {more}".strip(), message)


def _lower(value: object) -> str:
    return str(value)[:READ_CHARACTERS].lower() if isinstance(value, str | int) else ""


def _kind(refusal: Refusal, *, has_wait: bool) -> type[ModelUnavailable]:
    status, said = refusal.status, f"{refusal.code} {refusal.message}"
    if status == 429 or (not status and _BUSY.search(said)):
        gone = "insufficient_quota" in refusal.code or (
            _QUOTA.search(said) and not has_wait and "resource_exhausted" not in refusal.code
        )
        return ModelQuotaGone if gone else ModelRateLimited
    if status == 402 or "insufficient_quota" in refusal.code:
        return ModelQuotaGone
    if status == 413 or _TOO_LONG.search(said):
        return ModelContextTooLong
    # Before the words below: a gateway that fails may quote anything.
    if status >= 500 or status in _PASSING:
        return ModelUnavailable
    for kind, words in ((ModelKeyRefused, _KEY), (ModelFiltered, _FILTERED), (ModelQuotaGone, _QUOTA)):
        # A 401 that speaks of billing is about the key.
        if words.search(said) and not (kind is ModelQuotaGone and status == 401):
            return kind
    if status in (401, 403, 407):
        return ModelKeyRefused
    if status in (404, 405, 410) or _NO_MODEL.search(said):
        return ModelNotFound
    return ModelRefused if status else ModelUnavailable
