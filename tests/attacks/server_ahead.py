"""A server whose clock is five seconds ahead of the others': `python -m tests.attacks.server_ahead`."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta

from twin_sio import clock

AHEAD = timedelta(seconds=5)
_true = clock.now


def _ahead() -> datetime:
    return _true() + AHEAD


if __name__ == "__main__":
    clock.now = _ahead  # before anything takes it from there
    import server

    sys.exit(server.main())
