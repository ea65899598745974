"""The HTTP routes answer as their OpenAPI document says, whatever they are sent."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from tests.conftest import token_of
from twin_sio.errors import StorageUnavailable
from twin_sio.http import openapi
from twin_sio.runtime.serve import Service

ALL = "twin:chat twin:profile twin:data"


async def test_the_document_is_served_as_it_is_generated(url: str) -> None:
    async with aiohttp.ClientSession() as http, http.get(f"{url}/openapi.json") as got:
        assert await got.json() == openapi.document()


@pytest.mark.filterwarnings("ignore:Do not use the `random` module")  # schemathesis does, for what stands in a path
@pytest.mark.parametrize("scope", [ALL, "twin:chat", None])
async def test_every_route_answers_as_the_document_says(url: str, user: str, scope: str | None) -> None:
    headers = {"Authorization": f"Bearer {token_of(user, scope=scope)}"} if scope else {}
    await asyncio.to_thread(_fuzz, url, headers)


def _fuzz(url: str, headers: dict[str, str]) -> None:
    schema = schemathesis.openapi.from_dict(openapi.document())
    tried = 0
    for operation in schema.get_all_operations():
        cases: Any = operation.ok().as_strategy()

        @given(case=cases)
        @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
        def try_one(case: Any) -> None:
            case.call_and_validate(base_url=url, headers=headers)

        try_one()
        tried += 1
    assert tried == len(openapi.ROUTES)


async def test_a_defect_shows_an_id_only(
    url: str, user: str, instance: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object) -> None:
        raise RuntimeError("a secret of the inside")

    monkeypatch.setattr(instance.rest._personal, "erase", fails)
    headers = {"Authorization": f'Bearer "Bearer {token_of(user, scope=ALL)}"'}  # as some people copy it
    async with aiohttp.ClientSession() as http, http.delete(f"{url}/v1/data", headers=headers) as got:
        body = await got.text()
    assert got.status == 500
    assert json.loads(body)["code"] == "internal"
    assert json.loads(body)["error_id"]
    assert "secret" not in body


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/nothing", 404), ("PUT", "/v1/data", 405)])
async def test_what_is_not_there_is_told_as_any_error(url: str, method: str, path: str, status: int) -> None:
    async with aiohttp.ClientSession() as http, http.request(method, url + path) as got:
        body = await got.json()
    assert (got.status, body["code"], body["retryable"]) == (status, "not_found", False)
    assert ("Allow" in got.headers) is (status == 405)


async def test_an_unreachable_store_is_unavailable(
    url: str, user: str, instance: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object) -> None:
        raise StorageUnavailable

    monkeypatch.setattr(instance.rest._personal, "erase", fails)
    headers = {"Authorization": f"Bearer {token_of(user, scope=ALL)}"}
    async with aiohttp.ClientSession() as http, http.delete(f"{url}/v1/data", headers=headers) as got:
        assert (got.status, (await got.json())["code"]) == (503, "storage_unavailable")
