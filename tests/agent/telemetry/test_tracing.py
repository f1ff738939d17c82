"""Traces of requests: what a stream notes, and files that are bounded and never in the way."""

from __future__ import annotations

import logging
import stat
import threading
from pathlib import Path

import msgspec
import pytest
from fake_gateway import opened, verdict
from test_stream import FakeWorker, make, sent

from pipesd_agent.drafting.drafter import DraftToken
from pipesd_agent.session.stream import RequestStream
from pipesd_agent.telemetry import tracing
from pipesd_agent.telemetry.tracing import LiveTrace, SentDrafts, TraceFiles, Tracer
from pipesd_core.errors import ConfigError
from pipesd_core.protocol.messages import Draft


def finished(tracer: Tracer | None) -> RequestStream:
    """Prompt 1, 2; drafts 5, 6 (a wish), 7; the target says 5, 9."""
    worker = FakeWorker()
    stream = make(worker) if tracer is None else make(worker, tracer)
    stream.receive(opened(3))
    lane = worker.lanes[0]
    lane.on_token(1, DraftToken(2, 5, 0.75, 0.5, 0.25))
    lane.on_token(1, DraftToken(3, 6, 0.5))
    for message in sent(stream):
        assert isinstance(message, Draft)
        stream.sent(message, 40, 0.0)
    lane.on_token(1, DraftToken(4, 7, 0.25))
    stream.receive(verdict(3, 1, 2, 5, 9))
    lane.on_token(1, DraftToken(5, 8, 0.125))  # of before the verdict: not taken
    lane.on_token(2, DraftToken(4, 3, 0.5))
    return stream


def trace_of(tracer: Tracer, stream: RequestStream) -> LiveTrace | None:
    return tracer.trace(stream.request_id, stream.session.opened, stream.session.committed)


def traced(tracer: Tracer | None) -> LiveTrace | None:
    stream = finished(tracer)
    return None if tracer is None else trace_of(tracer, stream)


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_what_a_request_notes() -> None:
    trace = traced(Tracer())
    assert trace is not None
    assert (trace.version, trace.request, trace.prompt_length, trace.seed, trace.eos) == (1, "id", 2, 7, (0,))
    assert (trace.tokens, trace.temperature, trace.whole) == ((5, 9), 0.0, True)
    assert [(d.after, d.position, d.token, d.confidence) for d in trace.drafted] == [
        (0, 2, 5, 0.75), (0, 3, 6, 0.5), (0, 4, 7, 0.25), (1, 4, 3, 0.5),
    ]  # fmt: skip
    assert trace.drafted[0].margin == 0.5
    assert trace.drafted[0].entropy == 0.25
    assert [msgspec.structs.replace(s, at=0.0) for s in trace.sent] == [SentDrafts(0.0, 2, 2, 3, 40)]
    assert [(d.start, d.count) for d in trace.decided] == [(2, 2)]
    stamps = [trace.drafted[0].at, trace.sent[0].at, trace.decided[0].at, trace.drafted[-1].at]
    assert stamps == sorted(stamps)
    assert stamps[0] >= 0


def test_rows_are_bounded_and_none_comes_after_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "MAX_ROWS", 3)
    trace = traced(Tracer())
    assert trace is not None
    assert not trace.whole
    assert (len(trace.drafted), len(trace.sent), len(trace.decided)) == (2, 1, 0)


def test_a_request_without_drafts_has_no_trace() -> None:
    stream = make()
    stream.receive(opened(3))
    stream.receive(verdict(3, 1, 2, 5, 9))
    assert trace_of(Tracer(), stream) is None


async def test_one_file_a_request(tmp_path: Path) -> None:
    traces = TraceFiles(tmp_path / "new" / "folder")
    for _ in range(2):
        traces.add(traced(traces.begin()))
    traces.add(None)
    await traces.aclose()
    await traces.aclose()
    traces.add(traced(Tracer()))
    folder = tmp_path / "new" / "folder"
    assert len(files(folder)) == 2
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in files(folder):
        assert path.name.endswith(".trace.json")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert msgspec.json.decode(path.read_bytes(), type=LiveTrace).tokens == (5, 9)


async def test_a_full_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(tracing, "MAX_FILES", 3)
    (tmp_path / "old.trace.json").touch()
    (tmp_path / "other.txt").touch()
    traces = TraceFiles(tmp_path)
    begun = [traces.begin() for _ in range(4)]
    for tracer in begun:
        traces.add(traced(tracer))
    assert traces.begin() is None
    await traces.aclose()
    assert sum(path.name.endswith(".trace.json") for path in files(tmp_path)) == 3
    assert "holds 3 traces: no more are written" in caplog.text


async def test_a_slow_disk_costs_traces_and_not_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracing, "MAX_WAITING", 2)
    traces = TraceFiles(tmp_path)
    disk = threading.Event()
    write = traces._write

    def slow(trace: LiveTrace, path: Path) -> None:
        disk.wait(30)
        write(trace, path)

    monkeypatch.setattr(traces, "_write", slow)
    for _ in range(4):
        traces.add(traced(traces.begin()))
    disk.set()
    await traces.aclose()
    assert len(files(tmp_path)) == 2
    assert caplog.text.count("is not traced: 2 traces wait for the disk") == 2


async def test_a_disk_that_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "traces"
    traces = TraceFiles(folder)
    folder.rmdir()
    with caplog.at_level(logging.ERROR):
        traces.add(traced(traces.begin()))
        await traces.aclose()
    assert "the trace of request id could not be written" in caplog.text


async def test_a_trace_that_cannot_be_encoded_is_heard_of_and_the_same_trouble_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    traces = TraceFiles(tmp_path)
    monkeypatch.setattr("pipesd_agent.telemetry.tracing.msgspec.json.encode", lambda _: 1 / 0)
    for _ in range(3):
        traces.add(traced(traces.begin()))
    await traces.aclose()
    assert caplog.text.count("could not be written") == 1
    assert "division by zero" in caplog.text
    assert not files(tmp_path)


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="trace must be a folder to write to"):
        TraceFiles(tmp_path / "file")
