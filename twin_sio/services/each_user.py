"""Work over many users: what is wrong with the data of one of them stops no other."""

from __future__ import annotations

from collections.abc import Awaitable

import structlog

from twin_sio.errors import StorageUnavailable, TooLate

log = structlog.get_logger("each_user")


async def succeeded(user_id: str, work: str, part: Awaitable[object]) -> bool:
    """Whether this user's part of `work` was done. Why not is logged, by its kind. Where it was not, the caller
    postpones it: that raises `StorageUnavailable` where it is the store that is away, and not one document that cannot
    be read, written or unsealed."""
    try:
        await part
    except TooLate:  # erased meanwhile: nothing is left to do
        return True
    except StorageUnavailable as error:
        log.warning("user_skipped", user=user_id, work=work, code=error.code, reason=error.message)
        return False
    except Exception as error:
        log.exception("user_skipped", user=user_id, work=work, code=type(error).__name__)
        return False
    return True
