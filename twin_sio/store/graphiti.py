"""Facts in FalkorDB, as Graphiti's nodes and edges: one graph per user. The only file that knows graphiti-core.

What was learnt about the library, and is held by `tests/test_graphiti.py`:

- Importing it reads a `.env` into the environment, and it sends telemetry unless that is switched off before.
- Its driver builds indexes in the background: a query that comes late would bring an erased graph back. So does every
  read that is not a read-only one. Here no index is built, and reads are read-only.
- FalkorDB's own client asks the server for its mode, synchronously, when it is made; it is not used.
- What fails is logged with all its parameters, so that logger is silent.
- An edge to a node that is missing is dropped without a word.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from twin_sio.domain import Fact
from twin_sio.store.encryption import FieldCipher, is_sealed
from twin_sio.store.ports import GraphUnavailable

_TIMEOUT_S = 1.0  # an answer waits for 150 ms; the projection may wait longer
_MOST = 1000  # facts that are read of a user
# The one node that every fact leads from. No name and no id of the user's: the graph is theirs alone.
_PERSON = "person"


class GraphitiFacts:
    """`Facts`. Where there is a key, what a fact says is sealed, and the graph shows only when it held."""

    def __init__(self, url: str, sealer: FieldCipher) -> None:
        """`url`: `redis://` or `falkor://`, of a FalkorDB that is no cluster. Connects when it is first used.

        Imports the library, which takes a second, on the thread that it is called on: Python 3.11 may fail to compile
        anything while another thread imports.
        """
        _library()
        self._sealer = sealer
        scheme, _, rest = url.partition("://")
        self._redis: Redis = Redis.from_url(
            f"{scheme.replace('falkordb', 'redis').replace('falkor', 'redis')}://{rest}",
            socket_timeout=_TIMEOUT_S,
            socket_connect_timeout=_TIMEOUT_S,
            decode_responses=True,
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._redis.aclose()

    async def read(self, user_id: str) -> Sequence[Fact]:
        library = _library()
        name = _name(user_id)
        with _failures_named():
            try:
                edges = await library.EntityEdge.get_by_group_ids(
                    library.Driver(falkor_db=_Client(self._redis, read_only=True), database=name), [name], limit=_MOST
                )
            except library.NoEdges:
                return []
            except ResponseError as error:
                if "empty key" in str(error):  # there is no such graph
                    return []
                raise
        return [self._fact(edge) for edge in edges]

    async def write(
        self, user_id: str, facts: Sequence[Fact], gone: Sequence[Fact], traits_gone: Sequence[str]
    ) -> None:
        library = _library()
        name = _name(user_id)
        with _failures_named():
            driver = library.Driver(falkor_db=_Client(self._redis), database=name)
            # Saved again each time: an edge to a node that is missing would be dropped without a word.
            person = library.EntityNode(uuid=_PERSON, name=_PERSON, group_id=name, labels=["Person"])
            if facts:
                await person.save(driver)
            for fact in facts:
                await self._node(library, name, fact).save(driver)
                records, *_ = await self._edge(library, name, fact).save(driver)
                # The library says nothing of an edge that was not written; FalkorDB's reply does.
                if not records:
                    raise GraphUnavailable
            if gone:
                await library.EntityEdge.delete_by_uuids(driver, [fact.fact_id for fact in gone])
            if traits_gone:
                await library.EntityNode.delete_by_uuids(driver, list(traits_gone))

    async def erase(self, user_id: str) -> None:
        with _failures_named():
            try:
                await self._redis.execute_command("GRAPH.DELETE", _name(user_id))  # type: ignore[no-untyped-call]
            except ResponseError as error:
                if "empty key" not in str(error):  # there was none
                    raise

    def _node(self, library: Any, name: str, fact: Fact) -> Any:
        attributes = {"name": fact.value} if not self._seals else {"name": "sealed"}
        return library.EntityNode(
            uuid=fact.trait_id, group_id=name, labels=["Trait"], created_at=fact.created_at, **attributes
        )

    def _edge(self, library: Any, name: str, fact: Fact) -> Any:
        words: dict[str, Any] = {"name": fact.key, "fact": f"{fact.key}: {fact.value}"}
        attributes: dict[str, Any] = {"trait_key": fact.key, "trait_value": fact.value}
        if fact.about:
            words["fact"] = f"{fact.about}: {words['fact']}"
            attributes["trait_about"] = fact.about
        if self._seals:
            words = {"name": "sealed", "fact": "sealed"}
            attributes = {"sealed": self._sealer.seal(attributes)["sealed"].decode()}
        return library.EntityEdge(
            uuid=fact.fact_id,
            group_id=name,
            source_node_uuid=_PERSON,
            target_node_uuid=fact.trait_id,
            created_at=fact.created_at,
            expired_at=fact.expired_at,
            valid_at=fact.valid_at,
            invalid_at=fact.invalid_at,
            attributes=attributes,
            **words,
        )

    def _fact(self, edge: Any) -> Fact:
        attributes: Mapping[str, Any] = edge.attributes
        if "sealed" in attributes:
            attributes = self._sealer.open({"sealed": attributes["sealed"].encode()})
        return Fact(
            trait_id=edge.target_node_uuid,
            key=attributes["trait_key"],
            value=attributes["trait_value"],
            valid_at=edge.valid_at,
            invalid_at=edge.invalid_at,
            created_at=edge.created_at,
            expired_at=edge.expired_at,
            about=attributes.get("trait_about", ""),
        )

    @property
    def _seals(self) -> bool:
        return is_sealed(self._sealer.seal(""))


class _Client:
    """As much of FalkorDB's client as Graphiti's driver uses."""

    def __init__(self, redis: Redis, *, read_only: bool = False) -> None:
        self.execute_command = redis.execute_command
        self._read_only = read_only

    def select_graph(self, name: str) -> Any:
        graph = _library().AsyncGraph(self, name)
        if self._read_only:
            # A plain query makes a graph that is missing: a read after an erasure would bring it back.
            graph.query = graph.ro_query
        return graph


@contextmanager
def _no_dotenv() -> Iterator[None]:
    """Without a `.env` file: graphiti-core reads one when it is imported."""
    # A library's own variable, not a setting of the service.
    before = os.environ.get("PYTHON_DOTENV_DISABLED")  # noqa: TID251
    os.environ["PYTHON_DOTENV_DISABLED"] = "1"  # noqa: TID251
    try:
        yield
    finally:
        os.environ.pop("PYTHON_DOTENV_DISABLED")  # noqa: TID251
        if before is not None:
            os.environ["PYTHON_DOTENV_DISABLED"] = before  # noqa: TID251


@functools.cache
def _library() -> SimpleNamespace:
    """What is used of graphiti-core."""
    # For good: the library reads it at any time.
    os.environ["GRAPHITI_TELEMETRY_ENABLED"] = "false"  # noqa: TID251
    with _no_dotenv():
        from falkordb.asyncio.graph import AsyncGraph
        from graphiti_core.driver.falkordb_driver import FalkorDriver
        from graphiti_core.edges import EntityEdge
        from graphiti_core.errors import GroupsEdgesNotFoundError
        from graphiti_core.nodes import EntityNode
    logging.getLogger("graphiti_core").setLevel(logging.CRITICAL + 1)

    class Driver(FalkorDriver):  # type: ignore[misc, unused-ignore]
        """Bound to one graph, without indexes: a user's is small."""

        async def build_indices_and_constraints(self, delete_existing: bool = False) -> None:  # noqa: ARG002
            return

        def clone(self, database: str) -> Driver:  # noqa: ARG002 - the library asks for its default graph by it
            return self

    return SimpleNamespace(
        AsyncGraph=AsyncGraph,
        Driver=Driver,
        EntityEdge=EntityEdge,
        EntityNode=EntityNode,
        NoEdges=GroupsEdgesNotFoundError,
    )


@contextmanager
def _failures_named() -> Iterator[None]:
    """Whatever Redis raises is `GraphUnavailable` to everybody else."""
    try:
        yield
    except (RedisError, OSError):
        raise GraphUnavailable from None


def _name(user_id: str) -> str:
    return f"twin-{hashlib.sha256(user_id.encode()).hexdigest()[:32]}"
