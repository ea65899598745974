"""Variables that look like settings and are none: most are misspelt, and would be waited for in vain."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from difflib import get_close_matches
from typing import Final, NamedTuple

_PREFIX: Final = "TWIN_"
# Read by the command line, and by deploy/docker-compose.yml.
_OF_OTHERS: Final = ("TWIN_URL", "TWIN_TOKEN", "TWIN_REDIS_PASSWORD")
_OF_SERVICE: Final = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_\w+)?)$")
_NEAR: Final = 0.75  # as `difflib` has it, from 0 to 1


class UnknownVariable(NamedTuple):
    """A variable that nothing reads, and the setting whose name is the nearest; empty: none is near."""

    name: str
    nearest: str

    def __str__(self) -> str:
        return f"{self.name} is no setting and is ignored. {self.advice}"

    @property
    def advice(self) -> str:
        """What to do about it."""
        return f"Is it {self.nearest}?" if self.nearest else "docs/configuration.md has them all."


def unknown_variables(names: Iterable[str], known: Iterable[str]) -> list[UnknownVariable]:
    """Those of `names` that look like a setting, and are none of `known`."""
    read = {*known, *_OF_OTHERS}
    given = {name.upper(): name for name in names}  # case does not matter in a setting's name
    found = [name for name in sorted(given) if name.startswith(_PREFIX) and name not in read]
    return [
        UnknownVariable(given[name], next(iter(get_close_matches(name, read, 1, _NEAR)), ""))
        for name in found
        if not _is_of_kubernetes(name, given)
    ]


def _is_of_kubernetes(name: str, names: Container[str]) -> bool:
    """Whether it tells of a Service whose name begins with `twin`: pods are given such variables."""
    service = _OF_SERVICE.sub("", name)
    return service != name and f"{service}_SERVICE_HOST" in names
