"""Web pages: none may use the APIs unless the operator says which."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from pipesd_core.errors import ConfigError, Unauthorized
from pipesd_core.service import http
from pipesd_core.service.http import json_response
from pipesd_core.service.lifecycle import Lifecycle
from pipesd_core.service.program import listen
from pipesd_core.service.server import Server
from pipesd_core.service.settings import check_origins

PAGE = "https://chat.example"
STRANGER = "https://evil.example"


def app_for(*origins: str) -> Starlette:
    async def thing(_: Request) -> Response:
        return json_response({"ok": True})

    async def closed(_: Request) -> Response:
        raise Unauthorized("no API key")

    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("hello")
        await websocket.close()

    app = Starlette(
        routes=[
            Route("/v1/thing", thing, methods=["POST"]),
            Route("/v1/closed", closed, methods=["POST"]),
            WebSocketRoute("/v1/socket", socket),
        ]
    )
    http.install(app, Lifecycle(), origins)
    return app


@asynccontextmanager
async def client_of(*origins: str) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app_for(*origins))
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        yield client


async def preflight(client: httpx.AsyncClient, origin: str) -> httpx.Response:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,x-stainless-os"}
    return await client.options("/v1/thing", headers={"origin": origin} | asked)


@pytest.mark.parametrize("origins", [(), (PAGE,)])
@pytest.mark.parametrize("origin", [STRANGER, "null", f"{PAGE}:444", PAGE.replace("https", "http"), "http://here"])
async def test_a_page_that_nobody_allowed(origins: tuple[str, ...], origin: str) -> None:
    async with client_of(*origins) as client:
        for response in (
            await client.post("/v1/thing", headers={"origin": origin}),
            await preflight(client, origin),
        ):
            assert response.status_code == 403
            assert origin in response.json()["error"]["message"]
            assert "--cors-origin" in response.json()["error"]["message"]
            assert not [name for name in response.headers if name.startswith("access-control-")]
            assert response.headers["x-request-id"]


async def test_who_is_no_page_is_not_asked() -> None:
    async with client_of(PAGE) as client:
        assert (await client.post("/v1/thing")).status_code == 200


@pytest.mark.parametrize("allowed", [PAGE, "*"])
async def test_a_page_that_is_allowed(allowed: str) -> None:
    async with client_of(allowed) as client:
        asked = await preflight(client, PAGE)
        assert asked.status_code == 200
        assert asked.headers["access-control-allow-origin"] in (PAGE, "*")
        assert "POST" in asked.headers["access-control-allow-methods"]
        assert "x-stainless-os" in asked.headers["access-control-allow-headers"]
        for path, status in (("/v1/thing", 200), ("/v1/closed", 401), ("/nowhere", 404)):
            answer = await client.post(path, headers={"origin": PAGE})
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] in (PAGE, "*")
            for name in ("x-request-id", "x-pipesd-ignored"):
                assert name in answer.headers["access-control-expose-headers"]
            assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("allowed", [PAGE, "*"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_a_page_on_the_internet_that_is_allowed_reaches_localhost(allowed: str, method: str) -> None:
    """Private Network Access: browsers ask so before they send a public page's request to this machine."""
    asked = {"access-control-request-method": method, "access-control-request-private-network": "true"}
    async with client_of(allowed) as client:
        answer = await client.options("/v1/thing", headers={"origin": PAGE} | asked)
        assert answer.status_code == 200, answer.text
        assert answer.headers["access-control-allow-private-network"] == "true"
        assert "Access-Control-Request-Private-Network" in answer.headers["vary"]
        plain = await preflight(client, PAGE)
        assert "access-control-allow-private-network" not in plain.headers
    async with client_of(PAGE) as client:
        refused = await client.options("/v1/thing", headers={"origin": STRANGER} | asked)
        assert refused.status_code == 403
        assert "access-control-allow-private-network" not in refused.headers


async def test_web_sockets_of_pages() -> None:
    """Browsers ask nobody before they open one."""
    listener = listen("127.0.0.1", 0)
    url = f"ws://127.0.0.1:{listener.getsockname()[1]}/v1/socket"

    async def nothing() -> None:
        pass

    server = Server(app_for(PAGE), nothing, log_level="warning")
    task = asyncio.create_task(server.serve([listener]))
    try:
        async with asyncio.timeout(60):
            while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
                await asyncio.sleep(0.01)
            for headers in ({}, {"origin": PAGE}):
                async with connect(url, additional_headers=headers) as socket:
                    assert await socket.recv() == "hello"
            with pytest.raises(InvalidStatus) as refused:
                await connect(url, additional_headers={"origin": STRANGER})
            assert refused.value.response.status_code == 403
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, 60)


@pytest.mark.parametrize("value", ["", "chat.example", "https://chat.example/", "https://", "HTTPS://a", "https://a/b"])
def test_what_is_no_origin(value: str) -> None:
    with pytest.raises(ConfigError, match="cors_origin must be such as"):
        check_origins((value,))
    check_origins((PAGE, "*", "http://localhost:3000", "app://obsidian.md"))
