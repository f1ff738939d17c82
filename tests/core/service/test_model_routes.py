"""The list of models, and each of them by its id."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from pipesd_core.service import http
from pipesd_core.service.api_keys import Keys
from pipesd_core.service.lifecycle import Lifecycle
from pipesd_core.service.model_routes import add_model_routes

ODD = "models/a b?c#d/é"
MODELS: list[dict[str, Any]] = [
    {"id": name, "object": "model", "max_model_len": 7} for name in ("toy", "org/name", "org/name:latest", ODD, ".")
]


def client_of(models: list[dict[str, Any]], *keys: str) -> httpx.AsyncClient:
    app = Starlette()
    app.router.redirect_slashes = False
    http.install(app, Lifecycle())
    add_model_routes(app, Keys(frozenset(keys)), lambda: models)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("toy", "toy"),
        ("org/name", "org/name"),
        ("org%2Fname", "org/name"),
        ("org%2fname%3Alatest", "org/name:latest"),
        ("models%2Fa%20b%3Fc%23d%2F%C3%A9", ODD),
    ],
)
async def test_the_entry_is_that_of_the_list(path: str, name: str) -> None:
    async with client_of(MODELS) as client:
        listed = (await client.get("/v1/models")).json()
        assert listed == {"object": "list", "data": MODELS}
        answer = await client.get(f"/v1/models/{path}")
        assert answer.json() == next(model for model in listed["data"] if model["id"] == name)
        head = await client.head(f"/v1/models/{path}")
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == answer.headers["content-length"]


@pytest.mark.parametrize("path", ["", "x", "TOY", "toy/", "org%252Fname", "org", "x" * 5000])
async def test_what_there_is_not(path: str) -> None:
    async with client_of(MODELS) as client:
        answer = await client.get(f"/v1/models/{path}")
        assert answer.status_code == 404
        error = answer.json()["error"]
        assert (error["code"], error["type"], error["param"]) == ("model_not_found", "invalid_request_error", "model")
        assert error["message"].startswith("The model '")
        assert error["message"].endswith("' does not exist")
        assert len(error["message"]) < 300


async def test_as_long_as_no_model_is_known_none_is_denied() -> None:
    async with client_of([]) as client:
        assert (await client.get("/v1/models")).json()["data"] == []
        answer = await client.get("/v1/models/toy")
        assert answer.status_code == 503
        assert answer.headers["retry-after"]


async def test_they_ask_for_a_key() -> None:
    async with client_of(MODELS, "k") as client:
        for path in ("/v1/models", "/v1/models/toy", "/v1/models/x"):
            answer = await client.get(path)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
        assert (await client.get("/v1/models/toy", headers={"authorization": "Bearer k"})).status_code == 200


async def test_default_is_the_only_one_as_in_the_bodies_of_requests() -> None:
    async with client_of(MODELS[:1]) as client:
        assert (await client.get("/v1/models/default")).json() == MODELS[0]
    async with client_of(MODELS[:2]) as client:
        assert (await client.get("/v1/models/default")).status_code == 404
