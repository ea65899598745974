"""`twin-sio`: the commands and their options."""

from __future__ import annotations

import asyncio
import platform
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import Annotated

import typer

from twin_sio.cli import pipe
from twin_sio.cli.tokens import mint, minting
from twin_sio.client import ClientError, TwinClient
from twin_sio.config import DEV_SECRET
from twin_sio.domain import DEFAULT_CONVERSATION
from twin_sio.protocol import TEXT_MAX

app = typer.Typer(
    name="twin-sio",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

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


_THIS_DEVICE = platform.node() or "terminal"


@dataclass(frozen=True, slots=True)
class Where:
    """Whom to connect as, and where to."""

    url: str
    token: str
    sub: str
    secret: str
    session: str = ""

    def client(self, device: str, session: str | None = None) -> TwinClient:
        """A client that is not connected yet; `session` None takes the one that was asked for."""
        return TwinClient(
            self.url,
            self.token or minting(self.sub, self.secret),
            session_id=(self.session if session is None else session) or None,
            device={"name": device, "platform": "cli", "app_version": _version()},
        )


def _version() -> str:
    try:
        return installed_version("twin-sio")
    except PackageNotFoundError:
        return "0+not.installed"


def _address(url: str) -> str:
    """`host:port` means http; anything that is no web address is a usage error."""
    full = url if "://" in url else f"http://{url}"
    if not full.startswith(("http://", "https://", "ws://", "wss://")):
        raise typer.BadParameter("give an address such as http://127.0.0.1:8000", param_hint="--url")
    return full


def _run(work: Awaitable[None]) -> None:
    """Run to the end; a failure is told in words on stderr, with exit code 1."""

    async def working() -> None:
        await work

    try:
        asyncio.run(working())
    except ClientError as error:
        _fail(pipe.explain(error))
    except pipe.Failure as error:
        _fail(str(error))


def _fail(text: str) -> None:
    typer.echo(text, err=True)
    raise typer.Exit(1)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    """Talk to a digital twin from a terminal or a script.

    \b
    Try it, with the service running on this machine:
      twin-sio chat --sub ada
      echo "What do you know about me?" | twin-sio chat --sub ada --once
    """
    if version:
        typer.echo(f"twin-sio {_version()}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


@app.command()
def chat(
    url: Url = "http://127.0.0.1:8000",
    token: Token = "",
    sub: Sub = "dev",
    secret: Secret = DEV_SECRET,
    session: Session = "",
    device: DeviceName = _THIS_DEVICE,
    conversation: Conversation = DEFAULT_CONVERSATION,
    once: Annotated[bool, typer.Option("--once", help="Ask what stdin holds, print the answer, leave.")] = False,
) -> None:
    """Chat: live on a terminal, line by line from a pipe.

    On a terminal answers appear as they are written, and so does what your other devices do; /help lists the
    commands, Ctrl-C stops a running answer, and then leaves. From a pipe every line that is not empty is asked in
    turn and a plain transcript printed; with --once all of stdin is one message, and stdout gets the answer only.

    \b
    Examples:
      twin-sio chat --sub ada --device phone
      echo "What should I cook tonight?" | twin-sio chat --sub ada --once
      twin-sio chat --sub ada < questions.txt
      TWIN_TOKEN=eyJ... twin-sio chat --url https://twin.example.com
    """
    where = Where(_address(url), token, sub, secret, session)
    if once:
        _run(_once(where, device, conversation))
    elif sys.stdin.isatty():
        # Here, because the terminal's libraries take longer to import than a pipe takes to answer.
        from twin_sio.cli.chat import run_chat

        _run(run_chat(where.client, device, conversation))
    else:
        _run(_with_client(where, device, lambda client: pipe.ask_lines(client, sys.stdin, conversation, sys.stdout)))


async def _once(where: Where, device: str, conversation: str) -> None:
    text = sys.stdin.read().strip()
    if not text:
        raise pipe.Failure('There is nothing to ask on stdin. Try: echo "Hello" | twin-sio chat --once')
    if len(text) > TEXT_MAX:
        raise pipe.Failure(f"A message has at most {TEXT_MAX} characters; this one has {len(text)}.")
    await _with_client(where, device, lambda client: pipe.ask_once(client, text, conversation, sys.stdout))


async def _with_client(where: Where, device: str, use: Callable[[TwinClient], Awaitable[None]]) -> None:
    async with where.client(device) as client:
        await use(client)


@app.command()
def token(
    sub: Annotated[str, typer.Option(help="The user the token is for.")],
    ttl: Annotated[int, typer.Option(min=1, help="Seconds until it ends.")] = 3600,
    scope: Annotated[
        str, typer.Option(help="Scopes, space-separated; the server's default if left out.", show_default=False)
    ] = "",
    secret: Secret = DEV_SECRET,
) -> None:
    """Make a development token (HS256) and print it.

    For development only: whoever has the secret can be anybody. In production the host application's backend signs
    the tokens of its users.

    \b
    Examples:
      twin-sio token --sub ada
      export TWIN_TOKEN=$(twin-sio token --sub ada --ttl 86400 --scope "twin:chat twin:profile twin:data")
    """
    typer.echo("A token for development: never hand it out, never sign so in production.", err=True)
    typer.echo(mint(sub, secret, ttl_s=ttl, scope=scope))


@app.command()
def history(
    url: Url = "http://127.0.0.1:8000",
    token: Token = "",
    sub: Sub = "dev",
    secret: Secret = DEV_SECRET,
    conversation: Conversation = DEFAULT_CONVERSATION,
    limit: Annotated[int, typer.Option(min=1, help="How many of the newest messages.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Print a conversation, oldest message first.

    \b
    Examples:
      twin-sio history --sub ada --limit 10
      twin-sio history --sub ada --limit 10000 --json > ada.jsonl
    """
    where = Where(_address(url), token, sub, secret)
    _run(_with_client(where, "history", lambda c: pipe.print_history(c, conversation, limit, as_json, sys.stdout)))


def main() -> None:
    """The console script."""
    app()
