"""The settings of the twin: who it is, what it can do, and what an operator puts in its place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic_settings import NoDecode

from twin_sio.config.endpoints import json_object
from twin_sio.config.group import Group
from twin_sio.config.group import env as _env

PERSONA_CHARACTERS: Final = 16_000


def _place(value: str) -> str:
    """`package.module:name`, or nothing."""
    text = value.strip()
    if text and not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", text):
        raise ValueError("it must be package.module:name")
    return text


Place = Annotated[str, AfterValidator(_place)]


class McpServer(BaseModel):
    """One server of tools: a `command` that speaks over its standard streams, or a `url`. Calls of the tools in
    `approve`, by patterns as `delete_*`, wait for their user's approval. Values of `env` and `headers` are secret."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: str = ""
    args: tuple[str, ...] = ()
    env: Mapping[str, SecretStr] = Field(default_factory=dict)
    url: str = ""
    transport: Literal["streamable_http", "sse"] = "streamable_http"
    headers: Mapping[str, SecretStr] = Field(default_factory=dict)
    approve: tuple[str, ...] = ()
    timeout_s: float = Field(30.0, gt=0, le=600)

    def model_post_init(self, _: Any) -> None:
        if bool(self.command) == bool(self.url):
            raise ValueError("a server of tools has a command or a url")


class AgentSettings(Group):
    """The twin"""

    persona: str = _env("TWIN_PERSONA", "", "who the twin is and how it speaks, in words; empty: our own")
    persona_file: Path | None = _env(
        "TWIN_PERSONA_FILE", None, "the same in a file (Markdown), in place of TWIN_PERSONA"
    )
    personas_dir: Path | None = _env(
        "TWIN_PERSONAS_DIR",
        None,
        "personas by name, as `NAME.md`: a user has the one that the claim `twin_persona` of their token names",
    )
    factory: Place = _env(
        "TWIN_AGENT", "", "`package.module:function` that makes the agent, of server and worker; empty: our own"
    )
    graph: Place = _env("TWIN_GRAPH", "", "`package.module:name` of a compiled LangGraph graph that answers instead")
    mcp_servers: Annotated[Mapping[str, McpServer], NoDecode, BeforeValidator(json_object)] = _env(
        "TWIN_MCP_SERVERS",
        {},
        'JSON object of servers of tools by name, as `{"files": {"command": "uvx", "args": ["mcp-files"], '
        '"approve": ["write_*"]}, "search": {"url": "https://..."}}` (extra `mcp`)',
    )
    host_tools: bool = _env("TWIN_HOST_TOOLS", False, "the user's apps may offer tools to the twin")
    approval_s: float = _env(
        "TWIN_APPROVAL_S",
        86_400.0,
        "s that a call waits for its user's approval, then the answer goes on without",
        gt=0,
    )
    shows_reasoning: bool = _env("TWIN_SHOW_REASONING", False, "users see what the model thinks before it answers")
