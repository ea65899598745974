"""Where in the user's own code something has failed; never what it said: that may quote a secret."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path
from types import FrameType

import twin_sio

_LIBRARIES = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")]
_LIBRARIES.append(Path(twin_sio.__file__).resolve().parent)


def failure_in(module: str, error: BaseException) -> str:
    """The kind of the failure, and the place in the user's code that it has come from, if any."""
    place = place_in(module, error)
    return type(error).__name__ + (f" at {place}" if place else "")


def place_in(module: str, error: BaseException) -> str:
    """`file:line`: the innermost line of the package of `module`, or of what is no library; empty where there is
    none."""
    if isinstance(error, SyntaxError) and error.lineno and Path(error.filename or "").is_file():
        return f"{_shown(error.filename or '')}:{error.lineno}"
    package = module.partition(".")[0]
    lines = [at for at in traceback.walk_tb(error.__traceback__) if _is_own(package, at[0])]
    return f"{_shown(lines[-1][0].f_code.co_filename)}:{lines[-1][1]}" if lines else ""


def _is_own(package: str, frame: FrameType) -> bool:
    if str(frame.f_globals.get("__name__", "")).partition(".")[0] == package:
        return True
    file = Path(frame.f_code.co_filename)
    return file.is_file() and not any(file.resolve().is_relative_to(library) for library in _LIBRARIES)


def _shown(file: str) -> str:
    path = Path(file).resolve()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
