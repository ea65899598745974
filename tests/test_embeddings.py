"""Vectors: from the wheel and from an endpoint, near where texts are related."""

from __future__ import annotations

import resource
import sys
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest

from tests.scripted_model import ScriptedModel
from twin_sio.agent.embeddings import EndpointEmbedder, LocalEmbedder
from twin_sio.errors import ModelUnavailable

TEXTS = ["My sister Ana gets married in June", "The deployment failed because of nginx", "Soup recipes", "", "🌙"]


@pytest.fixture
async def server() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel() as running:
        yield running


def nearest(to: bytes, vectors: Sequence[bytes], floor: float) -> list[int]:
    """Which of the vectors are related, the nearest first."""
    likeness = [float(np.dot(np.frombuffer(to, "<f2").astype("f4"), np.frombuffer(one, "<f2"))) for one in vectors]
    return [at for at in sorted(range(len(vectors)), key=lambda at: -likeness[at]) if likeness[at] >= floor]


async def test_the_local_model_finds_what_is_related_and_nothing_else():
    embedder = LocalEmbedder()
    vectors = await embedder.embed(TEXTS)
    wedding, emptiness, stranger = await embedder.embed(["When is the wedding?", "", "Quarterly tax declaration"])
    assert nearest(wedding, vectors, 0.3) == [0]
    assert nearest(emptiness, vectors, 0.3) == []
    assert nearest(stranger, vectors, 0.3) == []
    assert {len(vector) for vector in vectors} == {512}


async def test_vectors_are_matched_by_index_in_one_request(server):
    """An endpoint is asked once and its order does not matter."""
    embedder = EndpointEmbedder(base_url=server.base_url, api_key="k", model="bag")
    vectors = await embedder.embed(TEXTS)
    (nginx,) = await embedder.embed(["nginx deployment failed"])
    assert nearest(nginx, vectors, 0.5) == [1]
    await embedder.close()


@pytest.mark.parametrize("script", [{"status": 500}, {"status": 401}])
async def test_an_endpoint_that_fails_is_model_unavailable(server, script):
    embedder = EndpointEmbedder(base_url=server.base_url, api_key="k", model="bag")
    server.script(**script)
    with pytest.raises(ModelUnavailable):
        await embedder.embed(["secret words"])
    await embedder.close()
    with pytest.raises(ModelUnavailable):
        await EndpointEmbedder(base_url="http://127.0.0.1:9/v1", api_key="k", model="bag").embed(["x"])


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
async def test_what_was_embedded_is_not_kept_in_memory() -> None:
    embedder = LocalEmbedder()
    said = [f"number {n} is a text of words that nobody has said before and that nobody repeats" for n in range(6000)]
    await embedder.embed(said[:400])
    before = _memory_mib()
    for start in range(400, len(said), 20):
        await embedder.embed(said[start : start + 20])
    assert _memory_mib() - before < 5


def _memory_mib() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20
