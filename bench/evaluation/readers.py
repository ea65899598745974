"""Who is evaluated: the rules, the embedded model, an endpoint, and a scripted model in two roles."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bench.evaluation.dialogues import Dialogue, Turn
from bench.evaluation.learning import Reader
from tests.scripted_model import ScriptedModel
from twin_sio.agent.extraction.model import ModelExtractor
from twin_sio.agent.extraction.rule_extractor import RulesExtractor
from twin_sio.agent.extraction.slots import canonical
from twin_sio.agent.model import OpenAIModel
from twin_sio.runtime.dev_engines.engines import MODEL_NAME, start_model

READERS: Mapping[str, str] = {
    "strong": "a scripted model that answers both questions as a strong model would (proposals.jsonl)",
    "trap": "the same, that proposes every trap as well, and then doubts honestly",
    "rules": "the rules alone, as without a model that is fit",
    "local": "the embedded model (135 million parameters), asked as if it were fit",
    "endpoint": "what OPENAI_BASE_URL, OPENAI_API_KEY and TWIN_MODEL name",
}


@asynccontextmanager
async def reader_of(name: str, dialogues: Sequence[Dialogue]) -> AsyncIterator[Reader]:
    """One of `READERS`. Raises `EngineError` where the local model is not installed."""
    if name == "rules":
        yield RulesExtractor()
    elif name in ("strong", "trap"):
        async with ScriptedModel() as server, _asked(server.base_url, "", "scripted") as model:
            for dialogue in dialogues:
                _script(server, dialogue, with_traps=name == "trap")
            yield ModelExtractor(model, RulesExtractor())
    elif name == "local":
        with tempfile.TemporaryDirectory() as folder:
            engine = await asyncio.to_thread(start_model, Path(folder))
            try:
                async with _asked(engine.url, "", MODEL_NAME) as model:
                    yield ModelExtractor(model, RulesExtractor())
            finally:
                await asyncio.to_thread(engine.stop)
    else:
        base_url, key, chosen = (os.environ.get(n, "") for n in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "TWIN_MODEL"))
        async with _asked(base_url, key, chosen or "gpt-4o-mini") as model:
            yield ModelExtractor(model, RulesExtractor())


@asynccontextmanager
async def _asked(base_url: str, key: str, name: str) -> AsyncIterator[OpenAIModel]:
    model = OpenAIModel(base_url=base_url or None, api_key=key, model=name, complete_s=45)
    try:
        yield model
    finally:
        await model.close()


def _script(server: ScriptedModel, dialogue: Dialogue, *, with_traps: bool) -> None:
    """Both answers to each message, over HTTP: found by the message and, where it has one, by the line before it."""
    for turn in dialogue.turns:
        proposed = [*turn.strong, *(turn.traps if with_traps else ())]
        listed = [{**{name: one[name] for name in one if name != "doubt"}, "n": 1} for one in proposed]
        server.script(
            contains=_asked_about(turn),
            json_answer=json.dumps({"candidates": listed}),
            doubts={said: one["doubt"] for one in reversed(proposed) for said in _noted(one)},
        )


def _asked_about(turn: Turn) -> str:
    message = f'"message": {json.dumps(turn.text, ensure_ascii=False)}'
    before = f"{json.dumps(turn.twin, ensure_ascii=False)}}}], " if turn.twin else ""
    return f'{before}"messages": [{{"n": 1, {message}'


def _noted(candidate: Mapping[str, Any]) -> list[str]:
    """How a note may put it that is to be doubted: by its slot, whatever the model called that, or by the value; also
    with its kind and whom it is about."""
    key, value = candidate["key"], candidate["value"]
    slot = canonical(key, value)
    names = {f"{key}: {value}", value if slot is None else f"{slot.key}: {slot.value}", value}
    about = " ".join(filter(None, (candidate["about"].replace("self", ""), candidate["name"]))) or "self"
    said = f"{candidate['kind']} of {about}, "
    return [f"{before}{name}".lower() for name in names for before in ("", said)]
