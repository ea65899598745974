"""`twin-sio`: the commands and their options."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import typer

from twin_sio.cli import batch as pipe
from twin_sio.cli.options import (
    _STATE,
    AsJson,
    Conversation,
    DeviceName,
    Secret,
    Session,
    StateFolder,
    Sub,
    Token,
    Url,
    _address,
    _out,
    _run,
)
from twin_sio.cli.target import THIS_DEVICE, Target, version
from twin_sio.client import TwinClient
from twin_sio.dev_tokens import DEV_SECRET, create_token
from twin_sio.domain import DEFAULT_CONVERSATION
from twin_sio.protocol import TEXT_MAX

app = typer.Typer(
    name="twin-sio",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    """Talk to a digital twin from a terminal or a script.

    \b
    Try it, with the service running on this machine:
      twin-sio chat --sub ada
      echo "What do you know about me?" | twin-sio chat --sub ada --once
      twin-sio doctor --sub ada                     # when something does not work
    """
    if show_version:
        typer.echo(f"twin-sio {version()}")
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
    device: DeviceName = THIS_DEVICE,
    conversation: Conversation = DEFAULT_CONVERSATION,
    once: Annotated[bool, typer.Option("--once", help="Ask what stdin holds, print the answer, leave.")] = False,
    as_json: AsJson = False,
    state: StateFolder = _STATE,
) -> None:
    """Chat: live on a terminal, line by line from a pipe.

    On a terminal answers appear as they are written, and so does what your other devices do; /help lists the
    commands, Tab completes, Ctrl-R searches what you typed, Ctrl-C stops a running answer, and then leaves. From a
    pipe every line that is not empty is asked in turn and a plain transcript printed; with --once all of stdin is one
    message, and stdout gets the answer only. With --json every answer is an object: text, status, message_id, ...

    \b
    Examples:
      twin-sio chat --sub ada --device phone
      echo "What should I cook tonight?" | twin-sio chat --sub ada --once
      twin-sio chat --sub ada < questions.txt
      twin-sio chat --sub ada --json < questions.txt | jq -r .text
      TWIN_TOKEN=eyJ... twin-sio chat --url https://twin.example.com
    """
    where = Target(_address(url), token, sub, secret, session)
    if once:
        _run(_once(where, device, conversation, as_json), as_json)
    else:
        _run(_talk(where, device, conversation, as_json, state), as_json)


async def _talk(where: Target, device: str, conversation: str, as_json: bool, state: Path) -> None:
    if sys.stdin.isatty() and not as_json:
        # Here, because the terminal's libraries take longer to import than a pipe takes to answer.
        from twin_sio.cli.chat import run_chat

        await run_chat(where.client, device, conversation, state)
    else:
        await _with_client(
            where, device, lambda client: pipe.ask_lines(client, sys.stdin, conversation, as_json, _out(as_json))
        )


async def _once(where: Target, device: str, conversation: str, as_json: bool) -> None:
    text = sys.stdin.read().strip()
    if not text:
        raise pipe.Failure('There is nothing to ask on stdin. Try: echo "Hello" | twin-sio chat --once')
    if len(text) > TEXT_MAX:
        raise pipe.Failure(f"A message has at most {TEXT_MAX} characters; this one has {len(text)}.")
    await _with_client(where, device, lambda client: pipe.ask_once(client, text, conversation, as_json, _out(as_json)))


async def _with_client(where: Target, device: str, use: Callable[[TwinClient], Awaitable[None]]) -> None:
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
    typer.echo(create_token(sub, secret, ttl_s=ttl, scope=scope))


@app.command()
def history(
    url: Url = "http://127.0.0.1:8000",
    token: Token = "",
    sub: Sub = "dev",
    secret: Secret = DEV_SECRET,
    conversation: Conversation = DEFAULT_CONVERSATION,
    limit: Annotated[int, typer.Option(min=1, help="How many of the newest messages.")] = 50,
    search: Annotated[str, typer.Option(help="Only those that hold all of these words.", show_default=False)] = "",
    as_json: AsJson = False,
) -> None:
    """Print a conversation, or what was found in it, oldest message first.

    \b
    Examples:
      twin-sio history --sub ada --limit 10
      twin-sio history --sub ada --search "pasta tuesday"
      twin-sio history --sub ada --limit 10000 --json > ada.jsonl
    """
    where = Target(_address(url), token, sub, secret)

    async def shown(client: TwinClient) -> None:
        await pipe.print_history(client, conversation, limit, search, as_json, _out(as_json))

    _run(_with_client(where, "history", shown), as_json)


@app.command()
def profile(
    url: Url = "http://127.0.0.1:8000",
    token: Token = "",
    sub: Sub = "dev",
    secret: Secret = DEV_SECRET,
    as_json: AsJson = False,
) -> None:
    """Print what the twin believes of its user, and how surely.

    \b
    Examples:
      twin-sio profile --sub ada
      twin-sio profile --sub ada --json | jq 'select(.status == "applied") | .value'
    """
    where = Target(_address(url), token, sub, secret)
    _run(_with_client(where, "profile", lambda client: pipe.print_profile(client, as_json, _out(as_json))), as_json)


@app.command()
def why(
    trait: Annotated[str, typer.Argument(help="A trait's key, value or id, as the profile lists them.")],
    url: Url = "http://127.0.0.1:8000",
    token: Token = "",
    sub: Sub = "dev",
    secret: Secret = DEV_SECRET,
    as_json: AsJson = False,
) -> None:
    """Print what the user said that makes the twin believe so.

    \b
    Examples:
      twin-sio why location.city --sub ada
      twin-sio why Lisbon --sub ada --json | jq .evidence
    """
    where = Target(_address(url), token, sub, secret)
    _run(_with_client(where, "why", lambda client: pipe.print_reasons(client, trait, as_json, _out(as_json))), as_json)


@app.command()
def doctor(
    url: Url = "http://127.0.0.1:8000",
    token: Token = "",
    sub: Sub = "dev",
    secret: Secret = DEV_SECRET,
    send: Annotated[
        bool, typer.Option("--send", help="Ask the twin something, too (in a conversation of its own).")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Look at all that a client needs, and say what to do where something is wrong. Exit code 1 where anything is.

    Address, readiness, token, long-polling, WebSocket, protocol version, clock, round trip; with --send a message and
    its answer.

    \b
    Examples:
      twin-sio doctor --sub ada
      TWIN_TOKEN=eyJ... twin-sio doctor --url https://twin.example.com --send
      twin-sio doctor --json | jq 'select(.ok | not)'
    """
    from twin_sio.cli.doctor import examine

    async def examined() -> None:
        if not await examine(Target(_address(url), token, sub, secret), send, as_json, _out(as_json)):
            raise typer.Exit(1)

    _run(examined(), as_json)


