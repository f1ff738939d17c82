"""What is measured between an engine and its callers, and what a scrape of the gateway shows of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx
import pytest
from engine_rules import CLOSING_RULES, RULES, NotOffered, Rule, Subject
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from test_fake_engine import ENDING, MAX_RUNNING, PROMPT, logits

from pipesd_core.engine.fake import INFO, FakeEngine, by_logits, script
from pipesd_core.engine.interface import EngineOutput, Finished
from pipesd_core.errors import EngineFailed, Overloaded
from pipesd_core.protocol.messages import Endpoint
from pipesd_core.service.api_keys import Keys
from pipesd_gateway.api import create_app
from pipesd_gateway.metrics import GatewayMetrics

LATENCIES = (
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "request_time_per_output_token_seconds",
    "e2e_request_latency_seconds",
    "request_queue_time_seconds",
)
BODY = b'{"prompt": "x"}'


@contextlib.asynccontextmanager
async def client_of(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


async def scrape(client: httpx.AsyncClient) -> dict[str, float]:
    """Samples by name and labels; those of `le` are left out."""
    response = await client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            if "le" not in sample.labels:
                labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
                found[f"{sample.name}{{{labels}}}".removesuffix("{}")] = sample.value
    return found


@pytest.mark.parametrize("rule", [*RULES, *CLOSING_RULES], ids=lambda rule: rule.__name__)
async def test_an_engine_that_is_measured_follows_the_rules_of_engines(rule: Rule) -> None:
    engine = FakeEngine(by_logits(logits, INFO.n_vocab), max_running=MAX_RUNNING)
    measured = GatewayMetrics().measure(engine, "agent")
    try:
        await rule(Subject(measured, prompt=PROMPT, ending=ENDING, max_running=MAX_RUNNING))
    except NotOffered as reason:
        pytest.skip(f"not offered: {reason}")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_request_of_the_api_is_timed(stream: bool) -> None:
    engine = FakeEngine(script(b"abcd"))
    async with client_of(create_app(engine, keys=Keys(frozenset({"k"})))) as client:
        headers = {"authorization": "Bearer k"}
        body = {"prompt": "x", "max_tokens": 4, "stream": stream}
        assert (await client.post("/v1/completions", json=body, headers=headers)).status_code == 200
        assert (await client.post("/v1/completions", json={"prompt": ""}, headers=headers)).status_code == 400
        found = await scrape(client)
    for name in LATENCIES:
        expected = 3 if name == "inter_token_latency_seconds" else 1
        assert found[f"pipesd_gateway_{name}_count{{source=api}}"] == expected, name
    assert found["pipesd_gateway_requests_received_total{source=api}"] == 2
    assert found["pipesd_gateway_requests_finished_total{outcome=completed,source=api}"] == 1
    assert found["pipesd_gateway_requests_finished_total{outcome=refused,source=api}"] == 1
    assert found["pipesd_gateway_requests_running{source=api}"] == 0
    assert found["pipesd_engine_steps_total"] == found["pipesd_engine_step_tokens_count"] == 4
    assert found["pipesd_engine_verifying_steps_total"] == 0
    assert found["pipesd_engine_step_forward_seconds_sum"] == pytest.approx(4 * 2e-6)


async def test_verifications_are_steps_and_no_requests() -> None:
    engine = FakeEngine(script(b"abcd"))
    async with client_of(create_app(engine)) as client:
        asked = {"requests": [{"prompt": [1], "drafts": [97, 98, 120], "temperature": 0}]}
        assert (await client.post("/v1/pipesd/verify", json=asked)).json()["results"][0]["accepted"] == 2
        found = await scrape(client)
    assert found["pipesd_engine_verifying_steps_total"] == 1
    assert found["pipesd_engine_draft_tokens_total"] == 3
    assert found["pipesd_engine_accepted_draft_tokens_total"] == 2
    assert found["pipesd_engine_step_tokens_sum"] == 3
    assert not any("source=verify" in name for name in found)
    assert found["pipesd_gateway_requests_received_total{source=api}"] == 0


async def test_what_the_server_holds_is_shown() -> None:
    load = {"resumable": 3, "places_free": 2, "queued": 1, "sessions": 9}
    async with client_of(create_app(FakeEngine(script(b"")), load=lambda: load)) as client:
        found = await scrape(client)
    assert found["pipesd_gateway_sessions_resumable"] == 3
    assert found["pipesd_engine_sequences_free"] == 2
    assert found["pipesd_engine_admission_queue_length"] == 1


async def test_sessions_of_agents_wait_run_and_end() -> None:
    engine, metrics = FakeEngine(script(b"abcd"), max_running=1), GatewayMetrics()
    engine.running = False
    measured = metrics.measure(engine, "agent")
    outputs: list[EngineOutput] = []
    async with client_of(create_app(FakeEngine(script(b"")), metrics=metrics)) as client:

        async def shown(name: str) -> float:
            return (await scrape(client))[f"pipesd_gateway_{name}"]

        first = await measured.open(Endpoint.COMPLETIONS, BODY, outputs.append)
        waiting = asyncio.create_task(measured.open(Endpoint.COMPLETIONS, BODY, outputs.append))
        left = asyncio.create_task(measured.open(Endpoint.COMPLETIONS, BODY, outputs.append))
        await asyncio.sleep(0)
        assert await shown("requests_running{source=agent}") == 1
        assert await shown("requests_waiting{source=agent}") == 2
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        first.abort()
        second = await waiting
        engine.refusals.append(Overloaded("full"))
        with pytest.raises(Overloaded):
            await measured.open(Endpoint.COMPLETIONS, BODY, outputs.append)
        second.step(b"abx")
        engine.generations[-1].go()
        engine.generations[-1].fail(EngineFailed("boom"))
        third = await measured.open(Endpoint.COMPLETIONS, b'{"prompt": "x", "max_tokens": 1}', outputs.append)
        third.step(())
        engine.generations[-1].go()
        assert outputs[-1] == Finished()
        for outcome, count in {"completed": 1, "failed": 1, "aborted": 2, "refused": 1}.items():
            assert await shown(f"requests_finished_total{{outcome={outcome},source=agent}}") == count, outcome
        assert await shown("requests_running{source=agent}") == await shown("requests_waiting{source=agent}") == 0
        assert await shown("request_queue_time_seconds_count{source=agent}") == 3
        assert await shown("time_to_first_token_seconds_count{source=agent}") == 2
        assert await shown("e2e_request_latency_seconds_count{source=agent}") == 1
        assert await shown("requests_received_total{source=api}") == 0
