"""Work over many users: what is wrong with the data of one of them stops no other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from twin_sio.errors import StorageUnavailable

log = structlog.get_logger("each_user")


@contextmanager
def isolated(user_id: str, work: str) -> Iterator[None]:
    """Log a failure of this user's part of `work`, by its kind, and go on. `StorageUnavailable`, which all of them
    would meet, is raised."""
    try:
        yield
    except StorageUnavailable:
        raise
    except Exception as error:
        log.exception("user_skipped", user=user_id, work=work, code=type(error).__name__)