@app.command()
def record(
    file: Annotated[Path, typer.Argument(help="A new file; nobody but you can read it.")],
    url: Url = "http://127.0.0.1:8000",
    token: Token = "",
    sub: Sub = "dev",
    secret: Secret = DEV_SECRET,
    device: DeviceName = THIS_DEVICE,
    conversation: Conversation = DEFAULT_CONVERSATION,
    state: StateFolder = _STATE,
) -> None:
    """Chat, and keep every envelope of it, with its time, as JSON Lines; tokens are left out.

    \b
    Examples:
      twin-sio record slow-answers.jsonl --sub ada
      twin-sio record questions.jsonl --sub ada < questions.txt
    """
    from twin_sio.cli.recording import recording

    async def recorded() -> None:
        with recording(file) as hear:
            where = Target(_address(url), token, sub, secret, on_envelope=hear)
            await _talk(where, device, conversation, False, state)

    _run(recorded())


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="What twin-sio record wrote.")],
    url: Url = "http://127.0.0.1:8000",
    token: Token = "",
    sub: Sub = "dev",
    secret: Secret = DEV_SECRET,
    speed: Annotated[float, typer.Option(min=0.01, max=1000, help="2 is twice as fast as it was.")] = 1.0,
    same_ids: Annotated[bool, typer.Option("--same-ids", help="Send the recorded ids, not fresh ones.")] = False,
    patience: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for what was answered then.")] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Say a tape's messages again, with their pace, and tell what is answered otherwise: in kind, not in words.

    It speaks as the user that you name: take one of its own, or the messages are added to that user's conversation.
    Exit code 1 where anything is answered otherwise.

    \b
    Examples:
      twin-sio replay slow-answers.jsonl --sub replay-1 --speed 10
      twin-sio replay slow-answers.jsonl --sub ada --same-ids      # all of them must come back as duplicates
    """
    from twin_sio.cli.recording import read_tape
    from twin_sio.cli.recording import replay as replayed

    async def again() -> None:
        steps = read_tape(file)
        async with Target(_address(url), token, sub, secret).client("replay") as client:
            if not await replayed(client, steps, speed, same_ids, patience, as_json, _out(as_json)):
                raise typer.Exit(1)

    _run(again(), as_json)


@app.command()
def load(
    url: Url = "http://127.0.0.1:8000",
    secret: Secret = DEV_SECRET,
    users: Annotated[int, typer.Option(min=1, max=1000, help="Users, each with a conversation of its own.")] = 10,
    devices: Annotated[int, typer.Option(min=1, max=10, help="Connections of each user.")] = 2,
    messages: Annotated[int, typer.Option(min=1, max=1000, help="Messages of each user, one after the other.")] = 3,
    ramp: Annotated[float, typer.Option(min=0, max=600, help="Seconds over which the users come.")] = 2.0,
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="Time after which it ends in any case.")] = 60.0,
    mine: Annotated[bool, typer.Option("--i-own-this-server", help="For servers on other machines.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put some load on a server, and count what was lost or doubled. Exit code 1 where anything was.

    Users and their tokens are made up (so it takes the server's secret), and their conversations stay on the server:
    use one that is yours. Ctrl-C ends it with the figures so far.

    \b
    Examples:
      twin-sio load --users 50 --devices 3 --messages 5
      twin-sio load --users 200 --ramp 20 --seconds 120 --json
    """
    from twin_sio.cli.load import Plan, is_loopback
    from twin_sio.cli.load import load as loaded

    address = _address(url)
    if not mine and not is_loopback(address):
        raise typer.BadParameter(
            f"{address} is another machine: say --i-own-this-server where it is yours", param_hint="--url"
        )

    async def measured() -> None:
        plan = Plan(address, secret, users, devices, messages, ramp, seconds)
        if not await loaded(plan, as_json, sys.stdout):
            raise typer.Exit(1)

    _run(measured(), as_json)


