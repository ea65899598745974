"""The options that several commands share, and how a command runs and fails."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import Annotated

import orjson
import typer

from twin_sio.cli import batch as pipe
from twin_sio.cli.printable import PrintableStream, printable
from twin_sio.client import ClientError

Url = Annotated[str, typer.Option(envvar="TWIN_URL", help="Where the service is.")]
Token = Annotated[str, typer.Option(envvar="TWIN_TOKEN", help="The JWT to connect with.", show_default=False)]
Sub = Annotated[str, typer.Option(help="Without a token: the user to make a development token for.")]
Secret = Annotated[
    str,
    typer.Option(
        envvar="TWIN_JWT_SECRET", help="What development tokens are signed with: the server's.", show_default=False
    ),
]
Session = Annotated[str, typer.Option(help="Session id; a fresh one if left out.", show_default=False)]
DeviceName = Annotated[str, typer.Option(help="What other devices see this one as.")]
Conversation = Annotated[str, typer.Option(help="The conversation to talk in.")]
AsJson = Annotated[bool, typer.Option("--json", help="For scripts: one JSON object a line.")]
StateFolder = Annotated[
    Path,
    typer.Option(
        "--state", envvar="XDG_STATE_HOME", help="Where twin-sio/typed keeps what was typed, for Ctrl-R.", hidden=True
    ),
]
_STATE = Path("~/.local/state")


def _address(url: str) -> str:
    """`host:port` means http; anything that is no web address is a usage error."""
    full = url if "://" in url else f"http://{url}"
    if not full.startswith(("http://", "https://", "ws://", "wss://")):
        raise typer.BadParameter("give an address such as http://127.0.0.1:8000", param_hint="--url")
    return full


def _run(work: Awaitable[None], as_json: bool = False) -> None:
    """Run to the end; a failure is told in words on stderr (to scripts as a line on stdout), with exit code 1."""

    async def working() -> None:
        await work

    try:
        asyncio.run(working())
    except (ClientError, pipe.Failure) as error:
        if as_json:
            print(orjson.dumps(pipe.failure_line(error)).decode(), file=_out(as_json))
            raise typer.Exit(1) from None
        _fail(pipe.explain(error) if isinstance(error, ClientError) else str(error))


def _out(as_json: bool) -> PrintableStream:
    """Standard output, on which nothing that a twin or a server says is obeyed by the terminal."""
    return PrintableStream(sys.stdout, as_json=as_json)


def _fail(text: str) -> None:
    typer.echo(printable(text), err=True)
    raise typer.Exit(1)
