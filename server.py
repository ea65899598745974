"""The web process: Settings -> app -> run."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

if __name__ == "__main__":  # Ctrl-C during the imports, which take seconds: no traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

import uvloop

from twin_sio.config import ConfigError, Settings, unknown_settings
from twin_sio.observability.logging import print_crashes_without_messages


def main() -> int:
    """Run until SIGTERM or Ctrl-C; the exit code."""
    print_crashes_without_messages()
    try:
        settings = Settings.from_environment()
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    for unknown in unknown_settings():
        print(unknown, file=sys.stderr, flush=True)
    # The rest takes seconds to import: what is wrong with the settings is said before.
    from twin_sio.runtime.serve import serve

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve(settings, lambda line: print(line, flush=True)))


if __name__ == "__main__":
    sys.exit(main())
