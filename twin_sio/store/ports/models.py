"""What was found out about models: how well they read, and in which form their endpoints take what they are asked."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from twin_sio.domain import Fitness, Json


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


class ModelDialects(Protocol):
    """What was learnt from endpoints' refusals (the fields of `config.Dialect`), by the model's id, a hash of its
    endpoint and its name."""

    async def get(self, model_id: str) -> Json:
        """What was learnt within the last week; empty where that is nothing. What is behind an address is replaced now
        and then, so it is learnt anew."""
        ...

    async def put(self, model_id: str, learnt: Json) -> None:
        """Take the place of what was learnt before."""
        ...
