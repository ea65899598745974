"""Words at rest: sealed with the first of the keys, opened with any of them, readable where never sealed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import Any

import bson
from bson.codec_options import CodecOptions
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from twin_sio.errors import StorageUnavailable

_CODEC: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True, tzinfo=UTC)
_UNREADABLE = "The store is sealed with a key that is not set."


class FieldCipher:
    """Fernet (AES-128-CBC, HMAC-SHA256) over several keys; without a key everything is kept as it is.

    What is sealed stands in the database as `{"sealed": bytes}`: no JSON of a client can look like that.
    """

    def __init__(self, keys: Sequence[str] = ()) -> None:
        """Raises `ValueError` for what is no Fernet key: 32 bytes in URL-safe base64."""
        self._keys = MultiFernet([Fernet(key) for key in keys]) if keys else None

    @property
    def seals(self) -> bool:
        """Whether there is a key."""
        return self._keys is not None

    def seal(self, value: Any) -> Any:
        """The value (anything BSON can hold) as it may be stored."""
        if self._keys is None:
            return value
        return {"sealed": self._keys.encrypt(bson.encode({"value": value}))}

    def open(self, stored: Any) -> Any:
        """The value as it was. Raises `StorageUnavailable` where no key fits."""
        if not is_sealed(stored):
            return stored
        if self._keys is None:
            raise StorageUnavailable(_UNREADABLE)
        try:
            return bson.decode(self._keys.decrypt(stored["sealed"]), codec_options=_CODEC)["value"]
        except InvalidToken:
            raise StorageUnavailable(_UNREADABLE) from None


def is_sealed(stored: Any) -> bool:
    """Whether a stored value is sealed."""
    return isinstance(stored, Mapping) and isinstance(stored.get("sealed"), bytes)
