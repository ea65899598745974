"""A checkpointer of LangGraph over an answer's run: the newest checkpoint of each graph, for the next attempt alone.

The maintained one for MongoDB keeps every checkpoint of every thread, in its own collections and in threads of its own;
here an answer's state is sealed, fenced and erased with its turn, and gone once that is answered.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_checkpoint_id,
)
from langgraph.types import Interrupt

from twin_sio.agent import Run
from twin_sio.domain import Json

INTERRUPT = "__interrupt__"


class RunSaver(BaseCheckpointSaver[str]):
    """Keeps the newest checkpoint of each namespace, and the writes that belong to it; all of it is saved by the run
    with each checkpoint, and as an interrupt is written."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run
        self._spaces: dict[str, dict[str, Any]] = dict(run.saved.state["spaces"]) if run.saved.state else {}
        self.is_restored = bool(self._spaces)
        """Whether an earlier attempt has left something."""
        self.was_resumed = bool(run.saved.state and run.saved.state["resumed"])
        """Whether an earlier attempt has gone on with the decisions, and came to no checkpoint after it."""

    @property
    def interrupts(self) -> Sequence[Interrupt]:
        """What the graph stands at."""
        return [
            one
            for space in self._spaces.values()
            for of_task in space["writes"].values()
            for channel, value, _ in of_task
            if channel == INTERRUPT
            for one in self._load(value)
        ]

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        space = self._spaces.get(_space(config))
        wanted = get_checkpoint_id(config)
        if space is None or (wanted and wanted != space["id"]):
            return None
        writes = [
            (task_id, channel, self._load(value))
            for task_id, of_task in space["writes"].items()
            for channel, value, _ in of_task
        ]
        parent = {**config, "configurable": {**config["configurable"], "checkpoint_id": space["parent"]}}
        return CheckpointTuple(
            {"configurable": {**config["configurable"], "checkpoint_id": space["id"]}},
            self._load(space["checkpoint"]),
            self._load(space["metadata"]),
            parent if space["parent"] else None,  # type: ignore[arg-type]
            writes,
        )

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: ARG002 - there is one at most
        before: RunnableConfig | None = None,  # noqa: ARG002
        limit: int | None = None,  # noqa: ARG002
    ) -> AsyncIterator[CheckpointTuple]:
        found = await self.aget_tuple(config) if config is not None else None
        if found is not None:
            yield found

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,  # noqa: ARG002 - a checkpoint is kept whole
    ) -> RunnableConfig:
        parent = get_checkpoint_id(config)
        self._spaces[_space(config)] = {
            "id": checkpoint["id"],
            "parent": parent,
            "checkpoint": self._dump(checkpoint),
            "metadata": self._dump(metadata),
            "writes": {},
        }
        self.was_resumed = False
        await self._save()
        return {"configurable": {**config["configurable"], "checkpoint_id": checkpoint["id"]}}

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",  # noqa: ARG002 - LangGraph's signature
    ) -> None:
        space = self._spaces.get(_space(config))
        if space is None or get_checkpoint_id(config) != space["id"]:
            return
        kept = [
            [channel, self._dump(value), WRITES_IDX_MAP.get(channel, nth)]
            for nth, (channel, value) in enumerate(writes)
        ]
        known = [one for one in space["writes"].get(task_id, []) if one[2] not in {new[2] for new in kept}]
        space["writes"][task_id] = [*known, *kept]
        if any(channel == INTERRUPT for channel, _ in writes):
            await self._save()

    async def resume(self) -> None:
        """The graph goes on with the decisions now: saved first, so that a later attempt does not do so again."""
        self.was_resumed = True
        await self._save()

    async def _save(self) -> None:
        state: Json = {"spaces": self._spaces, "resumed": self.was_resumed}
        await self._run.save(state)

    def _dump(self, value: Any) -> list[str]:
        kind, raw = self.serde.dumps_typed(value)
        return [kind, base64.b64encode(raw).decode()]

    def _load(self, stored: Sequence[str]) -> Any:
        return self.serde.loads_typed((stored[0], base64.b64decode(stored[1])))

    def get_next_version(self, current: str | None, channel: None) -> str:  # noqa: ARG002 - LangGraph's signature
        """Versions that are compared as texts."""
        return f"{int(current or 0) + 1:032}"


def _space(config: RunnableConfig) -> str:
    return str(config["configurable"].get("checkpoint_ns", ""))
