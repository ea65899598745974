"""What an endpoint says in place of an answer: its body, whatever the shape, and for how long it asks to wait. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

READ_CHARACTERS: Final = 4_000  # of what the far side says
_READ_DEPTH: Final = 6
# Members of a body, in lower case: no others are read, since a server may send back what it was asked.
_TEXTS: Final = re.compile(
    r"messages?|msg|details?|errors?|reasons?|title|description|error_?(description|message|msg)|fault(string)?"
    r"|status_msg|base_resp|innererror|metadata|raw"
)
_CODES: Final = re.compile(r"code|type|status|status_?code|error_?(code|type)|__type")
_CALL: Final = re.compile(r"tool_use_failed|failed to call a function|malformed_function_call")
_A_TIME_S: Final = 100_000_000.0  # seconds: from here on it is a time, since 1970


@dataclass(frozen=True, slots=True)
class Refusal:
    """What an endpoint answered in place of an answer, in lower case: `param` is the part of the request it names."""

    status: int
    param: str = ""
    code: str = ""
    message: str = ""
    wait_s: float | None = None  # for which it asks in its body, as Google does

    @property
    def is_of_a_call(self) -> bool:
        """Whether it is about a call that the model wrote wrongly: it may write another the next time."""
        return _CALL.search(f"{self.code} {self.message}") is not None


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


def reset_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """In how many seconds a limit that is used up is lifted: the longest of those, where no other wait is asked for.
    Servers write it in seconds, as `1m30s`, or as a time in seconds or milliseconds."""
    found = []
    for of in ("", "-requests", "-tokens"):
        for name in ("x-ratelimit", "ratelimit"):
            if (headers.get(f"{name}-remaining{of}") or "0").strip() == "0":
                found.append(_seconds((headers.get(f"{name}-reset{of}") or "").strip().lower(), now))
    return max((one for one in found if one is not None), default=None)


def _seconds(text: str, now: datetime) -> float | None:
    if re.fullmatch(r"\d{1,14}(\.\d{1,12})?", text):
        count = float(text)
        if count < _A_TIME_S:
            return count
        return max(0.0, (count if count < _A_TIME_S * 1000 else count / 1000) - now.timestamp())
    return _duration(text)


def _duration(text: str) -> float | None:
    """The seconds of `1m30s`, `6ms` and their like."""
    if not re.fullmatch(r"(\d{1,6}(\.\d{1,12})?(ms|h|m|s))+", text):
        return None
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    return sum(float(count) * units[unit] for count, unit in re.findall(r"([\d.]+)(ms|h|m|s)", text))


@dataclass(slots=True)
class _Read:
    """What was found in a body."""

    params: list[str]
    codes: list[str]
    texts: list[str]
    wait_s: float | None = None


def refusal_of(status: int, body: object) -> Refusal:
    """What a body says, whatever its shape: OpenAI's `error`, FastAPI's `detail`, the `message` beside a bare title of
    Fastify and Spring, a list of any of these, or a text."""
    read = _Read([], [], [])
    _gather(body, read, _READ_DEPTH)
    if not status:  # within an answer of 200 a code may be the status that it should have had
        status = next((int(code) for code in read.codes if re.fullmatch(r"[45]\d\d", code)), 0)
    param = next(filter(None, read.params), "")
    return Refusal(status, param, " ".join(read.codes), " ".join(read.texts)[:READ_CHARACTERS], read.wait_s)


def _gather(found: object, read: _Read, depth: int) -> None:
    if isinstance(found, str):
        read.texts.append(_lower(found))
    if not depth:
        return
    if isinstance(found, list):
        for one in found[:8]:
            _gather(one, read, depth - 1)
    if not isinstance(found, dict):
        return
    for name, value in [*found.items()][:40]:
        name = str(name).lower()
        if name == "param":
            read.params.append(_lower(value))
        elif name == "loc" and isinstance(value, list):  # FastAPI's, for each field that is wrong
            read.params.append(_lower(".".join(map(str, value))).removeprefix("body."))
        elif name == "retrydelay" and isinstance(value, str):
            read.wait_s = _duration(value.strip().lower())
        elif _CODES.fullmatch(name) and not isinstance(value, dict | list | bool):
            read.codes.append(_lower(value))
        elif _TEXTS.fullmatch(name):
            _gather(value, read, depth - 1)


def _lower(value: object) -> str:
    return str(value)[:READ_CHARACTERS].lower() if isinstance(value, str | int) else ""
