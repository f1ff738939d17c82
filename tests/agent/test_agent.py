"""The agent's parts together, without sockets: a link that answers as the test says."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pydoc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import httpx
import pytest
from fake_gateway import answer, answers, fake_gateway, gateways, opened
from msgspec.structs import replace
from test_stream import make, sent

from pipesd_agent.agent import Agent
from pipesd_agent.api.app import create_app
from pipesd_agent.build import make_agent
from pipesd_agent.config import AgentConfig
from pipesd_agent.control.mode import Strategy, Switch
from pipesd_agent.control.triggers import FixedSettings
from pipesd_agent.drafting.drafter import DraftToken
from pipesd_agent.drafting.lookup import LookupDrafter
from pipesd_agent.drafting.settings import LookupSettings
from pipesd_agent.drafting.status import DraftingOff
from pipesd_agent.link.gateways import Gateways
from pipesd_agent.link.link import Link
from pipesd_agent.link.model_list import ModelList
from pipesd_agent.link.passthrough import PassthroughClient
from pipesd_agent.link.requests import LinkSettings
from pipesd_agent.session.observer import SessionObserver
from pipesd_agent.session.remote_error import RemoteError
from pipesd_agent.session.stream import RequestStream
from pipesd_agent.telemetry.tracing import TraceFiles
from pipesd_core.errors import ModelLoadError, Unavailable, VocabularyMismatch
from pipesd_core.protocol.messages import Close, Endpoint, Failed
from pipesd_core.sampling.params import SamplingParams

Script = Callable[[RequestStream, bool], None]


class FakeLink:
    """asked: whether each request was to be collaborative. bodies: of the requests, which wait until it is `up`."""

    state = "connected"
    connected = True
    gateways = gateways("http://127.0.0.1:1")
    requests = 0

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked: list[bool] = []
        self.bodies: list[bytes] = []
        self.up = asyncio.Event()
        self.up.set()
        self.streams: list[RequestStream] = []
        self.failure: Exception | None = None

    async def request(
        self,
        endpoint: Endpoint,
        body: bytes,
        request_id: str,
        *,
        collaborative: bool = True,
        observers: Sequence[SessionObserver] = (),
    ) -> RequestStream:
        assert endpoint in Endpoint
        assert body
        self.bodies.append(body)
        await self.up.wait()
        if isinstance(self.failure, Unavailable):
            raise self.failure
        self.asked.append(collaborative)
        stream = make(None, *observers)
        stream.request_id = request_id
        stream.session._request = replace(stream.session.request, endpoint=endpoint, body=body)
        self.streams.append(stream)
        self.script(stream, collaborative)
        return stream

    async def run(self) -> None:
        if self.failure is not None:
            raise self.failure
        await asyncio.Event().wait()


def agent_over(script: Script, *, cloud_on_mismatch: bool = False) -> tuple[Agent, FakeLink]:
    link = FakeLink(script)
    model_list = ModelList(gateways("http://127.0.0.1:1"), None, None)
    passthrough = PassthroughClient(gateways("http://127.0.0.1:1"), None, None)
    return Agent(cast(Link, link), model_list, passthrough, None, cloud_on_mismatch=cloud_on_mismatch), link


def mismatch(stream: RequestStream, collaborative: bool) -> None:
    """A gateway with another vocabulary."""
    if collaborative:
        error = VocabularyMismatch("not that of the target")
        stream.receive(Failed(3, "vocabulary_mismatch", error.status, json.dumps(error.body()).encode()))
    else:
        stream.receive(opened(3))


def accepts(stream: RequestStream, _: bool) -> None:
    stream.receive(opened(3))


def waits(_: RequestStream, __: bool) -> None:
    """Still in the gateway's queue."""


def completes(stream: RequestStream, _: bool) -> None:
    for message in answer(3):
        stream.receive(message)


async def ask(agent: Agent) -> tuple[RequestStream, Any]:
    return await agent._open(Endpoint.COMPLETIONS, b"{}", "id")


