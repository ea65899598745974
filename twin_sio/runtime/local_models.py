"""Model servers that a developer already runs on this machine: found at the start, and offered in place of the tiny
model."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import orjson

from twin_sio.domain import Json

_PATIENCE_S = 0.3  # for all of them together
_BODY_MAX = 262_144  # bytes
_SHOWN_MAX = 8  # models of a server
# What listens there may be anything: a name that is no model's is not printed, and not put into a command.
_NAME = re.compile(r"[\w.:/@+-]{1,100}", re.ASCII)
_NO_CHAT = re.compile(r"embed|bert|rerank|whisper", re.IGNORECASE)


_FIRST_MODEL: Final[Mapping[str, str]] = {"Ollama": "ollama pull llama3.2", "LM Studio": "lms get llama-3.2-3b"}
"""The servers, and how each gets a first model."""


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A server with models that can chat."""

    server: str
    base_url: str
    names: tuple[str, ...]

    def command(self, start: str) -> str:
        """The line that starts the service with its first model."""
        return f"OPENAI_BASE_URL={self.base_url} TWIN_MODEL={shlex.quote(self.names[0])} {start}"


class LocalModels:
    """Looks once, at Ollama's address and at LM Studio's, and never beyond this machine."""

    def __init__(self, ollama: str = "http://127.0.0.1:11434", lm_studio: str = "http://127.0.0.1:1234") -> None:
        self._ollama = ollama
        self._lm_studio = lm_studio
        self.found: tuple[LocalModel, ...] = ()
        self._empty: tuple[str, ...] = ()  # servers without a model that chats, as right after they were installed

    async def look(self) -> None:
        """Fill `found` with those that answer in time and have models; whatever they answer, nothing is raised."""
        # What the environment says of proxies is not asked: a proxy is another machine.
        async with aiohttp.ClientSession(auto_decompress=False, trust_env=False) as http:
            lists = await asyncio.gather(
                _listed(http, f"{self._ollama}/api/tags", "models", "name"),
                _listed(http, f"{self._lm_studio}/v1/models", "data", "id"),
            )
        servers = [*zip(_FIRST_MODEL, (self._ollama, self._lm_studio), lists, strict=True)]
        self.found = tuple(LocalModel(name, f"{address}/v1", names) for name, address, names in servers if names)
        self._empty = tuple(name for name, _, names in servers if names == ())

    def lines(self, start: str) -> Sequence[str]:
        """What the banner says of them; `start` is the command that starts the service."""
        lines: list[str] = []
        for one in self.found:
            others = f" (it has {', '.join(one.names)})" if len(one.names) > 1 else ""
            lines += [f"{one.server} runs on this machine{others}:", f"  {one.command(start)}"]
        for server in self._empty:
            lines += [
                f"{server} runs on this machine, and has no model yet:",
                f"  {_FIRST_MODEL[server]}   # then start again",
            ]
        return lines

    def offers(self, start: str) -> Sequence[Json]:
        """The same for the chat page."""
        return [{"server": one.server, "models": list(one.names), "command": one.command(start)} for one in self.found]


async def _listed(http: aiohttp.ClientSession, url: str, listed: str, name: str) -> tuple[str, ...] | None:
    """The names of the models that a server lists; None where it answers with no list."""
    with suppress(aiohttp.ClientError, OSError, TimeoutError, ValueError, RecursionError):
        async with asyncio.timeout(_PATIENCE_S), http.get(url, allow_redirects=False) as answer:
            if answer.status == 200:
                return _names(orjson.loads(await _body(answer)), listed, name)
    return None


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    body = b""
    async for part in answer.content.iter_any():
        body += part
        if len(body) > _BODY_MAX:
            raise ValueError("more than a list of models")
    return body


def _names(body: Any, listed: str, name: str) -> tuple[str, ...] | None:
    entries = body.get(listed) if isinstance(body, dict) else None
    if not isinstance(entries, list):
        return None
    names = [one.get(name) for one in entries if isinstance(one, dict)]
    good = [one for one in names if isinstance(one, str) and _NAME.fullmatch(one) and not _NO_CHAT.search(one)]
    return tuple(dict.fromkeys(good))[:_SHOWN_MAX]
