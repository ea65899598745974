"""`twin-sio`: the commands and their options."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from twin_sio.cli import batch
from twin_sio.cli.options import (
    DEFAULT_STATE,
    AsJson,
    Conversation,
    DeviceName,
    Plain,
    Secret,
    Session,
    StateFolder,
    Url,
    a_user,
    address,
    output,
    run,
    takes_target,
    typed,
)
from twin_sio.cli.talk import ask_once, talk, with_client
from twin_sio.cli.target import THIS_DEVICE, Target, version
from twin_sio.dev_tokens import DEV_SECRET, create_token
from twin_sio.domain import DEFAULT_CONVERSATION
from twin_sio.protocol import SEARCH_DEFAULT, SEARCH_MAX
from twin_sio.standard_output import output_that_may_fail

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
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
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
@takes_target
def chat(
    target: Target,
    session: Session = "",
    device: DeviceName = THIS_DEVICE,
    conversation: Conversation = DEFAULT_CONVERSATION,
    once: Annotated[
        bool, typer.Option("--once", help="Send all of stdin as one message, print the answer, exit.")
    ] = False,
    as_json: AsJson = False,
    plain: Plain = False,
    state: StateFolder = DEFAULT_STATE,
) -> None:
    """Chat: live on a terminal, line by line from a batch.

    On a terminal, answers appear as they are made, step by step, and so do the messages of your other devices; /help
    lists the commands (/approve what the twin asks for, /steer an answer), Tab completes, Ctrl-C stops an answer, and
    then exits. From a pipe, every line that is not empty is sent in turn and a plain transcript is printed; with --once
    all of stdin is one message, and only the answer is printed; exit code 3 if it waits for an approval. With --json
    each line has a type, such as "answer".
    Answers are shown as Markdown where stdout is a terminal, and as they were written with --plain and everywhere else.

    \b
    Examples:
      twin-sio chat --sub ada --device phone
      echo "What should I cook tonight?" | twin-sio chat --sub ada --once
      twin-sio chat --sub ada < questions.txt
      twin-sio chat --sub ada --json < questions.txt | jq -r 'select(.type == "answer").text'
      TWIN_TOKEN=eyJ... twin-sio chat --url https://twin.example.com
    """
    target = replace(target, session=session)
    if once:
        run(ask_once(target, device, conversation, as_json, plain), as_json)
    else:
        run(talk(target, device, conversation, as_json, state, plain), as_json)


@app.command()
def token(
    sub: Annotated[str, typer.Option(help="The user the token is for.", callback=a_user)],
    ttl: Annotated[int, typer.Option(min=1, help="Seconds until it expires.")] = 3600,
    scope: Annotated[
        str, typer.Option(help="Scopes, space-separated; the server's default if left out.", show_default=False)
    ] = "",
    secret: Secret = DEV_SECRET,
) -> None:
    """Make a development token (HS256) and print it.

    For development only: the secret signs tokens for any user. In production the backend of the host application signs
    the tokens of its users.

    \b
    Examples:
      twin-sio token --sub ada
      export TWIN_TOKEN=$(twin-sio token --sub ada --ttl 86400 --scope "twin:chat twin:profile twin:data")
    """
    typer.echo("A development token: do not share it, and do not sign tokens this way in production.", err=True)
    typer.echo(create_token(sub, secret, ttl_s=ttl, scope=scope))


@app.command()
@takes_target
def history(
    target: Target,
    conversation: Conversation = DEFAULT_CONVERSATION,
    limit: Annotated[int, typer.Option(min=1, help="How many of the newest messages.")] = 50,
    search: Annotated[
        str, typer.Option(help="Only messages that contain all of these words.", show_default=False)
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Print a conversation, or the messages that match a search, oldest first.

    \b
    Examples:
      twin-sio history --sub ada --limit 10
      twin-sio history --sub ada --search "pasta tuesday"
      twin-sio history --sub ada --limit 10000 --json > ada.jsonl
    """
    asked = (conversation, limit, search, as_json, output(as_json))
    run(with_client(target, "history", lambda client: batch.print_history(client, *asked)), as_json)