async def test_a_request_is_traced_once_however_often_it_is_finished(tmp_path: Path) -> None:
    agent, link = agent_over(accepts)
    agent._traces = TraceFiles(tmp_path)
    for request in ("first", "second"):
        answer = await agent.answer(Endpoint.COMPLETIONS, b"{}", request, None)
        link.streams[-1].session.observer.drafted(DraftToken(2, 5, 0.75), 0.0)
        await answer.aclose()
        await answer.aclose()
    await agent.aclose()
    assert len(os.listdir(tmp_path)) == len(link.streams) == 2
    assert not agent._running, "of requests that are over nothing is held"


async def test_another_vocabulary_is_refused() -> None:
    agent, link = agent_over(mismatch)
    with pytest.raises(RemoteError) as refused:
        await ask(agent)
    assert refused.value.status == 409
    assert agent.drafting.report()["reason"] == "vocabulary_mismatch"
    assert link.asked == [True]


async def test_another_vocabulary_is_served_cloud_only_in_mode_auto(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    agent, link = agent_over(mismatch, cloud_on_mismatch=True)
    stream, opening = await ask(agent)
    assert opening.model == "fake"
    assert stream is link.streams[1]
    assert link.asked == [True, False]
    assert "served cloud-only" in caplog.text
    assert agent.drafting.off is DraftingOff.VOCABULARY
    assert caplog.text.count("drafting: off: the drafter's vocabulary is not the target's") == 1
    assert "request id is session 00000000" in caplog.text


async def test_a_vocabulary_that_fits_again_is_said_with_the_next_request() -> None:
    agent, _ = agent_over(accepts)
    agent.drafting.set_off(DraftingOff.VOCABULARY)
    await ask(agent)
    assert agent.drafting.off is None


async def test_other_refusals_are_not_tried_again_in_mode_auto() -> None:
    def refuse(stream: RequestStream, _: bool) -> None:
        stream.receive(Failed(3, "overloaded", 429, b"{}", 1))

    agent, link = agent_over(refuse, cloud_on_mismatch=True)
    with pytest.raises(RemoteError):
        await ask(agent)
    assert link.asked == [True]


async def test_cancelling_takes_a_request_back() -> None:
    agent, link = agent_over(waits)
    asking = asyncio.create_task(ask(agent))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert sent(link.streams[0]) == [Close(3)]


async def test_a_finished_request_is_recorded_once() -> None:
    agent, link = agent_over(completes)
    answer = await agent.answer(Endpoint.COMPLETIONS, b"{}", "id", None)
    assert await answer.next() == b"{}"
    for _ in range(2):
        await answer.aclose()
    record = agent.records.get("id")
    assert record is not None
    assert record["output_tokens"] == 1
    assert sent(link.streams[0]) == []


def kill_once(monkeypatch: pytest.MonkeyPatch, what: str) -> list[int]:
    """Have a function raise at its next call, and work from then on. Returns how often it was called."""
    owner, _, name = what.rpartition(".")
    real, calls = pydoc.locate(what), [0]

    def dying(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == 1:
            raise ZeroDivisionError("a bug")
        return real(*args, **kwargs)  # type: ignore[operator]

    monkeypatch.setattr(pydoc.locate(owner), name, dying)
    return calls


KILLS = {
    "link": "pipesd_agent.link.link.Link._try_gateways",
    "model list": "pipesd_agent.link.model_list.ModelList._refresh",
    "threshold store": "pipesd_agent.tuning.per_sampling.Tuners.save",
}
"""A function in each task of the agent."""


@pytest.mark.parametrize("name", KILLS)
async def test_a_task_that_dies_is_named_and_started_again(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pipesd_core.service.tasks.FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr("pipesd_core.service.tasks.STEADY_S", 600.0)
    monkeypatch.setattr("pipesd_agent.agent.STORE_EVERY_S", 0.001)
    calls = kill_once(monkeypatch, KILLS[name])
    agent = make_agent(AgentConfig(mode="collaborative", gateway="http://127.0.0.1:9"))
    agent.start()
    try:
        assert set(agent.tasks._tasks) == set(KILLS), "a new task needs a row in KILLS"
        transport = httpx.ASGITransport(create_app(agent))
        async with httpx.AsyncClient(transport=transport, base_url="http://agent") as client, asyncio.timeout(20):
            while calls[0] < 2:  # noqa: ASYNC110 - of another task
                await asyncio.sleep(0.005)
            why = "ZeroDivisionError: a bug"
            assert (await client.get("/health")).json()["down"] == {name: why}
            answer = await client.get("/ready")
            assert answer.status_code == 503
            assert answer.json()["error"]["message"] == f"down in this program: {name} ({why}); see its log"
        (record,) = (record for record in caplog.records if record.levelno == logging.CRITICAL)
        assert record.getMessage() == f"the task {name!r} died ({why}); it is started again"
        assert record.exc_info is not None
    finally:
        await agent.aclose()
    await agent.aclose()


async def test_what_was_dead_and_runs_is_named_no_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pipesd_core.service.tasks.FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr("pipesd_core.service.tasks.STEADY_S", 0.05)
    kill_once(monkeypatch, KILLS["link"])
    async with fake_gateway(answers) as gateway:
        agent = make_agent(AgentConfig(mode="collaborative", gateway=gateway.url))
        agent.start()
        try:
            async with asyncio.timeout(20):
                stream = await agent.link.request(Endpoint.COMPLETIONS, b"{}", "id")
                assert await stream.next() == b"{}", "it works again"
                while "the task 'link' runs again" not in caplog.messages:  # noqa: ASYNC110 - of another task
                    await asyncio.sleep(0.005)
            assert any(message.startswith("the task 'link' died") for message in caplog.messages)
            agent.tasks.check()
        finally:
            await agent.aclose()


async def test_the_drafting_thread_is_watched() -> None:
    class Broken(LookupDrafter):
        def draft(self, *_: Any) -> Any:
            raise ZeroDivisionError("a bug")

    agent = make_agent(AgentConfig(mode="collaborative"), Broken())
    assert agent.worker is not None
    agent.tasks.check()
    lane = agent.worker.open([1, 2], SamplingParams(), frozenset(), lambda *_: None, lambda _: None)
    assert lane is not None
    lane.commit([3], 10)
    async with asyncio.timeout(10):
        while agent.worker._thread.is_alive():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    assert agent.tasks.faults == {"drafter": "ZeroDivisionError: a bug"}
    agent.worker.broken = None
    agent.worker._stopping = False  # as if it had died of something that nobody catches
    assert agent.tasks.faults == {"drafter": "its thread ended"}
    agent.worker._stopping = True
    agent.tasks.check()
    await agent.aclose()


async def test_thresholds_are_kept_at_the_end_whatever_happens_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = make_agent(AgentConfig(mode="collaborative"))
    assert agent._tuners is not None
    saved: list[int] = []
    monkeypatch.setattr(agent._tuners, "save", lambda: saved.append(1))
    await agent.aclose()
    assert saved == [1]
    assert {proposer.closed for proposer in agent._tuners._proposers.values()} == {True}  # type: ignore[attr-defined]


async def test_modes_and_drafters() -> None:
    made = {mode: make_agent(AgentConfig(mode=mode)) for mode in ("collaborative", "auto", "cloud")}
    assert made["cloud"].worker is None
    lookup = make_agent(AgentConfig(capacity=3, context=100))
    given = make_agent(AgentConfig(capacity=3), LookupDrafter(capacity=5))
    for agent, capacity in ((made["auto"], 4), (lookup, 3), (given, 5)):
        assert agent.worker is not None
        assert agent.worker.capacity == capacity
        assert agent.worker.fingerprint is None
    for agent in (*made.values(), lookup, given):
        await agent.aclose()


async def test_the_link_is_told_how_sessions_begin_and_when_it_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[LinkSettings] = []

    def linking(gateways: Gateways, settings: LinkSettings, *more: Any) -> Link:
        given.append(settings)
        return Link(gateways, settings, *more)

    monkeypatch.setattr("pipesd_agent.build.Link", linking)
    agent = make_agent(AgentConfig(objective="offload"))
    (settings,) = given
    assert settings.session.free_start == 1
    assert agent._controller is not None
    assert settings.room_at == agent._controller.planner.room_at
    await agent.aclose()


@pytest.mark.parametrize("mode", ["cloud", "collaborative"])
async def test_metrics_show_the_mode_that_is_configured(mode: Literal["cloud", "collaborative"]) -> None:
    agent = make_agent(AgentConfig(mode=mode))
    assert agent._controller is not None
    figures = agent._controller.figures()
    assert (figures.mode, figures.mode_reason) == (mode, "configured")
    await agent.aclose()


async def test_switches_probes_and_objectives_without_effect_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    agent = make_agent(AgentConfig())
    assert agent._controller is not None
    auto = agent._controller.auto
    assert auto is not None
    for strategy, cost in ((Strategy.SPECULATIVE, 0.1), (Strategy.TARGET_ONLY, 0.03)):
        for _ in range(200):
            auto.record(cost, 1, strategy)
    auto.probe_begins(Strategy.SPECULATIVE)
    await agent.aclose()
    assert "mode: switched to target-only (ms per token: speculative 100.0; target-only 30.0)" in caplog.text
    assert "mode: probing speculative (100.0 ms per token when last measured, 200 tokens ago)" in caplog.text
    assert "objective" not in caplog.text
    await make_agent(AgentConfig(mode="cloud", objective="offload")).aclose()
    assert "mode: objective offload applies to mode auto only, but mode is cloud" in caplog.text


def test_a_model_to_fall_back_to_must_be_there(tmp_path: Path) -> None:
    missing = tmp_path / "draft.gguf"
    with pytest.raises(ModelLoadError, match=r"draft\.gguf does not exist"):
        make_agent(AgentConfig(mode="cloud", fallback="edge", draft_model=missing))


@pytest.mark.parametrize(
    ("settings", "line", "reason"),
    [
        ({}, "no draft model is given: lookup drafts from the text itself", "no_gateway"),
        (
            {"draft_model": Path("d.gguf"), "drafter": LookupSettings()},
            "drafter.kind is lookup: it drafts from the text itself, not the draft model d.gguf",
            "no_gateway",
        ),
        ({"mode": "cloud"}, "nothing is drafted: mode is cloud", "mode_cloud"),
    ],
)
async def test_a_start_says_what_drafts_and_why(
    settings: dict[str, Any], line: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    agent = make_agent(AgentConfig(**settings))
    assert f"drafting: {line}" in caplog.text
    assert agent.drafting.report()["reason"] == reason
    await agent.aclose()


async def test_drafting_goes_off_and_on_with_the_link_and_with_mode_auto() -> None:
    agent = make_agent(AgentConfig())
    gateways = agent.link.gateways
    gateways.set_current(gateways.in_attempt_order(0.0)[0])
    found = [agent.drafting.off]
    selector = agent._controller.auto if agent._controller is not None else None
    assert selector is not None
    for strategy in (Strategy.TARGET_ONLY, Strategy.SPECULATIVE_RUN_AFTER_REJECTION):
        selector._on_switch(Switch(strategy, "measured"))
        found.append(agent.drafting.off)
    gateways.set_current(None)
    found.append(agent.drafting.off)
    assert agent.worker is not None
    agent.worker._on_broken("MemoryError")
    found.append(agent.drafting.off)
    assert found == [None, DraftingOff.TARGET_ONLY, None, DraftingOff.NO_GATEWAY, DraftingOff.DRAFTER_BROKEN]
    assert agent.drafting.report()["detail"] == "the drafter broke: MemoryError"
    await agent.aclose()


async def test_a_window_that_cuts_the_drafts_of_a_trigger_is_said(caplog: pytest.LogCaptureFixture) -> None:
    await make_agent(AgentConfig(trigger=FixedSettings(length=64))).aclose()
    assert "trigger.length is 64, but session.window is 16, which is used" in caplog.text
