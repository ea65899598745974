"""Ids that reveal nothing: keyed hashes, which cannot be computed without the key."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

from cryptography.fernet import Fernet, InvalidToken

_LENGTH = 32  # bytes of a key, as long as the hash
KEYED = "k"
"""How the name of evidence begins that is made with the key; every name of before is smaller."""


def new_key() -> bytes:
    """A fresh key for `Ids`."""
    return secrets.token_bytes(_LENGTH)


class Ids:
    """What users, evidence and traits are called where their own words must not stand.

    Two keys, both made once and kept in the database, sealed where text is: so that a rotation of the sealing keys
    changes no name. `users` names users; `names`, which is there where text is sealed, names what sealed text says.
    """

    def __init__(self, users: bytes = bytes(_LENGTH), names: bytes | None = None) -> None:
        self._users = users
        self._names = names
        # Hashes do not lead back to the user, and an erasure that is carried out again has to name them: so the id is
        # encrypted until then, under a key of its own.
        self._hidden = Fernet(base64.urlsafe_b64encode(_hash(users, b"hidden", "")))

    @property
    def are_keyed(self) -> bool:
        """Whether evidence and traits are named by a key; without sealing anybody can read what they say anyway."""
        return self._names is not None

    def user(self, user_id: str) -> bytes:
        """What remains of a user after an erasure."""
        return _hash(self._users, b"user", user_id)

    def redis(self, text: str) -> str:
        """A part of a Redis key."""
        # 128 bits: no two users meet, and the keys stay short.
        return _hash(self._users, b"redis", text).hex()[:32]

    def subject(self, user_id: str) -> str:
        """In the place of a user's id where trait ids are made; the user's id itself where nothing is sealed."""
        return user_id if self._names is None else _hash(self._names, b"subject", user_id).hex()

    def evidence(self, user_id: str, evidence_id: str) -> str:
        """What a piece of evidence is called."""
        if self._names is None:
            return legacy_evidence(user_id, evidence_id)
        return KEYED + _hash(self._names, b"evidence", f"{user_id}\x1e{evidence_id}").hex()

    def hide(self, user_id: str) -> bytes:
        """The user's id, for as long as an erasure is not complete."""
        return self._hidden.encrypt(user_id.encode())

    def shown(self, hidden: bytes) -> str | None:
        """The id that was hidden; None where another key hid it."""
        try:
            return self._hidden.decrypt(hidden).decode()
        except InvalidToken:
            return None


def legacy_evidence(user_id: str, evidence_id: str) -> str:
    """The name without a key."""
    return hashlib.sha256(f"{user_id}\x1e{evidence_id}".encode()).hexdigest()


def _hash(key: bytes, purpose: bytes, text: str) -> bytes:
    # The purpose keeps hashes of one text for two uses apart: nobody who sees both can join them.
    return hmac.digest(key, purpose + b"\x1f" + text.encode("utf-8", "surrogatepass"), "sha256")
