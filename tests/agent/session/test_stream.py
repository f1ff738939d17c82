"""One request between its client and the link: deliveries, acknowledgements, the drafter's lane, bytes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
from fake_gateway import opened, verdict

from bench.fixed_policies import fixed
from pipesd_agent.control.triggers import FixedSettings
from pipesd_agent.drafting.drafter import AnswerForm, DraftToken
from pipesd_agent.drafting.status import DraftingOff
from pipesd_agent.drafting.worker import DraftWorker
from pipesd_agent.session import stream as stream_module
from pipesd_agent.session.observer import Observers, SessionObserver
from pipesd_agent.session.records import Records, RequestRecord
from pipesd_agent.session.session import EdgeSession
from pipesd_agent.session.settings import SessionSettings
from pipesd_agent.session.stream import RequestStream
from pipesd_core.errors import ApiError, Unavailable
from pipesd_core.protocol.messages import FOREVER, VERSION, Ack, Close, Draft, End, Endpoint, Event, Failed, Open, Run


class FakeLane:
    def __init__(self, on_token: Any, on_failure: Any) -> None:
        self.on_token, self.on_failure = on_token, on_failure
        self.unknown: int | None = None
        self.commits: list[tuple[int, ...]] = []
        self.closed = False

    def commit(self, tokens: Sequence[int], limit: int) -> int | None:  # noqa: ARG002
        assert not self.closed
        if self.unknown in tokens:
            self.closed = True
            return None
        self.commits.append(tuple(tokens))
        return len(self.commits)

    def close(self) -> None:
        self.closed = True


class FakeWorker:
    """Has room for some lanes."""

    max_context = 64
    broken: str | None = None

    @property
    def lanes_free(self) -> int:
        return self.room - len(self.lanes)

    def __init__(self, room: int = 1) -> None:
        self.room = room
        self.lanes: list[FakeLane] = []
        self.forms: list[AnswerForm | None] = []

    def open(self, _ids: Any, _params: Any, _eos: Any, on_token: Any, on_failure: Any, form: Any) -> FakeLane | None:
        if len(self.lanes) == self.room:
            return None
        self.forms.append(form)
        self.lanes.append(FakeLane(on_token, on_failure))
        return self.lanes[-1]


def make(worker: FakeWorker | None = None, *observers: SessionObserver) -> RequestStream:
    session = EdgeSession(
        Open(3, VERSION, Endpoint.COMPLETIONS, b"{}", None if worker is None else b""),
        replace(fixed(FixedSettings(length=2), "immediate")(), observer=Observers(*observers)),
        SessionSettings(),
        max_context=64,
        now=0.0,
    )
    session.next_message(0.0)  # the request
    return RequestStream("id", session, cast(DraftWorker, worker), lambda: None)


def sent(stream: RequestStream) -> list[object]:
    messages: list[object] = []
    while (message := stream.session.next_message(0.0)) is not None:
        messages.append(message)
    return messages


def event(seq: int, payload: bytes = b"{}", *, usage: bool = False) -> Event:
    return Event(3, seq, 3, payload, usage)


async def reason_of(stream: RequestStream, seq: int) -> str | None:
    """Why nothing is drafted for the answer, by the usage in its last payload."""
    usage = {"usage": {"prompt_tokens": 2, "completion_tokens": 3}, "choices": []}
    stream.receive(event(seq, json.dumps(usage).encode(), usage=True))
    payload = await stream.next()
    assert payload is not None
    figures = json.loads(payload)["usage"]["pipesd"]
    assert figures.get("drafting") == (None if "reason" not in figures else "off")
    reason: str | None = figures.get("reason")
    return reason


async def test_payloads_come_in_order_and_then_the_end() -> None:
    stream = make()
    waiting = asyncio.create_task(stream.opened())
    await asyncio.sleep(0)
    assert not waiting.done()
    stream.receive(opened(3))
    assert (await waiting).channel == 3
    for message in (verdict(3, 1, 2, 5), event(2, b"a"), event(3, b"b"), End(3, 4)):
        stream.receive(message)
    assert [await stream.next() for _ in range(4)] == [b"a", b"b", None, None]


async def test_an_error_comes_after_what_was_before_it_and_stays() -> None:
    stream = make()
    stream.receive(opened(3))
    stream.receive(event(1, b"a"))
    stream.link_lost(Unavailable("gone"))
    assert await stream.next() == b"a"
    for _ in range(2):
        with pytest.raises(Unavailable, match="gone"):
            await stream.next()


async def test_a_refusal_reaches_the_client_as_it_is() -> None:
    stream = make()
    body = {"error": {"message": "too many", "type": "rate_limit_error", "param": None, "code": "overloaded"}}
    stream.receive(Failed(3, "overloaded", 429, json.dumps(body).encode(), 7))
    with pytest.raises(ApiError) as refused:
        await stream.opened()
    assert refused.value.status == 429
    assert refused.value.body() == body
    assert 7 <= int(refused.value.headers()["retry-after"]) <= 11


async def test_a_refusal_whose_body_is_no_json_is_openai_shaped_still() -> None:
    stream = make()
    stream.receive(Failed(3, "strange", 500, b"<html>"))
    with pytest.raises(ApiError) as refused:
        await stream.opened()
    assert set(refused.value.body()["error"]) == {"message", "type", "param", "code"}


async def test_an_end_before_the_beginning_is_an_error() -> None:
    stream = make()
    stream.receive(End(3, 1))
    with pytest.raises(Unavailable, match="before it began"):
        await stream.opened()


async def test_acknowledgements_follow_what_the_client_takes() -> None:
    stream = make()
    stream.receive(opened(3))
    for seq in range(1, 101):
        stream.receive(event(seq))
    assert sent(stream) == [], "nothing is taken yet"
    for _ in range(40):
        await stream.next()
        stream.taken()
    assert sent(stream) == [Ack(3, 40)]
    for _ in range(60):
        await stream.next()
        stream.taken()
    assert sent(stream) == [Ack(3, 100)]


async def test_the_usage_the_timings_and_the_record_say_the_same() -> None:
    noted = RequestRecord("id")
    stream = make(FakeWorker(), noted)
    stream.receive(opened(3))
    for message in (verdict(3, 1, 2, 5), verdict(3, 2, 3, 6, 7)):
        stream.receive(message)
    counts = stream.session.counts
    counts.sent, counts.accepted, counts.drafted = 9, 4, 11
    usage = {"usage": {"prompt_tokens": 2, "completion_tokens": 3}, "choices": []}
    stream.receive(event(3, json.dumps(usage).encode(), usage=True))
    payload = await stream.next()
    assert payload is not None
    answer = json.loads(payload)
    assert answer["usage"].pop("pipesd") == {"drafted": 11, "accepted": 4, "rejected": 5, "target_forwards": 2}
    assert answer["usage"] == usage["usage"]
    timings = answer["timings"]
    assert (timings["prompt_n"], timings["predicted_n"]) == (2, 3)
    assert (timings["draft_n"], timings["draft_n_accepted"]) == (9, 4)
    records = Records()
    records.add(noted)
    record = records.get("id")
    assert record is not None
    assert timings["prompt_ms"] + timings["predicted_ms"] <= 1e3 * record["seconds"] + 1
    counted = {"forwards": 2, "drafted": 11, "sent": 9, "accepted": 4, "rejected": 5}
    assert record["counts"].items() >= counted.items()


async def test_the_lane_learns_what_is_committed_and_is_closed_in_the_end() -> None:
    worker = FakeWorker()
    stream = make(worker)
    stream.receive(opened(3))
    (lane,) = worker.lanes
    lane.on_token(1, DraftToken(2, 7, 0.9))
    lane.on_token(1, DraftToken(3, 8, 0.9))
    assert sent(stream) == [Draft.wishing(3, 0, 2, (7, 8), 3)]
    stream.receive(verdict(3, 1, 2, 7, 8, 9))
    assert lane.commits == [(), (7, 8, 9)]
    stream.receive(End(3, 2))
    assert lane.closed


async def test_without_room_in_the_drafter_the_target_runs_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    stream = make(FakeWorker(room=0))
    stream.receive(opened(3))
    assert sent(stream) == [Run(3, FOREVER)]
    assert "served cloud-only: drafter_capacity" in caplog.text
    assert await reason_of(stream, 1) == "drafter_capacity"


async def test_with_a_broken_drafter_the_target_runs_alone(caplog: pytest.LogCaptureFixture) -> None:
    worker = FakeWorker(room=0)
    worker.broken = "MemoryError"
    stream = make(worker)
    stream.receive(opened(3))
    assert sent(stream) == [Run(3, FOREVER)]
    assert "served cloud-only: drafter_broken" in caplog.text
    assert await reason_of(stream, 1) == "drafter_broken"


async def test_a_token_that_the_drafter_does_not_have_ends_the_drafting(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    worker = FakeWorker()
    stream = make(worker)
    stream.receive(opened(3))
    (lane,) = worker.lanes
    lane.unknown = 99
    lane.on_token(1, DraftToken(2, 7, 0.9))
    stream.receive(verdict(3, 1, 2, 7, 99))
    assert lane.closed
    assert sent(stream) == [Run(3, FOREVER)]
    assert "goes on cloud-only" in caplog.text
    stream.receive(verdict(3, 2, 4, 5))
    assert await reason_of(stream, 3) == "token_unknown_to_drafter"
    stream.receive(End(3, 4))
    assert await stream.next() is None


async def test_a_drafter_that_breaks_leaves_the_answer_to_the_target(caplog: pytest.LogCaptureFixture) -> None:
    worker = FakeWorker()
    stream = make(worker)
    stream.receive(opened(3))
    worker.lanes[0].on_failure(RuntimeError("out of memory"))
    assert sent(stream) == [Run(3, FOREVER)]
    assert "out of memory" in caplog.text
    stream.receive(event(1, b"a"))
    assert await stream.next() == b"a"
    assert await reason_of(stream, 2) == "drafter_broken"


async def test_a_prompt_that_the_drafter_cannot_hold_is_told_from_one_that_it_cannot_read() -> None:
    class Choosy(FakeWorker):
        def open(self, *_: Any) -> None:
            """Has a lane, but not for this."""

    for room, reason in ((2, "drafter_context"), (64, "token_unknown_to_drafter")):
        worker = Choosy()
        worker.max_context = room
        stream = make(worker)
        stream.receive(opened(3))
        assert await reason_of(stream, 1) == reason


async def test_a_request_that_was_never_to_be_drafted_for_says_why() -> None:
    session = make().session
    stream = RequestStream("id", session, None, lambda: None, DraftingOff.VOCABULARY)
    stream.receive(opened(3))
    assert await reason_of(stream, 1) == "vocabulary_mismatch"


async def test_an_answer_that_is_drafted_for_to_its_end_gives_no_reason() -> None:
    stream = make(FakeWorker())
    stream.receive(opened(3))
    stream.receive(verdict(3, 1, 2, 7))
    assert await reason_of(stream, 2) is None


@pytest.mark.parametrize("when", ["waiting", "drafting", "done"])
async def test_a_client_that_leaves_closes_lane_and_session(when: str) -> None:
    worker = FakeWorker()
    stream = make(worker)
    if when != "waiting":
        stream.receive(opened(3))
    if when == "done":
        stream.receive(End(3, 1))
    for _ in range(2):
        stream.client_left()
    assert all(lane.closed for lane in worker.lanes)
    assert sent(stream) == ([] if when == "done" else [Close(3)])
    stream.receive(End(3, 1))
    assert stream.session.ended


async def test_a_gateway_that_breaks_the_protocol(caplog: pytest.LogCaptureFixture) -> None:
    worker = FakeWorker()
    stream = make(worker)
    stream.receive(opened(3))
    stream.receive(verdict(3, 1, 50, 1))
    assert worker.lanes[0].closed
    assert sent(stream) == [Close(3)]
    with pytest.raises(Unavailable, match="broke the session protocol"):
        await stream.next()
    assert "request id" in caplog.text


@pytest.mark.parametrize(("limit", "value"), [("MAX_UNTAKEN", 3), ("MAX_UNTAKEN_BYTES", 7)])
async def test_a_gateway_that_sends_more_than_waits_for_acknowledgements(
    limit: str, value: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stream_module, limit, value)
    stream = make()
    stream.receive(opened(3))
    for seq in range(1, 9):  # as long as the client takes them, as many as there are
        stream.receive(event(seq))
        assert await stream.next() == b"{}"
    for seq in range(9, 13):
        stream.receive(event(seq))
    assert [await stream.next() for _ in range(4)] == [b"{}"] * 4
    with pytest.raises(Unavailable, match="4 events of 8 bytes wait for the client"):
        await stream.next()
    stream.receive(event(13))
    assert Close(3) in sent(stream)
    assert caplog.text.count("broke the protocol") == 1


async def test_the_lane_is_told_the_form_of_the_answer_and_where_it_begins() -> None:
    for form in (None, {"type": "json_object"}):
        worker = FakeWorker()
        session = make(worker).session
        stream = RequestStream("id", session, cast(DraftWorker, worker), lambda: None, None, form)
        stream.receive(opened(3))
        prompt = session.opened
        assert prompt is not None
        assert worker.forms == [None if form is None else AnswerForm(form, len(prompt.prompt_ids))]