@app.command(context_settings={"ignore_unknown_options": True})
def conformance(
    command: Annotated[
        list[str] | None,
        typer.Argument(help="A program that is the client; {url} and {token} are filled in.", show_default=False),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 0,
    limit: Annotated[float, typer.Option(min=0.5, help="Seconds that a client has for each rule.")] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Hold a client, in any language, against the protocol's rules. Exit code 1 where one is broken.

    A server with a script waits on this machine; point your client at it, or name a program that is one. It connects
    with the token, says something once, and stays. Whatever message appears in the conversation "report" it answers
    there with the JSON list of the texts that it shows in "main". docs/clients/README.md has the rules.

    \b
    Examples:
      twin-sio conformance
      twin-sio conformance -- node my-client.mjs {url} {token}
      twin-sio conformance --json -- python my_client.py {url} {token} | jq 'select(.passed == false)'
    """
    from twin_sio.cli.conformance import conform

    async def conformed() -> None:
        if not await conform(command or [], port, limit, as_json, _out(as_json)):
            raise typer.Exit(1)

    _run(conformed(), as_json)


@app.command()
def up() -> None:
    """Start the service with all that it needs, as `python server.py` does; Ctrl-C stops it.

    What has no URL is run embedded: pip install 'twin-sio[local]', then this.
    """
    command = [sys.executable, "-P", "-m", "server"]  # -P: the installed one, whatever lies in this folder
    os.execv(command[0], command)  # noqa: S606 - this process becomes the server, so that signals reach it


def main() -> None:
    """The console script."""
    app()
