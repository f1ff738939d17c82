"""Usage, records and /metrics have the same numbers: a whole agent, over sockets, at a gateway with a fake engine."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from event_stream import data_as_it_comes, data_of
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette

from pipesd_agent.api.app import create_app as agent_app
from pipesd_agent.build import make_agent
from pipesd_agent.config import AgentConfig
from pipesd_agent.session.settings import SessionSettings
from pipesd_core.engine.fake import FakeEngine, script
from pipesd_core.service.api_keys import Keys
from pipesd_core.service.program import listen
from pipesd_core.service.server import Server
from pipesd_gateway import agents
from pipesd_gateway.api import create_app as gateway_app
from pipesd_gateway.limits import SessionLimits
from pipesd_gateway.quota import Quota

TEXT = b"the cat sat on the mat, the cat sat on the hat, the dog sat on the cat. " * 2
"""What the target writes, and prompt lookup guesses well from its own beginning on, but not always rightly."""
PROMPT = "the cat sat on the mat, the cat"
COUNTERS = {
    "output_tokens": "tokens",
    "draft_tokens": "drafted",
    "sent_draft_tokens": "sent",
    "accepted_draft_tokens": "accepted",
    "target_steps": "forwards",
    "verification_requests": "requests",
    "verifications": "verifications",
    "draft_discards": "discards",
}
"""Counters of /metrics, by the count of a record that they sum up."""


async def nothing() -> None:
    """There is nothing to stop."""


@asynccontextmanager
async def serving(app: Starlette) -> AsyncIterator[str]:
    listener = listen("127.0.0.1", 0)
    server = Server(app, nothing, log_level="warning")
    task = asyncio.create_task(server._serve([listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def client_of_an_agent(capacity: int = 8) -> AsyncIterator[httpx.AsyncClient]:
    engine = FakeEngine(script(TEXT))
    gateway = gateway_app(engine)
    agents.attach(gateway, engine, SessionLimits(), Keys().authorize, Quota())
    async with serving(gateway) as address:
        session = SessionSettings(free_start=1)
        agent = make_agent(AgentConfig(gateway=address, mode="collaborative", capacity=capacity, session=session))
        async with serving(agent_app(agent)) as own, httpx.AsyncClient(base_url=own, timeout=60) as client:
            yield client
    await engine.aclose()


async def answer(client: httpx.AsyncClient, name: str, **body: Any) -> dict[str, Any]:
    """The usage of a whole answer, which is the target's text."""
    asked = {"prompt": PROMPT, "max_tokens": 100} | body
    response = await client.post("/v1/completions", json=asked, headers={"x-request-id": name})
    assert response.status_code == 200, response.text
    if not asked.get("stream"):
        payloads = [response.json()]
    else:
        lines = list(data_of(response))
        assert lines.pop() == "[DONE]"
        payloads = [json.loads(line) for line in lines]
    text = "".join(choice["text"] for payload in payloads for choice in payload["choices"])
    assert TEXT.decode().startswith(text)
    usage: dict[str, Any] = payloads[-1]["usage"]
    return usage


async def record_of(client: httpx.AsyncClient, name: str) -> dict[str, Any]:
    record: dict[str, Any] = (await client.get(f"/v1/pipesd/requests/{name}")).json()
    return record


async def totals(client: httpx.AsyncClient) -> dict[str, float]:
    text = (await client.get("/metrics")).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    values = {sample.name: sample.value for sample in samples if not sample.labels}
    return {count: values[f"pipesd_agent_{name}_total"] for name, count in COUNTERS.items()}


async def leaves_early(client: httpx.AsyncClient, name: str) -> None:
    """A client that takes the beginning of a stream and goes."""
    body = {"prompt": PROMPT, "max_tokens": 140, "stream": True}
    async with client.stream("POST", "/v1/completions", json=body, headers={"x-request-id": name}) as response:
        async for _ in data_as_it_comes(response):
            return


async def test_after_a_mixed_run_usage_records_and_metrics_agree() -> None:
    streamed = {"stream": True, "stream_options": {"include_usage": True}}
    asked: dict[str, dict[str, Any]] = {
        "whole": {},
        "streamed": streamed,
        "to-its-end": {"max_tokens": 200},
        "to-its-end-streamed": {"max_tokens": 200} | streamed,
        "to-a-stop-string": {"stop": "hat"} | streamed,
        "short": {"max_tokens": 1},
    }
    async with client_of_an_agent() as client:
        usages = dict(
            zip(asked, await asyncio.gather(*(answer(client, n, **b) for n, b in asked.items())), strict=True)
        )
        await leaves_early(client, "gone-early")
        usages["after-it"] = await answer(client, "after-it", **streamed)
        summed: Counter[str] = Counter()
        for name, usage in usages.items():
            record = await record_of(client, name)
            counts = record["counts"]
            assert usage["completion_tokens"] == record["output_tokens"] == counts["tokens"] == len(record["tokens"])
            assert usage["pipesd"] == {
                "drafted": counts["drafted"],
                "accepted": counts["accepted"],
                "rejected": counts["rejected"],
                "target_forwards": counts["forwards"],
            }, name
            assert counts["accepted"] == sum(accepted for _, accepted in record["tokens"])
            assert counts["accepted"] + counts["rejected"] == counts["sent"] <= counts["drafted"]
            summed.update({count: counts[count] for count in COUNTERS.values()})
        assert summed["accepted"] > summed["tokens"] / 4
        assert summed["discards"] > 0

        async def agree() -> bool:
            """What the target had under way when the client left comes after the record was made, and counts in it."""
            early = (await record_of(client, "gone-early"))["counts"]
            return await totals(client) == {count: summed[count] + early[count] for count in COUNTERS.values()}

        async with asyncio.timeout(60):
            while not await agree():  # noqa: ASYNC110  nobody tells when it does
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("stream", [True, False])
async def test_one_answer_to_the_token(stream: bool) -> None:
    body = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    async with client_of_an_agent() as client:
        usage = await answer(client, "one", **body)
        counts = (await record_of(client, "one"))["counts"]
        assert await totals(client) == {count: counts[count] for count in COUNTERS.values()}
        assert usage["pipesd"]["accepted"] == counts["accepted"] > 0


async def test_an_answer_that_was_not_drafted_for_says_why_and_one_that_was_does_not() -> None:
    """Two at once, and one of them is drafted for."""
    async with client_of_an_agent(capacity=1) as client:
        names = ("one", "two")
        usages = await asyncio.gather(*(answer(client, name) for name in names))
        assert {usage["pipesd"].get("reason") for usage in usages} == {None, "drafter_capacity"}
        for name, usage in zip(names, usages, strict=True):
            counts = (await record_of(client, name))["counts"]
            assert (usage["pipesd"].get("drafting") == "off") == (not counts["drafted"])
