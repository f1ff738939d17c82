"""`--unknown-parameters` at either end, over both ways that an agent has: refused by name, or left out and listed."""

from __future__ import annotations

import itertools
from typing import Any

import httpx
import pytest
from both_ends import TEXT, both_ends

from pipesd_core.openai_parameters import UnknownParameters

WAYS: dict[str, dict[str, Any]] = {
    "session": {},
    "session, streamed": {"stream": True},
    "passed on": {"n": 2},
    "passed on, streamed": {"n": 2, "stream": True},
}
UNKNOWN = {"b": [1], "a, b": {"x": 1}, "c": None}
LISTED = "b, a%2C%20b"
CHOICES: list[UnknownParameters] = ["refuse", "ignore"]


async def ask(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    asked = {"prompt": "x", "seed": 1, "max_tokens": 20} | body
    return await client.post("/v1/completions", json=asked)


@pytest.mark.parametrize(("at_the_gateway", "at_the_agent"), [*itertools.product(CHOICES, CHOICES)])
async def test_what_nobody_knows(at_the_gateway: UnknownParameters, at_the_agent: UnknownParameters) -> None:
    async with both_ends(at_the_gateway=at_the_gateway, at_the_agent=at_the_agent) as (plain, drafted):
        for client, policies in ((plain, {at_the_gateway}), (drafted, {at_the_gateway, at_the_agent})):
            for way, body in WAYS.items():
                known = await ask(client, **body)
                assert known.status_code == 200
                assert "x-pipesd-ignored" not in known.headers
                answer = await ask(client, **body, **UNKNOWN)
                if "ignore" in policies:
                    assert answer.status_code == 200, (way, answer.text)
                    assert answer.headers["x-pipesd-ignored"] == LISTED
                    assert answer.headers["x-pipesd-seed"] == "1"
                    assert answer.text.count(TEXT) == known.text.count(TEXT)
                else:
                    assert answer.status_code == 400, way
                    error = answer.json()["error"]
                    assert error["param"] == "b"
                    assert "--unknown-parameters" in error["message"]
                    assert "x-pipesd-ignored" not in answer.headers


async def test_what_is_known_and_would_change_the_answer_is_refused_all_the_same() -> None:
    async with both_ends(at_the_gateway="ignore", at_the_agent="ignore") as clients:
        for client, way in itertools.product(clients, WAYS.values()):
            for param, value in (("mirostat", 2), ("tools", [{}]), ("messages", []), ("user", 1), ("top_k", "5")):
                answer = await ask(client, **way, **UNKNOWN, **{param: value})
                assert answer.status_code == 400
                assert answer.json()["error"]["param"] == param


async def test_names_and_lengths_that_mean_what_the_server_has() -> None:
    async with both_ends() as clients:
        for client, way in itertools.product(clients, ({}, {"n": 2.0})):
            for model in ("fake", "default", "", None):
                answer = await ask(client, **way, model=model, max_tokens=-1, top_k=4.0)
                assert answer.status_code == 200, answer.text
                assert answer.json()["model"] == "fake"
                assert {choice["text"] for choice in answer.json()["choices"]} == {TEXT}
            answer = await ask(client, **way, model="other")
            assert answer.status_code == 404
            error = answer.json()["error"]
            assert (error["param"], error["code"]) == ("model", "model_not_found")
            assert "'fake'" in error["message"]
            long = await ask(client, **way, max_tokens=64)
            assert long.json()["error"]["param"] == "max_tokens"
        for client in clients:
            body = {"messages": [{"role": "user", "content": "x"}], "max_completion_tokens": 64}
            error = (await client.post("/v1/chat/completions", json=body)).json()["error"]
            assert error["param"] == "max_completion_tokens"
            assert "max_completion_tokens is 64" in error["message"]
