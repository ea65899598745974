"""Who the twin is: texts by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from twin_sio.agent import prompts
from twin_sio.config import AgentSettings, ConfigError
from twin_sio.config.agent import PERSONA_CHARACTERS
from twin_sio.observability.limited_log import LimitedLog

NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Personas:
    """The persona of everybody, and those by name."""

    def __init__(self, default: str = prompts.PERSONA, named: Mapping[str, str] | None = None) -> None:
        self._default = default
        self._named = named or {}
        self._unknown = LimitedLog("agent", "persona_unknown")

    @classmethod
    def of(cls, settings: AgentSettings) -> Personas:
        """As they are set. Raises `ConfigError` for a file that is none, is empty, or too long."""
        default = settings.persona.strip()
        if settings.persona_file is not None:
            if default:
                raise ConfigError("TWIN_PERSONA and TWIN_PERSONA_FILE are both set: unset one of them.")
            default = _read(settings.persona_file, "TWIN_PERSONA_FILE")
        if len(default) > PERSONA_CHARACTERS:
            raise ConfigError(f"TWIN_PERSONA has more than {PERSONA_CHARACTERS} characters: it stands in every prompt.")
        named: dict[str, str] = {}
        if settings.personas_dir is not None:
            try:
                files = sorted(settings.personas_dir.glob("*.md"))
                if not settings.personas_dir.is_dir():
                    raise NotADirectoryError
            except OSError:
                raise ConfigError("TWIN_PERSONAS_DIR is no folder that can be read.") from None
            for file in files:
                if not NAME.fullmatch(file.stem):
                    raise ConfigError(
                        "TWIN_PERSONAS_DIR has a file whose name is not of letters, digits, - and _, as calm.md."
                    )
                named[file.stem] = _read(file, "TWIN_PERSONAS_DIR")
        return cls(default or prompts.PERSONA, named)

    def text(self, name: str) -> str:
        """The persona of this name; of a name that there is not, everybody's, with a warning in the log."""
        if name and name not in self._named:
            # What no file could be named after may be anybody's words.
            known = {"persona": name} if NAME.fullmatch(name) else {}
            self._unknown(
                **known, meaning="a token names a persona that TWIN_PERSONAS_DIR has not: everybody's is used"
            )
        return self._named.get(name, self._default)


def _read(file: Path, variable: str) -> str:
    try:
        text = file.read_text(encoding="utf-8-sig").strip()
    except FileNotFoundError:
        raise ConfigError(f"{variable}: there is no file {file}.") from None
    except OSError as error:
        raise ConfigError(f"{variable}: {file} cannot be read ({type(error).__name__}).") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{variable}: {file} is no UTF-8 text.") from None
    if not text or "\x00" in text:
        raise ConfigError(f"{variable}: {file} is empty, or no text.")
    if len(text) > PERSONA_CHARACTERS:
        raise ConfigError(f"{variable}: {file} has more than {PERSONA_CHARACTERS} characters.")
    return text