@app.command()
@takes_target
def search(
    target: Target,
    words: Annotated[list[str], typer.Argument(help="Words, in whatever form, or a question.")],
    limit: Annotated[int, typer.Option(min=1, max=SEARCH_MAX, help="How many messages.")] = SEARCH_DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Search all conversations, and print the messages that have to do with the words, the best first.

    \b
    Examples:
      twin-sio search --sub ada wedding in June
      twin-sio search --sub ada --limit 3 --json "when did I move?" | jq -r .conversation_id
    """
    shown = partial(batch.print_found, text=" ".join(words), limit=limit, as_json=as_json, out=output(as_json))
    run(with_client(target, "search", shown), as_json)


@app.command()
@takes_target
def profile(target: Target, as_json: AsJson = False) -> None:
    """Print the user's profile: traits, values and confidence.

    \b
    Examples:
      twin-sio profile --sub ada
      twin-sio profile --sub ada --json | jq 'select(.status == "applied") | .value'
    """
    run(with_client(target, "profile", lambda client: batch.print_profile(client, as_json, output(as_json))), as_json)


@app.command()
@takes_target
def why(
    target: Target,
    trait: Annotated[str, typer.Argument(help="Key, value or id of a trait, as `profile` lists them.")],
    as_json: AsJson = False,
) -> None:
    """Print the evidence for a trait: what the user said, and how much each statement weighs.

    \b
    Examples:
      twin-sio why location.city --sub ada
      twin-sio why Lisbon --sub ada --json | jq .evidence
    """
    run(
        with_client(target, "why", lambda client: batch.print_reasons(client, trait, as_json, output(as_json))),
        as_json,
    )


@app.command()
@takes_target
def doctor(
    target: Target,
    context: typer.Context,
    send: Annotated[bool, typer.Option("--send", help="Send a message, too, in a conversation of its own.")] = False,
    model: Annotated[bool, typer.Option("--model", help="Instead: does the model of TWIN_MODEL read well?")] = False,
    server: Annotated[bool, typer.Option("--server", help="Instead: the server's settings and engines.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check everything that a client needs, and say how to fix what is wrong. Exit code 1 if a check fails.

    Address, readiness, token, both transports, protocol version, clock, round trip; with --send a message and its
    answer. In the server's environment: --server and --model, the model that reads what users write, alone or together.

    \b
    Examples:
      twin-sio doctor --sub ada
      TWIN_TOKEN=eyJ... twin-sio doctor --url https://twin.example.com --send
      TWIN_ENV=production TWIN_REDIS_URL=... twin-sio doctor --server
      OPENAI_BASE_URL=http://127.0.0.1:11434/v1 TWIN_MODEL=qwen3:8b twin-sio doctor --model
    """
    from twin_sio.cli.doctor import examine, examine_server

    parts = [part for part, asked in (("engine", server), ("model", model)) if asked]
    if parts and (others := typed(context, "send", "url", "token", "sub", "secret")):
        raise typer.BadParameter("it is for the checks of a client: leave out --server and --model", param_hint=others)

    async def examined() -> None:
        out = output(as_json)
        well = [await examine_server(part, as_json, out) for part in parts]
        if not all(well or [await examine(target, send, as_json, out)]):
            raise typer.Exit(1)

    run(examined(), as_json)


@app.command()
@takes_target
def record(
    target: Target,
    file: Annotated[Path, typer.Argument(help="A new file, readable by you only.")],
    device: DeviceName = THIS_DEVICE,
    conversation: Conversation = DEFAULT_CONVERSATION,
    state: StateFolder = DEFAULT_STATE,
) -> None:
    """Chat, and write every envelope with its time to a file, as JSON Lines; tokens are left out.

    \b
    Examples:
      twin-sio record slow-answers.jsonl --sub ada
      twin-sio record questions.jsonl --sub ada < questions.txt
    """
    from twin_sio.cli.recording import recording

    async def recorded() -> None:
        with recording(file) as write:
            await talk(replace(target, on_envelope=write), device, conversation, False, state)

    run(recorded())


@app.command()
@takes_target
def replay(
    target: Target,
    file: Annotated[Path, typer.Argument(help="A file that twin-sio record wrote.")],
    speed: Annotated[float, typer.Option(min=0.01, max=1000, help="2: twice as fast as recorded.")] = 1.0,
    same_ids: Annotated[bool, typer.Option("--same-ids", help="Send the recorded message ids, not new ones.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for each recorded answer.")] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Send the messages of a recording again, with the same timing, and report replies of another type than recorded.

    The messages are sent as the user that you name, and are added to that user's conversation: use a separate user.
    Exit code 1 if a reply differs.

    \b
    Examples:
      twin-sio replay slow-answers.jsonl --sub replay-1 --speed 10
      twin-sio replay slow-answers.jsonl --sub ada --same-ids      # all of them must be reported as duplicates
    """
    from twin_sio.cli.recording import read_recording
    from twin_sio.cli.recording import replay as replayed

    async def again() -> None:
        steps = read_recording(file)
        async with target.client("replay") as client:
            if not await replayed(client, steps, speed, same_ids, timeout, as_json, output(as_json)):
                raise typer.Exit(1)

    run(again(), as_json)


@app.command()
def load(
    url: Url = "http://127.0.0.1:8000",
    secret: Secret = DEV_SECRET,
    users: Annotated[int, typer.Option(min=1, max=1000, help="Users, each with a conversation of its own.")] = 10,
    devices: Annotated[int, typer.Option(min=1, max=10, help="Connections per user.")] = 2,
    messages: Annotated[int, typer.Option(min=1, max=1000, help="Messages per user, one after the other.")] = 3,
    ramp: Annotated[float, typer.Option(min=0, max=600, help="Seconds over which the users connect.")] = 2.0,
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="Longest run time, in seconds.")] = 60.0,
    mine: Annotated[
        bool, typer.Option("--i-own-this-server", help="Required for a server on another machine.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Put load on a server, and count lost, duplicated and failed messages. Exit code 1 if there are any.

    Users and tokens are generated, so the server's secret is needed; their conversations stay on the server: use a
    server of your own. Ctrl-C ends the test with the figures so far.

    \b
    Examples:
      twin-sio load --users 50 --devices 3 --messages 5
      twin-sio load --users 200 --ramp 20 --seconds 120 --json
    """
    from twin_sio.cli.load import Plan, is_loopback
    from twin_sio.cli.load import load as loaded

    server_url = address(url)
    if not mine and not is_loopback(server_url):
        raise typer.BadParameter(
            f"{server_url} is another machine: add --i-own-this-server if it is yours", param_hint="--url"
        )

    async def measured() -> None:
        plan = Plan(server_url, secret, users, devices, messages, ramp, seconds)
        if not await loaded(plan, as_json, sys.stdout):
            raise typer.Exit(1)

    run(measured(), as_json)


@app.command(context_settings={"ignore_unknown_options": True})
def conformance(
    command: Annotated[
        list[str] | None,
        typer.Argument(help="Command of the client to test; {url} and {token} are filled in.", show_default=False),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: a free one.")] = 0,
    limit: Annotated[float, typer.Option(min=0.5, help="Seconds that the client has for each rule.")] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Test a client, in any language, against the rules of the protocol. Exit code 1 if it breaks one.

    A scripted server listens on this machine; point your client at it, or name a command that starts the client. The
    client connects with the token, sends one message, and stays connected. It answers every message in the
    conversation "report" with a message there: the JSON list of the texts that it shows in the conversation "main".
    docs/clients/README.md lists the rules.

    \b
    Examples:
      twin-sio conformance
      twin-sio conformance -- node my-client.mjs {url} {token}
      twin-sio conformance --json -- python my_client.py {url} {token} | jq 'select(.passed == false)'
    """
    from twin_sio.cli.conformance import conform

    async def conformed() -> None:
        if not await conform(command or [], port, limit, as_json, output(as_json)):
            raise typer.Exit(1)

    run(conformed(), as_json)


@app.command()
def up() -> None:
    """Start the service and everything it needs, as `python server.py` does; Ctrl-C stops it.

    Engines without a URL are started embedded: pip install 'twin-sio[local]' first.
    """
    command = [sys.executable, "-P", "-m", "server"]  # -P: the installed one, whatever lies in this folder
    os.execv(command[0], command)  # noqa: S606 - this process becomes the server, so that signals reach it


def main() -> None:
    """The console script."""
    with output_that_may_fail():
        app()
