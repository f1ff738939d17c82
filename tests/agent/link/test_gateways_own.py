"""Routes of the gateway's own API, through the agent: as they come, with the agent's keys and bounds."""

from __future__ import annotations

import httpx
import pytest
from test_agent import agent_over, completes
from test_passthrough import agent_before, error_of, gateway, streamed, whole

from pipesd_agent.api.app import GATEWAYS_OWN, create_app
from pipesd_core.service import http
from pipesd_core.service.api_keys import Keys


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/rerank", "/v1/responses/resp_1/cancel", *GATEWAYS_OWN])
async def test_a_body_and_its_answer_pass_as_they_are(path: str) -> None:
    async with gateway() as fake, agent_before(fake.url, "the-key") as (client, _, link):
        fake.script = whole(b'{ "odd":\t"space" }\n', "200 OK")
        url = f"{str(client.base_url).removesuffix('/v1/')}{path}?a=%2F&b"
        answer = await client.post(url, json={"input": "é"}, headers={"authorization": "Bearer of-the-client"})
        assert (answer.status_code, answer.content) == (200, b'{ "odd":\t"space" }\n')
        assert (answer.headers["content-type"], answer.headers["x-pipesd-mode"]) == ("application/json", "cloud")
        assert fake.bodies == [{"input": "é"}]
        assert fake.heads[0].startswith(f"post {path}?a=%2f&b http/1.1\r\n")
        assert "\r\nauthorization: bearer the-key\r\n" in fake.heads[0]
        assert link.asked == []


async def test_other_bodies_than_json_and_other_methods() -> None:
    async with gateway() as fake, agent_before(fake.url) as (client, _, _link):
        form = {"content-type": "multipart/form-data; boundary=x"}
        await client.post("/audio/transcriptions", content=b"--x--\xff", headers=form)
        assert fake.bodies == [b"--x--\xff"]
        assert "content-type: multipart/form-data; boundary=x\r\n" in fake.heads[0]
        for method in ("GET", "DELETE"):
            assert (await client.request(method, "/responses/resp_1?stream=true")).status_code == 200
            assert fake.heads[-1].startswith(f"{method.lower()} /v1/responses/resp_1?stream=true http/1.1\r\n")
        assert (await client.get(f"{str(client.base_url).removesuffix('/v1/')}/version")).status_code == 200
        assert fake.heads[-1].startswith("get /version http/1.1\r\n")


@pytest.mark.parametrize("status", ["204 No Content", "404 Not Found", "422 Unprocessable Entity"])
async def test_a_status_passes_as_it_is(status: str) -> None:
    async with gateway() as fake, agent_before(fake.url) as (client, _, _link):
        fake.script = whole(b"" if status.startswith("204") else b'{"error": {"message": "no"}}', status)
        assert (await client.post("/embeddings", json={})).status_code == int(status[:3])


async def test_events_pass_as_they_are() -> None:
    events = (b'event: response.created\ndata: {"type":"response.created"}\n\n', b"event: response.completed\n")
    last = b'data: {"type":"response.completed"}\n\n'
    async with gateway() as fake, agent_before(fake.url) as (client, _, _link):
        fake.script = streamed(*events, last)
        assert (await client.get("/responses/resp_1?stream=true")).content == b"".join((*events, last))
        fake.script = streamed(*events)
        broken = (await client.get("/responses/resp_1?stream=true")).text
        assert "ended its answer too early" in broken.split("\n\n")[-2]


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/pipesd/verify", "/v1/pipesd/agent", "/v1/%2e%2e/metrics", "/v1/x/%2E%2E/pipesd/info", "/v1/x/../../a"),
        *("/v1//pipesd/verify", "/v1/%2fpipesd/verify"),
    ],
)
async def test_what_is_between_agents_and_gateways_is_not_reached(path: str) -> None:
    agent, _ = agent_over(completes)
    transport = httpx.ASGITransport(create_app(agent), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://agent") as client:
        assert "there is no POST" in error_of(await client.post(path, json={}), 404)["message"]


@pytest.mark.parametrize(("path", "method"), [("/v1/embeddings", "POST"), ("/v1/x", "GET"), ("/version", "GET")])
async def test_keys_bounds_and_a_gateway_that_is_away(path: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, _ = agent_over(completes)
    transport = httpx.ASGITransport(create_app(agent, keys=Keys(frozenset({"k"}))), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://agent") as client:
        error_of(await client.request(method, path), 401)
        mine = {"authorization": "Bearer k"}
        assert "cannot reach" in error_of(await client.request(method, path, headers=mine), 503)["message"]
        monkeypatch.setattr(http, "MAX_BODY_BYTES", 6)
        error_of(await client.request(method, path, headers=mine, content=b"1234567"), 413)


async def test_errors_of_messages_have_anthropic_s_shape() -> None:
    agent, _ = agent_over(completes)
    transport = httpx.ASGITransport(create_app(agent, keys=Keys(frozenset({"k"}))), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://agent") as client:
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            answer = await client.post(path, json={})
            assert answer.status_code == 401
            assert answer.json()["type"] == "error"
            assert answer.json()["error"]["type"] == "authentication_error"
        answer = await client.post("/v1/messages/count_tokens", json={}, headers={"x-api-key": "k"})
        assert (answer.status_code, answer.json()["error"]["type"]) == (503, "overloaded_error")


async def test_a_header_that_cannot_be_passed_on_is_refused() -> None:
    agent, _ = agent_over(completes)
    transport = httpx.ASGITransport(create_app(agent), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://agent") as client:
        odd = [(b"content-type", "text/plain; x=é".encode("latin-1"))]
        error = error_of(await client.post("/v1/embeddings", content=b"{}", headers=odd), 400)
        assert "Content-Type" in error["message"]
