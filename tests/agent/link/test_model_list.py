from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fake_gateway import gateways

from pipesd_agent.link import model_list as model_list_module
from pipesd_agent.link.model_list import ModelList
from pipesd_agent.link.network import Network

MODELS = [{"id": "m", "object": "model"}]


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_list_module, "RETRY_S", 0.0)
    monkeypatch.setattr(model_list_module, "FRESH_S", 0.0)


async def after(monkeypatch: pytest.MonkeyPatch, *answers: Callable[[httpx.Request], httpx.Response]) -> ModelList:
    """A model_list that has asked so often, and the requests that it made."""
    left = list(answers)
    done = asyncio.Event()

    def answer(request: httpx.Request) -> httpx.Response:
        if not left:
            done.set()
            raise httpx.ConnectError("enough")
        return left.pop(0)(request)

    real = httpx.AsyncClient

    def client(**options: Any) -> httpx.AsyncClient:
        options.pop("verify")
        return real(transport=httpx.MockTransport(answer), **options)

    monkeypatch.setattr(httpx, "AsyncClient", client)
    model_list = ModelList(gateways("http://gateway"), "the-key", None)
    task = asyncio.create_task(model_list.run())
    await asyncio.wait((task, asyncio.create_task(done.wait())), timeout=60, return_when=asyncio.FIRST_COMPLETED)
    assert not task.done(), task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return model_list


def says(body: Any, status: int = 200) -> Callable[[httpx.Request], httpx.Response]:
    return lambda _: httpx.Response(status, json=body)


def breaks(_: httpx.Request) -> httpx.Response:
    raise httpx.ReadTimeout("slow")


@pytest.mark.usefixtures("fast")
async def test_what_the_gateway_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    def listed(request: httpx.Request) -> httpx.Response:
        assert request.url == "http://gateway/v1/models"
        assert request.headers["authorization"] == "Bearer the-key"
        return httpx.Response(200, json={"data": MODELS})

    assert (await after(monkeypatch, listed)).models == MODELS
    assert ModelList(gateways("http://gateway"), None, None).models == []


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize(
    "trouble",
    [
        breaks,
        says({"error": {"message": "no"}}, 401),
        says([]),
        says({"data": None}),
        says({}),
        says("x"),
        lambda _: httpx.Response(200, content=b"<html>"),
        lambda _: httpx.Response(200, content=b"\xff"),
        says({"data": [{"id": "m" * model_list_module.MAX_LIST_BYTES}]}),
    ],
)
async def test_it_remembers_through_all_trouble_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, trouble: Callable[[httpx.Request], httpx.Response]
) -> None:
    model_list = await after(monkeypatch, says({"data": MODELS}), trouble)
    assert model_list.models == MODELS
    monkeypatch.undo()
    monkeypatch.setattr(model_list_module, "RETRY_S", 0.0)
    monkeypatch.setattr(model_list_module, "FRESH_S", 0.0)
    assert (await after(monkeypatch, trouble, says({"data": [*MODELS, "odd"]}))).models == MODELS


async def test_the_gateway_that_the_link_is_up_to_is_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        if request.url.host == "a":
            raise httpx.ConnectError("down")
        return httpx.Response(200, json={"data": [{"id": request.url.host}]})

    real = httpx.AsyncClient

    def client(**options: Any) -> httpx.AsyncClient:
        options.pop("verify")
        return real(transport=httpx.MockTransport(answer), **options)

    monkeypatch.setattr(httpx, "AsyncClient", client)
    listed = gateways("http://a", "http://b", "http://c")
    model_list = ModelList(listed, None, None)
    task = asyncio.create_task(model_list.run())
    async with asyncio.timeout(60):
        while not model_list.models:  # noqa: ASYNC110 - of another task
            await asyncio.sleep(0.01)
        assert asked == ["a", "b"]
        listed.set_current(listed.in_attempt_order(0.0)[2])  # at once, and not a minute later
        while model_list.models != [{"id": "c"}]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert asked == ["a", "b", "c"]


async def test_pauses_grow_while_nobody_answers_and_the_reason_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    paused: list[float | None] = []
    real = asyncio.timeout

    def noted(seconds: float | None) -> Any:
        paused.append(seconds)
        return real(0.0)

    def refused(_: httpx.Request) -> httpx.Response:
        return httpx.Response(401, json={})

    class Asking(Network):
        def http_client(self, **_: Any) -> httpx.AsyncClient:
            return httpx.AsyncClient(transport=httpx.MockTransport(refused))

    listed = gateways("http://gateway")
    model_list = ModelList(listed, "wrong", Asking({}))
    with monkeypatch.context() as patched:
        patched.setattr("pipesd_agent.link.model_list.asyncio.timeout", noted)
        task = asyncio.create_task(model_list.run())
        while len(paused) < 7:  # noqa: ASYNC110 - of another task
            await asyncio.sleep(0)
        assert not caplog.records, "the link says it"
        listed.current = listed.in_attempt_order(0.0)[0]
        while len(paused) < 12:  # noqa: ASYNC110
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert paused[:7] == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0, 60.0]
    (record,) = (record for record in caplog.records if record.name.startswith("pipesd_agent"))
    assert "model list: none from http://gateway/v1/models: HTTPStatusError" in record.getMessage()
