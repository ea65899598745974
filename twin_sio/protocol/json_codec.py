"""orjson for python-socketio's packets, on the server's side and on the client's."""

from __future__ import annotations

from typing import Any

import orjson


class OrjsonCodec:
    """orjson behind the two functions of the `json` module that packets call."""

    @staticmethod
    def dumps(value: object, **_: object) -> str:
        return orjson.dumps(value).decode()

    @staticmethod
    def loads(text: str | bytes, **_: object) -> Any:
        return orjson.loads(text)
