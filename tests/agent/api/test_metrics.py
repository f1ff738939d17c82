"""What a scrape of the agent shows, read back with the client's own parser."""

from __future__ import annotations

import json

import httpx
import pytest
from decisions import Decider
from fake_gateway import opened, verdict
from prometheus_client.parser import text_string_to_metric_families
from test_agent import waits
from test_app import client_of
from test_fallback import client_of as client_of_edge

from pipesd_agent.api.metrics import MODES, AgentRequests, families_of, mode_of
from pipesd_agent.control.controller import Controller
from pipesd_agent.control.figures import ControlFigures
from pipesd_agent.control.mode import ModeSelector, Strategy
from pipesd_agent.control.triggers import DualSettings
from pipesd_agent.control.upload_planner import Planner
from pipesd_agent.drafting.drafter import DraftToken
from pipesd_agent.session.counts import Counts
from pipesd_agent.session.stream import RequestStream
from pipesd_agent.telemetry.monitor import Monitor
from pipesd_core.errors import Overloaded, Unavailable
from pipesd_core.protocol.messages import End, Event, Failed, Reason, Verdict
from pipesd_core.service.exposition import render

Shown = dict[str, list[tuple[float, dict[str, str]]]]
LATENCIES = (
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "request_time_per_output_token_seconds",
    "e2e_request_latency_seconds",
    "request_queue_time_seconds",
)


def samples(text: str) -> Shown:
    """Values and labels by name, without the agent's prefix."""
    found: Shown = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name.removeprefix("pipesd_agent_"), []).append((sample.value, sample.labels))
    return found


def shown(figures: ControlFigures) -> Shown:
    return samples(render(families_of(figures, AgentRequests())).decode())


async def scrape(client: httpx.AsyncClient) -> Shown:
    return samples((await client.get("/metrics")).raise_for_status().text)


def of_route(found: Shown, name: str, route: str, **labels: str) -> float:
    (value,) = [value for value, got in found[name] if got == {"route": route, **labels}]
    return value


def test_what_is_not_known_is_not_shown() -> None:
    requests = shown(ControlFigures())
    assert all("route" in labels for values in requests.values() for _, labels in values)
    empty = shown(ControlFigures(Monitor().figures()))
    assert {value for name in empty.keys() - requests.keys() for value, _ in empty[name]} == {0.0}
    assert all(name.endswith("_total") for name in empty.keys() - requests.keys())


def test_everything() -> None:
    monitor = Monitor()
    watch = monitor.observer()
    watch.opened(opened(0), Counts(tokens=240, drafted=60, forwards=60, verifications=60, accepted=60, sent=60), 0.0)
    decider = Decider(watch)
    for step in range(60):
        watch.drafted(DraftToken(step, 7, 0.97, seconds=0.03), float(step))
        watch.judged(DraftToken(step, 7, 0.97), right=True, now=float(step))
        decider.decided(Verdict(0, step, step, 3, 3, (7,) * 4, Reason.VERIFICATION, 2000, 40_000, 0), step * 0.2)
    figures = ControlFigures(
        monitor=monitor.figures(),
        n_hat=6,
        plan=(1, 2, 3),
        batcher="dp",
        trigger="dual",
        thresholds={"greedy": (0.1, 0.2)},
        optimizer="search",
        mode=Strategy.SPECULATIVE.label,
        mode_reason='the draft is "faster":\n2 lines',
        running=1,
    )
    values = shown(figures)
    expected = {
        "drafted_token_seconds": 0.03,
        "recent_output_token_seconds": 0.05,
        "recent_verifications_per_output_token": 0.25,
        "draft_tokens_total": 60,
        "draft_length_planned": 6,
        "plan_batches": 3,
        "plan_tokens": 6,
        "sessions_running": 1,
    }
    found = {name: values[name][0] for name in expected}
    assert {name: value for name, (value, _) in found.items()} == pytest.approx(expected)
    assert all(labels == {} for _, labels in found.values())
    assert values["batcher_info"] == [(1.0, {"batcher": "dp"})]
    assert values["tuner_info"] == [(1.0, {"optimizer": "search"})]
    assert values["sequence_threshold"] == [(0.1, {"sampling": "greedy"})]
    assert values["token_threshold"] == [(0.2, {"sampling": "greedy"})]
    assert values["mode"] == [(float(mode == "speculative"), {"mode": mode}) for mode in MODES]
    judged, accepted = (
        {labels["le"]: value for value, labels in values[f"{name}_drafts_recent"]} for name in ("judged", "accepted")
    )
    assert judged == accepted
    assert judged["0.95"] == 0 < judged["0.98"] == judged["1"] <= 60
    assert "uplink_message_seconds" not in values, "no gateway has told of arrivals"


