"""Looks at the model that the environment names: `python -m twin_sio.runtime.model_check` prints a JSON object a line,
`{check, ok, text, advice}`, as `twin-sio doctor --model` shows them, or `{progress, of}` meanwhile."""

from __future__ import annotations

import asyncio
import sys
from typing import Final
from urllib.parse import urlsplit

from twin_sio.agent.extraction.fitness import count, examine
from twin_sio.agent.extraction.model import ModelExtractor
from twin_sio.agent.extraction.rule_extractor import RulesExtractor
from twin_sio.agent.model import Failure
from twin_sio.config import ConfigError, Settings
from twin_sio.errors import ModelTimeout, ModelUnavailable
from twin_sio.observability.logging import configure_logs
from twin_sio.runtime.checks import print_check, print_line
from twin_sio.runtime.wiring import check_http_environment, model_of

# By the code of a failure, or the kind of what went wrong: what it is, and what to do.
_WRONG: Final[dict[str, tuple[str, str]]] = {
    "gaierror": ("nobody knows its host", "Look at the host in OPENAI_BASE_URL, and at this machine's DNS."),
    "ConnectionRefusedError": (
        "nothing listens there",
        "Look at the port in OPENAI_BASE_URL, and whether the endpoint runs.",
    ),
    "SSLError": (
        "no TLS with it",
        "Look whether OPENAI_BASE_URL must begin with http://, and at its certificate (SSL_CERT_FILE).",
    ),
    "Page": ("it answers with a page", "OPENAI_BASE_URL is of a web page: that of an API usually ends in /v1."),
    "PlainText": (
        "it answers with a plain text",
        "OPENAI_BASE_URL is of something else, as a health check or a proxy: that of an API usually ends in /v1.",
    ),
    "OtherJson": (
        "it answers with JSON that is no answer of this API",
        "OPENAI_BASE_URL is of another API: take the address under which it speaks as OpenAI does, usually with /v1.",
    ),
    "model_key_refused": (
        "it refuses the key",
        "Set OPENAI_API_KEY to a key of this endpoint that may use TWIN_MODEL.",
    ),
    "model_not_found": (
        "it has no such model, or no such path",
        "Look at TWIN_MODEL, and at the path of OPENAI_BASE_URL, which usually ends in /v1.",
    ),
    "model_quota_gone": ("its quota, or its credit, is used up", "Look at the billing page of its account."),
    "model_rate_limited": (
        "it is asked too often",
        "Wait, or lower TWIN_MODEL_CONCURRENCY, or ask for a higher limit.",
    ),
    "model_context_too_long": ("even a short question is too long for it", "Lower TWIN_PROMPT_BUDGET_TOKENS."),
    "model_filtered": ("its filter refuses a plain question", "Look at the filter in the account of its provider."),
    "model_no_answer": ("it thinks and says nothing", "Raise TWIN_MODEL_MAX_TOKENS."),
    "model_refused": (
        "it refuses what it is asked, and no form of it helps",
        "Look at what it takes, then at TWIN_MODEL_DIALECT and TWIN_MODEL_MAX_TOKENS.",
    ),
    "model_timeout": (
        "it does not answer in time",
        "Look whether it is still loading; TWIN_MODEL_FIRST_TOKEN_S is the time that it has.",
    ),
    "model_unavailable": ("it fails", "Look at its own log, or at the status page of its provider."),
}


def main() -> int:
    """Exit code 0 where the model answers and is fit to read what users write, else 1."""
    configure_logs("error")
    try:
        settings = Settings.from_environment()
        check_http_environment()
    except ConfigError as error:
        advice = "Set the variable as docs/configuration.md has it; nothing starts before."
        print_check("settings", False, str(error), advice)
        return 1
    return asyncio.run(_checked(settings))


def what_is_wrong(failure: Failure) -> tuple[str, str]:
    """What a failure is, and what to do, in a sentence each."""
    kind = "SSLError" if failure.error.startswith("SSL") else failure.error
    wrong, advice = _WRONG.get(kind) or _WRONG[failure.code]
    return f"{wrong} (HTTP {failure.status})" if failure.status >= 400 else wrong, advice


def _place(base_url: str) -> str:
    """The endpoint's host, and its port where one is set: never its login or its path."""
    return urlsplit(base_url).netloc.rpartition("@")[2]


async def _checked(settings: Settings) -> int:
    chosen = settings.model
    if not chosen.base_url and not chosen.api_key.get_secret_value():
        advice = "Set OPENAI_BASE_URL, or OPENAI_API_KEY, as the server has them. The embedded model is never examined."
        print_check("model", False, "no endpoint is set", advice)
        return 1
    model = model_of(settings)
    done = 0

    def on_answer() -> None:
        nonlocal done
        done += 1
        print_line({"progress": done, "of": count()})

    try:
        failure = await model.check()
        if failure is not None:
            wrong, advice = what_is_wrong(failure)
            print_check("model", False, f"{model.name} at {_place(chosen.base_url) or model.host}: {wrong}", advice)
            return 1
        fitness = await examine(ModelExtractor(model, RulesExtractor()), on_answer)
    except ModelTimeout:
        advice = "It answers too slowly to read messages; the rules read them while TWIN_EXTRACTION is auto."
        print_check("model", False, f"{model.name} did not answer in time", advice)
        return 1
    except ModelUnavailable as error:
        wrong, advice = _WRONG[error.code]
        print_check("model", False, f"{model.name} answered, and then {wrong}", advice)
        return 1
    finally:
        await model.close()
    text = (
        f"{model.name} learned {fitness.learned} of {fitness.facts} facts and fell into {fitness.fallen} of "
        f"{fitness.traps} traps: it is {'fit' if fitness.is_fit else 'not fit'} to read what users write"
    )
    advice = "" if fitness.is_fit else "The rules read in its place. A larger model learns more."
    return 0 if print_check("model", fitness.is_fit, text, advice) else 1


if __name__ == "__main__":
    sys.exit(main())
