"""What one user may make this instance do at once, over all connections: units of CPU, and bytes that wait."""

from __future__ import annotations

from collections import Counter

from twin_sio.rate_limit import Bucket, BucketCache

CONNECTION_WAITING_BYTES = 256 * 1024
USER_WAITING_BYTES = 512 * 1024
"""Of events that were read and are not handled yet. Parsed they take up to 24 times as much memory."""
_CONNECTIONS = 6
_SECONDS_AT_ONCE = 5


class Budgets:
    """The budgets of all users with connections here. A user's units outlast the connections: to connect again gives
    no fresh ones."""

    def __init__(self, events_per_second: int) -> None:
        """A user has the units of six connections that each send small events at the bound."""
        # A unit is about 0.1 ms of a core, see `protocol.cost_of`.
        self._rate = _CONNECTIONS * events_per_second
        self._units = BucketCache()
        self._waiting: Counter[str] = Counter()  # bytes queued, by user; without those that have none

    def units(self, user_id: str) -> Bucket:
        """The bucket of the user's units; see `protocol.cost_of`."""
        return self._units.of(user_id, self._rate, _SECONDS_AT_ONCE * self._rate)

    def fits(self, user_id: str, size: int, waiting_here: int) -> bool:
        """Whether an event of this size may wait, too, on a connection where so many bytes wait. Where none do it may:
        an event is never too large for an empty queue."""
        mine = self._waiting[user_id] if waiting_here else 0
        return not mine or (waiting_here + size <= CONNECTION_WAITING_BYTES and mine + size <= USER_WAITING_BYTES)

    def waits(self, user_id: str, size: int) -> None:
        """An event waits."""
        self._waiting[user_id] += size

    def done(self, user_id: str, size: int) -> None:
        """It waits no longer."""
        self._waiting[user_id] -= size
        if self._waiting[user_id] <= 0:
            del self._waiting[user_id]

    def waiting(self, user_id: str) -> int:
        """Bytes that wait, over all of the user's connections here."""
        return self._waiting[user_id]
