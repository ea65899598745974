"""How well models read, as it was found out once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from twin_sio.domain import Fitness


@dataclass(frozen=True, slots=True)
class ModelVerdict:
    """What the test of a model gave, and when."""

    fitness: Fitness
    at: datetime


class ModelVerdicts(Protocol):
    """Verdicts by the model's id, a hash of its endpoint, its name and the version of the test."""

    async def get(self, model_id: str) -> ModelVerdict | None:
        """The last verdict; None while there is none."""
        ...

    async def put(self, model_id: str, verdict: ModelVerdict) -> None:
        """Take the place of the last one."""
        ...
