"""The options that several commands share, and how a command runs and fails."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from twin_sio.cli import batch
from twin_sio.cli.printable import PrintableStream, printable, take_any_encoding
from twin_sio.cli.target import Target
from twin_sio.client import ClientError
from twin_sio.dev_tokens import DEV_SECRET
from twin_sio.protocol import bare_token

_INTERRUPTED = 130  # as shells have it: 128, and the number of the signal
DEFAULT_URL = "http://127.0.0.1:8000"

_USER_MAX = 255  # characters, as OpenID Connect has it for `sub`


def a_user(sub: str) -> str:
    """A user that servers take; any other is a usage error."""
    if not sub.strip() or not sub.isprintable() or len(sub) > _USER_MAX:
        raise typer.BadParameter(f"name a user, by 1 to {_USER_MAX} characters that can be printed")
    return sub


Url = Annotated[str, typer.Option(envvar="TWIN_URL", help="Address of the service.")]
Token = Annotated[str, typer.Option(envvar="TWIN_TOKEN", help="JWT to authenticate with.", show_default=False)]
Sub = Annotated[
    str, typer.Option(help="User of the development token that is made if there is no --token.", callback=a_user)
]
Secret = Annotated[
    str,
    typer.Option(
        envvar="TWIN_JWT_SECRET", help="Secret that signs development tokens: the server's.", show_default=False
    ),
]
Session = Annotated[str, typer.Option(help="Session id; a new one if left out.", show_default=False)]
DeviceName = Annotated[str, typer.Option(help="Device name that the user's other devices see.")]
Conversation = Annotated[str, typer.Option(help="Conversation to use.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object per line, for scripts.")]
Plain = Annotated[bool, typer.Option("--plain", help="Show answers as they were written, not as Markdown.")]
StateFolder = Annotated[
    Path,
    typer.Option("--state", envvar="XDG_STATE_HOME", help="Folder of the input history, for Ctrl-R.", hidden=True),
]
DEFAULT_STATE = Path("~/.local/state")


def takes_target(command: Callable[..., None]) -> Callable[..., None]:
    """A command that connects: its first parameter is made of --url, --token, --sub and --secret."""
    _, *own = inspect.signature(command, eval_str=True).parameters.values()

    def with_target(url: str, token: str, sub: str, secret: str, **options: Any) -> None:
        command(Target(address(url), bare_token(token), sub, secret), **options)

    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=option)
        for name, option, default in (
            ("url", Url, DEFAULT_URL),
            ("token", Token, ""),
            ("sub", Sub, "dev"),
            ("secret", Secret, DEV_SECRET),
        )
    ]
    parameters = [*shared, *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own)]
    # Typer reads the options off the signature.
    with_target.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_target.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    with_target.__name__, with_target.__doc__ = command.__name__, command.__doc__
    return with_target


def typed(context: typer.Context, *names: str) -> list[str]:
    """Those of these options that stand in the command line, and are not taken from the environment."""
    sources = {name: context.get_parameter_source(name) for name in names}
    return [f"--{name}" for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]


def address(url: str) -> str:
    """`host:port` means http; anything that is no web address is a usage error."""
    url = url.strip()
    full = url if "://" in url else f"http://{url}"
    if not full.lower().startswith(("http://", "https://", "ws://", "wss://")):
        raise typer.BadParameter("give an address such as http://127.0.0.1:8000", param_hint="--url")
    return full


def run(work: Awaitable[None], as_json: bool = False) -> None:
    """Run to the end; a failure is printed on stderr (with --json as a line on stdout), with its exit code, as a
    rule 1; after Ctrl-C it is 130."""

    async def working() -> None:
        await work

    take_any_encoding()
    try:
        asyncio.run(working())
    except KeyboardInterrupt:
        raise typer.Exit(_INTERRUPTED) from None
    except (ClientError, batch.Failure) as error:
        if as_json:
            print(orjson.dumps(batch.failure_line(error)).decode(), file=output(as_json))
        else:
            typer.echo(printable(batch.explain(error) if isinstance(error, ClientError) else str(error)), err=True)
        raise typer.Exit(error.exit_code if isinstance(error, batch.Failure) else 1) from None


def output(as_json: bool) -> PrintableStream:
    """Standard output, without the terminal control sequences that a message may hold."""
    return PrintableStream(sys.stdout, as_json=as_json)
