"""Whom a command connects as, and where to."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version

from twin_sio.client import Hook, TwinClient
from twin_sio.dev_tokens import create_token, token_provider

THIS_DEVICE = platform.node() or "terminal"


@dataclass(frozen=True, slots=True)
class Target:
    """An address, and the token to use there: the one that was given, or one made from the secret for `sub`."""

    url: str
    token: str
    sub: str
    secret: str
    session: str = ""
    on_envelope: Hook | None = None

    def a_token(self) -> str:
        """A token that is good now, as far as this side can know."""
        return self.token or create_token(self.sub, self.secret)

    def client(self, device: str, session: str | None = None, transports: Sequence[str] = ("websocket",)) -> TwinClient:
        """A client that is not connected yet; `session` None takes the one that was asked for."""
        return TwinClient(
            self.url,
            self.token or token_provider(self.sub, self.secret),
            session_id=(self.session if session is None else session) or None,
            device={"name": device, "platform": "cli", "app_version": version()},
            transports=transports,
            on_envelope=self.on_envelope if session is None else None,
        )


def version() -> str:
    """The installed version of this package."""
    try:
        return installed_version("twin-sio")
    except PackageNotFoundError:
        return "0+not.installed"
