"""In which form endpoints take what models are asked, as it was learnt from their refusals."""

from __future__ import annotations

from typing import Protocol

from twin_sio.domain import Json


class ModelDialects(Protocol):
    """What was learnt (the fields of `config.Dialect`), by the model's id, a hash of its endpoint and its name."""

    async def get(self, model_id: str) -> Json:
        """What was learnt within the last week; empty where that is nothing. What is behind an address is replaced now
        and then, so it is learnt anew."""
        ...

    async def put(self, model_id: str, learnt: Json) -> None:
        """Take the place of what was learnt before."""
        ...
