"""orjson for python-socketio's packets, on the server's side and on the client's."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

_HALF = re.compile(r"\\u[dD][89a-fA-F]")


class OrjsonCodec:
    """orjson behind the two functions of the `json` module that packets call."""

    @staticmethod
    def dumps(value: object, **_: object) -> str:
        return orjson.dumps(value).decode()

    @staticmethod
    def loads(text: str | bytes, **_: object) -> Any:
        return orjson.loads(text)


def loads_leniently(text: str) -> Any:
    """JSON in which a text may hold half of a surrogate pair, as browsers send what was cut in the midst of an emoji:
    its event can be refused by its id, where orjson would read nothing of it. Raises `ValueError`."""
    try:
        return orjson.loads(text)
    except ValueError:
        if _HALF.search(text) is None:
            raise
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("It nests too deep.") from None


def _refuse(_: str) -> None:
    raise ValueError("This is no JSON.")
