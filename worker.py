"""The worker process: `python worker.py`, or `arq worker.WorkerSettings`."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

if __name__ == "__main__":  # Ctrl-C during the imports, which take seconds: no traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

from twin_sio.config import ConfigError, Settings, unknown_settings
from twin_sio.observability.logging import print_crashes_without_messages


def _settings() -> Settings:
    print_crashes_without_messages()
    settings = Settings.from_environment()
    for unknown in unknown_settings() if not settings.is_dev else ():  # in dev the server, which starts it, has said so
        print(unknown, file=sys.stderr, flush=True)
    if not settings.storage.redis_url or not settings.storage.mongodb_url:
        raise ConfigError("The worker needs TWIN_MONGODB_URL and TWIN_REDIS_URL; in dev server.py starts one itself.")
    return settings


def __getattr__(name: str) -> Any:
    """`WorkerSettings`, as arq's documentation has it. Made when it is asked for: to import this module needs no
    environment."""
    if name != "WorkerSettings":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        settings = _settings()
        import arq.worker

        from twin_sio.jobs.worker import ReconnectingWorker
        from twin_sio.runtime.work import process_settings

        attributes = process_settings(settings)
    except ConfigError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    # arq's command always makes an `arq.worker.Worker`; ours is fair between users and survives an outage of Redis.
    arq.worker.Worker = ReconnectingWorker  # type: ignore[misc]
    return type(name, (), attributes)


def main() -> int:
    """Run until SIGTERM or Ctrl-C; the exit code."""
    try:
        settings = _settings()
        # The rest takes seconds to import: what is wrong with the settings is said before.
        from twin_sio.runtime.work import work

        work(settings)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
