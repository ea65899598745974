"""Settings for tests, by their group and field: `make_settings(server__port=0, limits__sessions=2)`."""

from __future__ import annotations

from typing import Any

from twin_sio.config import GROUPS, Settings, Tuning


def make_settings(**fields: Any) -> Settings:
    """Settings with these fields; the others come from the environment, or are the defaults."""
    groups: dict[str, dict[str, Any]] = {}
    for name, value in fields.items():
        group, _, field = name.partition("__")
        groups.setdefault(group, {})[field] = value
    tuning = groups.pop("tuning", {})
    given: dict[str, Any] = {name: GROUPS[name](**values) for name, values in groups.items()}
    return Settings(**given, **({"tuning": Tuning(**tuning)} if tuning else {}))
