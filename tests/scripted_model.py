"""An OpenAI-compatible server that follows a script, over real HTTP: in-process, or as a process of its own.

In-process: `async with ScriptedModel() as model`, then `model.base_url`, `model.script(...)`, `model.until(...)`.
As a process: `python -m tests.scripted_model --port 0` prints `listening PORT`; `POST /control` takes
`{"reset"?, "forget"?, "default"?, "dialects"?, "scripts"?}` (fields of `Script`), `GET /control` tells what was seen
(`ScriptedModel.seen`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import re
import signal
import tomllib
import zlib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import ClientConnectionError, web

from tests import dialects

FILLER = ("and", "so", "the", "story", "goes", "on", "as", "before")
ECHO_CHARACTERS = 200
DOUBT_NAME = "profile_doubts"
_CONTROLS = {
    f"{one['key']}: {one['value']}".lower()
    for one in tomllib.loads(
        (Path(__file__).parents[1] / "twin_sio/agent/extraction/controls.toml").read_text("utf-8")
    )["controls"]
}


@dataclass(frozen=True)
class Script:
    """How requests are answered. What is not set is the plain, whole, deterministic answer."""

    contains: str | None = (
        None  # for requests whose last user message holds this; None: for the next one, whatever it is
    )
    streams: bool = False  # only for requests for a stream: answers, and not what is learnt from them in the background
    times: int | None = None  # how many requests it serves; None: one without `contains`, for ever with
    tokens: tuple[str, ...] | None = None  # the answer; None: made from the user's text
    count: int | None = None  # how many tokens the made answer has; None: as many as it needs
    first_delay_s: float = 0.0
    token_delay_s: float = 0.0
    status: int | None = None  # refuse with this HTTP status
    error: Mapping[str, Any] | None = None  # and these fields of its error object
    headers: Mapping[str, str] | None = None  # and these headers
    hang: bool = False  # take the request and never answer
    hang_after: int | None = None  # fall silent after so many tokens
    hold_after: int | None = None  # pause after so many tokens until `release(contains)`
    cut_after: int | None = None  # break the connection after so many tokens
    end_after: int | None = None  # end the stream politely after so many tokens, without finish_reason or [DONE]
    rubbish_after: int | None = None  # after so many tokens send `rubbish`
    rubbish: str = "data: {not json\n\n"
    empty_choices: bool = False  # chunks without choices, then [DONE]
    error_after: int | None = None  # after so many tokens send an `error` object, as some servers do
    json_answer: str | None = None  # given verbatim where the request asks for a JSON schema
    doubt: str = "yes"  # what it says of every note that it is asked to doubt
    doubts: Mapping[str, str] | None = (
        None  # instead, of notes that say this, or of this value, or "ended of self, " and this
    )
    usage: bool = True
    finish: bool = True  # say finish_reason
    reason: str = "stop"  # this one
    reasoning: tuple[str, ...] = ()  # what it thinks before, each after `token_delay_s`
    calls: tuple[Mapping[str, Any], ...] = ()  # tools that it calls behind its tokens: `name`, `arguments`
    answered: int | None = None  # only for requests with so many results of tools
    done: bool = True  # say [DONE]
    crlf: bool = False
    comments: bool = False  # keep-alive comments between the tokens

    @classmethod
    def of(cls, **fields: Any) -> Script:
        for name in ("tokens", "reasoning", "calls"):
            if fields.get(name) is not None:
                fields[name] = tuple(fields[name])
        return cls(**fields)


def last_user_text(body: dict[str, Any]) -> str:
    """The last thing that the user says in a request, after a blank line where they have said more; empty where there
    is nothing."""
    texts = [message.get("content") for message in body.get("messages", ()) if message.get("role") == "user"]
    return texts[-1].rpartition("\n\n")[2] if texts and isinstance(texts[-1], str) else ""


def made_answer(text: str, count: int | None = None) -> tuple[str, ...]:
    """The answer the server gives to `text` unless scripted: the same every time, in small tokens."""
    words = re.findall(r"\S+\s*", f"You said: {text[:ECHO_CHARACTERS]} - and I have heard it.") or ["You"]
    if count is None:
        return tuple(words)
    filler = [" " + FILLER[index % len(FILLER)] for index in range(max(0, count - len(words)))]
    return tuple([*words, *filler][:count])


def verdicts(asked: str, script: Script) -> str:
    """A verdict on every note of a request to doubt them."""
    found = []
    for note in json.loads(asked)["notes"]:
        doubts, says = script.doubts or {}, note["says"].lower()
        value = says.partition(": ")[2]
        said = f"{note['kind']} of {note['about'].lower()}, "
        names = (f"{said}{says}", f"{said}{value}", says, value)
        holds = next((doubts[name] for name in names if name in doubts), script.doubt)
        # Who doubts note by note is honest, and denies what only follows an order of the service's own (`controls`).
        if script.doubts is not None and says in _CONTROLS:
            holds = "no"
        found.append({"n": note["n"], "holds": holds, "nature": "none"})
    return json.dumps({"verdicts": found})


def bag(text: str, size: int = 64) -> list[float]:
    """How often the words of `text` fall into each of `size` places."""
    places = [0.0] * size
    for word in re.findall(r"\w+", text.lower()):
        places[zlib.crc32(word.encode()) % size] += 1.0
    return places


class ScriptedModel:
    """The server. Its counters change only on the loop it runs on; `until` waits for them."""

    def __init__(self, port: int = 0, **default: Any) -> None:
        self.port = port
        self.default = Script.of(**default)
        self.dialects: tuple[str, ...] = ()
        """How it differs from others (`tests.dialects`)."""
        self.reset()
        self._changed = asyncio.Condition()
        self._runner: web.AppRunner | None = None

    def reset(self) -> None:
        """Forget every script, request and counter."""
        self.scripts: list[tuple[Script, int | None]] = []
        self.requests: list[dict[str, Any]] = []
        self.heads: list[dict[str, Any]] = []
        """Of each request: its query, and the key in the header of Azure."""
        self.refused = 0
        """How many requests a dialect has refused."""
        self.running = 0
        self.peak = 0
        self.running_by_text: Counter[str] = Counter()
        self.peak_by_text: dict[str, int] = {}
        self.cancelled = 0
        self.completed = 0
        self.tokens_sent = 0
        self.peers: set[int] = set()
        self._released: defaultdict[str | None, asyncio.Event] = defaultdict(asyncio.Event)

    @property
    def connections(self) -> int:
        """How many connections the requests came over."""
        return len(self.peers)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def forget(self) -> None:
        """Drop what only grows: the requests, and the peaks of the texts that no answer runs for."""
        self.requests.clear()
        self.heads.clear()
        self.peers.clear()
        self.running_by_text = +self.running_by_text
        self.peak_by_text = {text: self.peak_by_text[text] for text in self.running_by_text}

    def script(self, **fields: Any) -> None:
        """Set the behaviour of the next request, or of those whose last user message holds `contains`."""
        script = Script.of(**fields)
        left = script.times if script.times is not None or script.contains is not None else 1
        self.scripts.append((script, left))

    def release(self, contains: str) -> None:
        """Let the answers go on that `hold_after` holds back."""
        self._released[contains].set()

    def answer_to(self, text: str) -> str:
        """What the server says to `text` while only the default is set."""
        return "".join(self.default.tokens or made_answer(text.rpartition("\n\n")[2], self.default.count))

    def seen(self) -> dict[str, Any]:
        names = (
            "requests",
            "running",
            "peak",
            "running_by_text",
            "peak_by_text",
            "cancelled",
            "completed",
            "tokens_sent",
            "refused",
        )
        return {name: getattr(self, name) for name in names}

    def asked_to_answer(self, text: str) -> list[dict[str, Any]]:
        """The chat messages of the newest request to answer what has `text`; titles and facts are asked for beside."""
        asked = (one["messages"] for one in reversed(self.requests) if one.get("stream"))
        found: list[dict[str, Any]] = next(messages for messages in asked if text in str(messages[-1]))
        return found

    async def until(self, holds: Callable[[ScriptedModel], object], timeout: float = 10.0) -> None:
        """Return as soon as `holds(self)`; TimeoutError after `timeout` seconds."""
        async with asyncio.timeout(timeout), self._changed:
            await self._changed.wait_for(lambda: bool(holds(self)))

    async def __aenter__(self) -> ScriptedModel:
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/embeddings", self._embed)
        app.router.add_post("/page/chat/completions", self._page)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/control", self._tell)
        app.router.add_post("/control", self._take)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_exc: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    # -- control

    async def _models(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "scripted", "object": "model"}]})

    async def _page(self, _request: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>Welcome</title>", content_type="text/html")

    async def _tell(self, _request: web.Request) -> web.Response:
        return web.json_response(self.seen())

    async def _take(self, request: web.Request) -> web.Response:
        wanted = await request.json()
        if wanted.get("reset"):
            self.reset()
            self.default = Script()
        if wanted.get("forget"):
            self.forget()
        if "dialects" in wanted:
            self.dialects = tuple(wanted["dialects"])
        if "default" in wanted:
            self.default = Script.of(**wanted["default"])
        for fields in wanted.get("scripts", ()):
            self.script(**fields)
        return web.json_response({"ok": True})

    # -- the API

    def _pick(self, text: str, *, is_stream: bool, answered: int = 0) -> Script:
        whole = text
        if text.startswith('{"before": '):  # lines that were read for another request already
            text = text[text.find('"messages": ') :].rpartition('"known": ')[0] or text
        for index, (script, left) in enumerate(self.scripts):
            if (
                script.contains is not None
                and script.contains not in (whole if '"messages": ' in script.contains else text)
            ) or (script.streams and not is_stream):
                continue
            if script.answered not in (None, answered):
                continue
            if left is not None:
                self.scripts[index : index + 1] = [(script, left - 1)] if left > 1 else []
            return script
        return self.default

    @contextlib.asynccontextmanager
    async def _counted(self, text: str) -> AsyncIterator[None]:
        self.running += 1
        self.peak = max(self.peak, self.running)
        self.running_by_text[text] += 1
        self.peak_by_text[text] = max(self.peak_by_text.get(text, 0), self.running_by_text[text])
        try:
            await self._notify()
            yield
            self.completed += 1
        except (asyncio.CancelledError, ClientConnectionError):
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
            self.running_by_text[text] -= 1
            await self._notify()

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.heads.append({"query": dict(request.query), "api-key": request.headers.get("api-key")})
        if request.transport is not None:
            self.peers.add(request.transport.get_extra_info("peername")[1])
        if (found := dialects.refused(self.dialects, body)) is not None:
            self.refused += 1
            return web.json_response(found[1], status=found[0])
        text = last_user_text(body)
        results = sum(message.get("role") == "tool" for message in body["messages"])
        script = self._pick(text, is_stream=body.get("stream") is True, answered=results)
        async with self._counted(text):
            await asyncio.sleep(script.first_delay_s)
            if script.hang:
                await asyncio.Event().wait()
            if script.status is not None:
                error = {"error": {"message": f"scripted, about: {text}", "type": "scripted", **(script.error or {})}}
                return web.json_response(error, status=script.status, headers=script.headers)
            tokens = self._tokens(script, body, text)
            if self.dialects:
                return await self._in_dialect(request, body, tokens, script.calls)
            if body.get("stream"):
                return await self._stream(request, body, script, tokens)
            return await self._whole(request, script, tokens)

    async def _embed(self, request: web.Request) -> web.Response:
        """A vector of the words of each text: texts that share words are near to each other."""
        body = await request.json()
        script = self._pick(" ".join(body["input"]), is_stream=False)
        if script.hang:
            await asyncio.Event().wait()
        if script.status is not None:
            return web.json_response({"error": {"message": "scripted"}}, status=script.status)
        data = [{"object": "embedding", "index": n, "embedding": bag(text)} for n, text in enumerate(body["input"])]
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        return web.json_response({"object": "list", "model": body["model"], "data": data[::-1], "usage": usage})

    def _tokens(self, script: Script, body: dict[str, Any], text: str) -> tuple[str, ...]:
        if asked := dialects.asked_json(body):
            answer = script.json_answer if script.json_answer is not None else self.default.json_answer
            if asked == DOUBT_NAME and (answer is None or '"candidates"' in answer):
                answer = verdicts(text, script)
            return tuple(re.findall(r"(?s).{1,8}", answer if answer is not None else '{"candidates": []}'))
        if script.tokens is None and script.calls:
            return ()
        return script.tokens if script.tokens is not None else made_answer(text, script.count)

    async def _in_dialect(
        self, request: web.Request, body: dict[str, Any], tokens: tuple[str, ...], calls: Sequence[Mapping[str, Any]]
    ) -> web.StreamResponse:
        spoken, is_json = self.dialects, bool(dialects.asked_json(body))
        if "streams_always" not in spoken and (not body.get("stream") or "whole" in spoken):
            head = _head("chat.completion")
            said = "".join(tokens)
            return web.json_response(dialects.whole(spoken, head, said, _usage(tokens), is_json=is_json, calls=calls))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in dialects.stream(spoken, _head("chat.completion.chunk"), tokens, _usage(tokens), calls):
            await response.write(piece)
        await response.write_eof()
        return response

    async def _whole(self, request: web.Request, script: Script, tokens: tuple[str, ...]) -> web.Response:
        if script.cut_after is not None and request.transport is not None:
            request.transport.abort()
        if script.rubbish_after is not None:
            return web.Response(text=script.rubbish, content_type="application/json")
        message: dict[str, Any] = {"role": "assistant", "content": "".join(tokens)}
        if script.calls:
            message["tool_calls"] = dialects.called(("whole_calls",), script.calls)[0]["tool_calls"]
        choices = [] if script.empty_choices else [{"index": 0, "message": message, "finish_reason": _reason(script)}]
        return web.json_response({**_head("chat.completion"), "choices": choices, "usage": _usage(tokens)})

    async def _stream(
        self, request: web.Request, body: dict[str, Any], script: Script, tokens: tuple[str, ...]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in script.reasoning:
            await self._say(response, script, {"reasoning_content": piece})
        for index, token in enumerate(tokens):
            if not await self._still_whole(request, response, script, index):
                return response
            await self._say(response, script, {"content": token})
        if not await self._still_whole(request, response, script, len(tokens)):
            return response
        for delta in dialects.called((), script.calls):
            await self._say(response, script, delta)
        for line in _ending(body, script, tokens):
            await response.write(_framed(line, script))
        await response.write_eof()
        return response

    async def _still_whole(self, request: web.Request, response: web.StreamResponse, script: Script, at: int) -> bool:
        """Do what the script wants done once `at` tokens are out; false where that ended the answer."""
        if script.rubbish_after == at:
            await response.write(script.rubbish.encode(errors="surrogateescape"))
        if script.error_after == at:
            await response.write(_framed(json.dumps({"error": {"message": "scripted"}}), script))
        if script.hang_after == at:
            await asyncio.Event().wait()
        if script.hold_after == at:
            await self._released[script.contains].wait()
        if script.cut_after == at and request.transport is not None:
            request.transport.abort()
        if script.end_after == at:
            await response.write_eof()
        return at not in (script.cut_after, script.end_after)

    async def _say(self, response: web.StreamResponse, script: Script, delta: dict[str, Any]) -> None:
        choices = [] if script.empty_choices else [{"index": 0, "delta": delta, "finish_reason": None}]
        if script.comments:
            await response.write(b": keep-alive\n\n")
        await response.write(_framed(json.dumps({**_head("chat.completion.chunk"), "choices": choices}), script))
        self.tokens_sent += 1
        await self._notify()
        if script.token_delay_s:
            await asyncio.sleep(script.token_delay_s)


def _head(kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-scripted", "object": kind, "created": 0, "model": "scripted"}


def _usage(tokens: tuple[str, ...]) -> dict[str, int]:
    return {"prompt_tokens": 1, "completion_tokens": len(tokens), "total_tokens": 1 + len(tokens)}


def _framed(data: str, script: Script) -> bytes:
    end = "\r\n" if script.crlf else "\n"
    return f"data: {data}{end}{end}".encode()


def _ending(body: dict[str, Any], script: Script, tokens: tuple[str, ...]) -> Iterator[str]:
    head = _head("chat.completion.chunk")
    if script.finish and not script.empty_choices:
        yield json.dumps({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": _reason(script)}]})
    if script.usage and (body.get("stream_options") or {}).get("include_usage"):
        yield json.dumps({**head, "choices": [], "usage": _usage(tokens)})
    if script.done:
        yield "[DONE]"


def _reason(script: Script) -> str:
    return "tool_calls" if script.calls else script.reason


async def serve(port: int, default: dict[str, Any]) -> None:
    """Serve until SIGTERM or SIGINT."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with ScriptedModel(port, **default) as model:
        print(f"listening {model.port}", flush=True)
        await ended.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="A scripted OpenAI-compatible server.")
    parser.add_argument("--port", type=int, default=0)
    for field in dataclasses.fields(Script):
        if field.name in {"count", "first_delay_s", "token_delay_s"}:
            parser.add_argument(f"--{field.name.replace('_', '-')}", type=int if field.name == "count" else float)
    chosen = vars(parser.parse_args())
    port = chosen.pop("port")
    asyncio.run(serve(port, {name: value for name, value in chosen.items() if value is not None}))


if __name__ == "__main__":
    main()
