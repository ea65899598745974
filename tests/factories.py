"""What several test modules make or measure."""

from __future__ import annotations

from collections.abc import Callable
from time import process_time
from typing import Any

from twin_sio.config import GROUPS, Settings, Tuning


def least_cpu_s(work: Callable[[], object], times: int = 5) -> float:
    """The least CPU that the work took: what else runs on the machine only ever adds."""

    def once() -> float:
        began = process_time()
        work()
        return process_time() - began

    return min(once() for _ in range(times))


def make_settings(**fields: Any) -> Settings:
    """Settings with these fields, by group and field (`server__port=0`); the others are the defaults."""
    groups: dict[str, dict[str, Any]] = {}
    for name, value in fields.items():
        group, _, field = name.partition("__")
        groups.setdefault(group, {})[field] = value
    tuning = groups.pop("tuning", {})
    given: dict[str, Any] = {name: GROUPS[name](**values) for name, values in groups.items()}
    return Settings(**given, **({"tuning": Tuning(**tuning)} if tuning else {}))
