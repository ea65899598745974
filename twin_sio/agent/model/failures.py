"""What it means that an endpoint refuses, or fails. Pure.

What the far side says is read here, to be told what it means, and goes no further: it may quote a user, a key or an
address.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from twin_sio.agent.model.refusals import Refusal, refusal_of, reset_after, retry_after
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

# Of the statuses under 500 those that pass by themselves; 424 is a backend's failure, as TGI and routers tell it.
_PASSING: Final = frozenset({408, 409, 424, 425, 429})
# The headers that have it, looked at in this order.
_REQUEST_IDS: Final = ("x-request-id", "request-id", "apim-request-id", "x-amzn-requestid", "cf-ray")
# What the texts of some sixty endpoints have in common, by what it means; in lower case.
_TOO_LONG: Final = re.compile(
    r"context[ _-]?(length|window|size|limit)|maximum (context|(prompt|input) length)|max(imum)?[ _]model[ _]len"
    r"|too many (input )?tokens|(prompt|input|messages?)( is| are)? too (long|large)"
    r"|reduce (the length|your prompt|the number of messages)|(input|prompt) tokens? .{0,40}exceed"
    r"|(input|prompt)s?`?[ _](length|tokens?)\b.{0,40}(should|must) be"
    r"|exceed(s|ed)? .{0,60}(tokens? limit|tokens allowed|maximum number of tokens|(input|prompt) length)"
    r"|string_above_max_length|request too large"
)
_FILTERED: Final = re.compile(
    r"content[ _-]?(filter|policy|management|safety)|responsible ?ai|safety[ _](system|setting|polic|check)|moderation"
    r"|flagged|data_?inspection|inappropriate content|prohibited[ _]content|usage (polic|guideline)|guardrail|jailbreak"
    r"|sensitive (content|words?)|(new|input|output)_sensitive|content exists risk|considered high risk"
)
_QUOTA: Final = re.compile(
    r"insufficient[ _-]?(quota|balance|credit|funds?)|exceeded your current quota|billing|payment required"
    r"|(out of|no|enough|more|included) credits?\b|quota[ _](exhausted|exceeded)|spending limit|credit balance"
    r"|budget[ _](has been )?exceeded|exceeded ?budget|over budget|api usage limits|arrear|in good standing"
)
_NO_MODEL: Final = re.compile(
    r"model[_ -]?(is[_ ])?not[_ -]?(found|exist|supported|available)|(unknown|invalid|unsupported) model\b"
    r"|(no|not a valid) (such )?model|model (identifier|id|name) is (invalid|unknown)|deploymentnotfound|decommissioned"
    r"|model\W.{0,100}(does not exist|doesn.t exist|not found|is(n.t| not) (supported|available)"
    r"|(has been|was) (retired|removed|shut down))"
)
_KEY: Final = re.compile(
    r"(invalid|incorrect|expired|missing)[ _](api[ _-]?)?key|unauthori[sz]ed|invalid (access |api )?token\b"
    r"|api[ _-]?key[ _](is )?(not[ _](valid|found)|expired|invalid)|authentication[ _](error|failed|required)"
    r"|invalid_authentication"
)
_BUSY: Final = re.compile(
    r"rate[ _-]?limit|too many requests|overloaded|throttl|resource[_ ]exhausted|capacity[ _]exceeded"
    r"|(at|over|exceed\w*) capacity"
)
# Of an error within an answer of 200 that has no status: the server's own failures.
_ITS_OWN: Final = re.compile(r"(server|internal|api)[ _]?error|unavailable|time(d |_)?out|try again")
_ALONE_TOO_LONG: Final = re.compile(r"request too large|tokens must be reduced")  # no wait makes it shorter


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
    wait_s = refusal.wait_s if wait_s is None else wait_s
    kind = _kind(refusal, has_wait=wait_s is not None)
    passes = kind is ModelRateLimited or status in _PASSING or status >= 500 or refusal.is_of_a_call
    if status == 429 and wait_s is None:
        wait_s = reset_after(headers, now)
    return Failed(
        kind,
        again=passes and not issubclass(kind, ModelRefused),
        error=error,
        status=status,
        request_id=request_id(headers),
        wait_s=wait_s,
        refusal=refusal,
    )


def of_object(body: object) -> Failed:
    """What an error object within an answer of status 200 means."""
    refusal = refusal_of(0, body)
    kind = _kind(refusal, has_wait=refusal.wait_s is not None)
    own = refusal.status >= 500 or refusal.status in _PASSING
    if kind is ModelUnavailable and not refusal.status:
        own = _ITS_OWN.search(f"{refusal.code} {refusal.message}") is not None
    again = kind is ModelRateLimited or (own and not issubclass(kind, ModelRefused))
    wait_s = refusal.wait_s
    return Failed(kind, again=again, error="ErrorObject", status=refusal.status, wait_s=wait_s, refusal=refusal)


def no_api(error: str) -> Failed:
    """What answers under a status of success, and is not of this API: `error` says what it is instead."""
    return Failed(ModelNotFound, again=False, error=error, status=200)


def in_place_of_answer(body: object) -> Failed:
    """What JSON means that came under a status of success, and is no answer: the failure that it names, if any."""
    failed = of_object(body)
    said = failed.refusal is not None and (failed.refusal.message or failed.refusal.status)
    return failed if said else no_api("OtherJson")


def request_id(headers: Mapping[str, str]) -> str:
    """The id under which the far side knows the request; empty where it gives none that looks like one."""
    found = next((value for name in _REQUEST_IDS if (value := headers.get(name))), "")
    return found if re.fullmatch(r"[\w.:-]{1,80}", found) else ""


def _kind(refusal: Refusal, *, has_wait: bool) -> type[ModelUnavailable]:
    status, said = refusal.status, f"{refusal.code} {refusal.message}"
    if status == 429 and _ALONE_TOO_LONG.search(said):
        return ModelContextTooLong
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
    if status >= 500 or status in _PASSING or refusal.is_of_a_call:
        return ModelUnavailable
    for kind, words in ((ModelKeyRefused, _KEY), (ModelFiltered, _FILTERED), (ModelQuotaGone, _QUOTA)):
        # A 401 that speaks of billing is about the key.
        if words.search(said) and not (kind is ModelQuotaGone and status == 401):
            return kind
    # Some gateways keep no status for it, as AWS' 400 for throttling, or one of their own, as Groq's 498.
    if _BUSY.search(said):
        return ModelRateLimited
    if status in (401, 403, 407):
        return ModelKeyRefused
    if status in (404, 405, 410) or _NO_MODEL.search(said):
        return ModelNotFound
    return ModelRefused if status else ModelUnavailable
