"""Looks at the model that the environment names: `python -m twin_sio.runtime.model_check` prints a JSON object a line,
`{check, ok, text, advice}`, as `twin-sio doctor --model` shows them, or `{progress, of}` meanwhile."""

from __future__ import annotations

import asyncio
import sys

import orjson

from twin_sio.agent.extraction.fitness import count, examine
from twin_sio.agent.extraction.model import ModelExtractor
from twin_sio.agent.extraction.rule_extractor import RulesExtractor
from twin_sio.agent.model import OpenAIModel
from twin_sio.config import ConfigError, Settings
from twin_sio.domain import Json
from twin_sio.errors import ModelTimeout, ModelUnavailable

_UNREACHABLE = "Look at OPENAI_BASE_URL, OPENAI_API_KEY and TWIN_MODEL, and whether the endpoint runs."


def main() -> int:
    """Exit code 0 where the model answers and is fit to read what users write, else 1."""
    try:
        settings = Settings.from_environment()
    except ConfigError as error:
        _print({"check": "settings", "ok": False, "text": str(error), "advice": ""})
        return 1
    return asyncio.run(_checked(settings))


async def _checked(settings: Settings) -> int:
    chosen = settings.model
    if not chosen.base_url and not chosen.api_key.get_secret_value():
        advice = "Set OPENAI_BASE_URL, or OPENAI_API_KEY, as the server has them. The embedded model is never examined."
        _print({"check": "model", "ok": False, "text": "no endpoint is set", "advice": advice})
        return 1
    model = OpenAIModel(
        base_url=chosen.base_url or None,
        api_key=chosen.api_key.get_secret_value() or "none",
        model=chosen.name or "gpt-4o-mini",
        first_token_s=chosen.first_token_s,
    )
    done = 0

    def on_answer() -> None:
        nonlocal done
        done += 1
        _print({"progress": done, "of": count()})

    try:
        fitness = await examine(ModelExtractor(model, RulesExtractor()), on_answer)
    except ModelTimeout:
        advice = "It answers too slowly to read messages; the rules read them while TWIN_EXTRACTION is auto."
        _print({"check": "model", "ok": False, "text": f"{model.name} did not answer in time", "advice": advice})
        return 1
    except ModelUnavailable:
        _print({"check": "model", "ok": False, "text": f"{model.name} does not answer", "advice": _UNREACHABLE})
        return 1
    finally:
        await model.close()
    text = (
        f"{model.name} learned {fitness.learned} of {fitness.facts} facts and fell into {fitness.fallen} of "
        f"{fitness.traps} traps: it is {'fit' if fitness.is_fit else 'not fit'} to read what users write"
    )
    advice = "" if fitness.is_fit else "The rules read in its place. A larger model learns more."
    _print({"check": "model", "ok": fitness.is_fit, "text": text, "advice": advice})
    return 0 if fitness.is_fit else 1


def _print(line: Json) -> None:
    sys.stdout.buffer.write(orjson.dumps(line) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
