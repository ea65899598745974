"""What several test modules make or measure."""

from __future__ import annotations

from collections.abc import Callable
from time import process_time


def least_cpu_s(work: Callable[[], object], times: int = 5) -> float:
    """The least CPU that the work took: what else runs on the machine only ever adds."""

    def once() -> float:
        began = process_time()
        work()
        return process_time() - began

    return min(once() for _ in range(times))