def test_every_mode_has_a_name_of_its_own() -> None:
    auto = ModeSelector()
    names = []
    for auto.strategy in Strategy:
        figures = Controller(DualSettings(), Planner("immediate"), auto=auto).figures()
        names.append(mode_of(figures))
    assert names == list(MODES[:-1])
    for setting, mode in {"collaborative": "speculative", "cloud": "target-only", "edge": "edge"}.items():
        assert mode_of(Controller(DualSettings(), Planner("immediate"), mode=setting).figures()) == mode
    assert mode_of(ControlFigures()) is None


async def test_the_mode_and_its_reason_are_in_health() -> None:
    async with client_of(waits) as (client, agent, _):
        assert "mode" not in (await client.get("/health")).json()
        agent._controller = Controller(DualSettings(), Planner("immediate"), auto=ModeSelector())
        health = (await client.get("/health")).json()
        assert health["mode"] in MODES
        assert health["mode_reason"] == "nothing is measured yet"


def answers(stream: RequestStream, _: bool) -> None:
    """Three tokens in two pieces, and the usage."""
    stream.receive(opened(3))
    stream.receive(verdict(3, 1, 2, 5))
    stream.receive(Event(3, 2, 3, b'{"choices":[{"text":"a"}]}'))
    stream.receive(verdict(3, 3, 3, 6, 7))
    stream.receive(Event(3, 4, 5, b'{"choices": [{"text":"bc"}]}'))
    stream.receive(Event(3, 5, 5, b'{"choices":[],"usage":{"prompt_tokens":2,"completion_tokens":3}}', usage=True))
    stream.receive(End(3, 6))


async def test_a_streamed_answer_is_timed() -> None:
    async with client_of(answers) as (client, _, _link):
        assert "[DONE]" in (await client.post("/v1/completions", json={"stream": True})).text
        found = await scrape(client)
    counts = {name: of_route(found, f"{name}_count", "session") for name in LATENCIES}
    # The script says everything at once: all tokens are decided before the first piece is taken.
    assert counts == {name: float(name != "request_time_per_output_token_seconds") for name in LATENCIES}
    assert of_route(found, "requests_received_total", "session") == 1
    assert of_route(found, "requests_finished_total", "session", outcome="completed") == 1
    assert of_route(found, "requests_running", "session") == 0
    assert of_route(found, "requests_received_total", "passthrough") == 0


async def test_a_whole_answer_has_a_duration_and_no_first_token() -> None:
    async with client_of(answers) as (client, _, _link):
        await client.post("/v1/completions", json={})
        found = await scrape(client)
    timed = {name for name in LATENCIES if of_route(found, f"{name}_count", "session")}
    assert timed == {"e2e_request_latency_seconds", "request_queue_time_seconds"}


async def test_the_draft_models_own_answers_are_timed() -> None:
    body = {"prompt": "x", "stream": True, "max_tokens": 4}
    async with client_of_edge(local_only=True) as (client, _, _maker):
        assert "[DONE]" in (await client.post("/v1/completions", json=body)).text
        found = await scrape(client)
    assert {of_route(found, f"{name}_count", "edge") > 0 for name in LATENCIES} == {True}
    assert of_route(found, "requests_received_total", "session") == 0


async def test_ends_are_counted_by_outcome() -> None:
    def refuses(stream: RequestStream, _: bool) -> None:
        error = Overloaded("full")
        stream.receive(Failed(3, "x", 429, json.dumps(error.body()).encode(), 2))

    def breaks(stream: RequestStream, _: bool) -> None:
        stream.receive(opened(3))
        stream.link_lost(Unavailable("gone"))

    async with client_of(refuses) as (client, _, link):
        for stream in (True, False):
            await client.post("/v1/completions", json={"stream": stream})
        link.script = breaks
        for stream in (True, False):
            await client.post("/v1/completions", json={"stream": stream})
        found = await scrape(client)
    outcomes = {
        outcome: of_route(found, "requests_finished_total", "session", outcome=outcome)
        for outcome in ("completed", "failed", "aborted", "refused")
    }
    assert outcomes == {"completed": 0, "failed": 2, "aborted": 0, "refused": 2}
    assert of_route(found, "requests_waiting", "session") == of_route(found, "requests_running", "session") == 0
