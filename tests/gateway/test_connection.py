"""All sessions of one agent: channels, refusals, and faults that stay where they belong."""

from __future__ import annotations

import msgspec
import pytest

from pipesd_core.engine.interface import ModelInfo, Opening, StepDone
from pipesd_core.errors import ModelNotFound
from pipesd_core.protocol.messages import (
    MAX_CHANNELS,
    MAX_FRAME_BYTES,
    VERSION,
    Ack,
    Close,
    Draft,
    EdgeMessage,
    End,
    Endpoint,
    Failed,
    Open,
    Opened,
    Progress,
    Reason,
    Rejected,
    Resume,
    Run,
    Verdict,
    encode,
)
from pipesd_core.sampling.params import SamplingParams
from pipesd_gateway.connection import (
    AbortRequest,
    CancelRequest,
    GatewayConnection,
    Hangup,
    Output,
    StartRequest,
    StepRequest,
)
from pipesd_gateway.limits import SessionLimits
from pipesd_gateway.quota import Quota

PRINT = b"target-vocabular"
INFO = ModelInfo("toy", n_vocab=100, fingerprint=PRINT, max_context=4096, max_drafts=5)
OPENING = Opening((1, 2, 3), SamplingParams(seed=5), 50, (9,), "toy")
BASE = 3


class Bench:
    def __init__(self, *, max_sessions: int = 8) -> None:
        self.now = 50.0
        self.share = Quota().share(None)
        limits = SessionLimits(park_timeout_s=5)
        self.connection = GatewayConnection(INFO, limits, self.share, max_sessions=max_sessions)

    def send(self, message: EdgeMessage | bytes | str) -> list[Output]:
        frame = message if isinstance(message, bytes | str) else encode(message)
        self.connection.receive(frame, self.now)
        return self.connection.take_outputs()

    def open(self, channel: int, fingerprint: bytes | None = PRINT) -> list[Output]:
        """Open a session that the engine accepts at once, and end its free run after one token."""
        (start,) = self.send(request(channel, fingerprint))
        assert start == StartRequest(request(channel, fingerprint))
        self.connection.accepted(channel, OPENING, self.now)
        outputs = self.connection.take_outputs()
        self.send(Run(channel, 0))
        self.step(channel, 10)
        return outputs

    def step(self, channel: int, *tokens: int) -> list[Output]:
        session = self.connection.session(channel)
        assert session is not None
        session.step_done(StepDone(tokens, 0, 0, 0, 0), self.now)
        self.connection.collect(channel)
        return self.connection.take_outputs()


def request(channel: int, fingerprint: bytes | None = PRINT, version: int = VERSION) -> Open:
    return Open(channel, version, Endpoint.COMPLETIONS, b"{}", fingerprint)


def refusal(outputs: list[Output]) -> Failed:
    (found,) = outputs
    assert isinstance(found, Failed)
    return found


def message_of(fault: Failed) -> str:
    text = msgspec.json.decode(fault.body)["error"]["message"]
    assert isinstance(text, str)
    return text


def hung_up(outputs: list[Output], code: str) -> str:
    rejected, hangup = outputs
    assert isinstance(rejected, Rejected)
    assert isinstance(hangup, Hangup)
    assert rejected.code == code
    return rejected.message


@pytest.fixture
def bench() -> Bench:
    return Bench()


# Opening.


def test_a_session_is_opened_and_steps(bench: Bench) -> None:
    opened, step = bench.open(7)
    assert isinstance(opened, Opened)
    assert (opened.channel, opened.prompt_ids, opened.max_tokens) == (7, (1, 2, 3), 50)
    assert len(opened.session) == 16
    assert step == StepRequest(7, ())
    assert bench.connection.channels == 1


def test_a_session_starts_as_freely_as_its_open_says(bench: Bench) -> None:
    bench.send(msgspec.structs.replace(request(7, PRINT), free_start=2))
    bench.connection.accepted(7, OPENING, bench.now)
    assert bench.connection.take_outputs()[1:] == [StepRequest(7, ())]
    assert bench.step(7, 10)[1:] == [StepRequest(7, ())]
    assert len(bench.step(7, 11)) == 1, "the verdict, and no step"


def test_session_ids_are_drawn_at_random(bench: Bench) -> None:
    ids = set()
    for channel in range(8):
        opened = bench.open(channel)[0]
        assert isinstance(opened, Opened)
        ids.add(opened.session)
    assert len(ids) == 8


def test_the_engine_s_refusal_goes_to_the_edge_and_frees_the_channel(bench: Bench) -> None:
    bench.send(request(0))
    bench.connection.refused(0, ModelNotFound("no model 'x'; this server has 'toy'", param="model"))
    fault = refusal(bench.connection.take_outputs())
    assert (fault.channel, fault.code, fault.status) == (0, "model_not_found", 404)
    assert msgspec.json.decode(fault.body)["error"]["param"] == "model"
    assert bench.connection.channels == 0
    bench.open(0)


def test_an_unknown_version_ends_the_connection_and_says_what_to_do(bench: Bench) -> None:
    text = hung_up(bench.send(request(0, version=2)), "unknown_version")
    assert "speaks pipesd version 1, the agent sent 2" in text
    assert "install matching versions" in text
    assert bench.connection.channels == 0


@pytest.mark.parametrize("waiting", [True, False])
def test_open_on_a_channel_in_use_ends_the_connection(bench: Bench, waiting: bool) -> None:
    if waiting:
        bench.send(request(5))
    else:
        bench.open(5)
    assert "channel 5" in hung_up(bench.send(request(5)), "out_of_state")


def test_too_many_sessions_are_refused_with_a_retry_after_those_in_the_queue_included() -> None:
    bench = Bench(max_sessions=2)
    bench.open(0)
    bench.send(request(1))
    fault = refusal(bench.send(request(2)))
    assert (fault.channel, fault.status, fault.retry_after_s) == (2, 429, 1)
    assert "limit is 2" in message_of(fault)
    bench.send(Close(1))
    assert isinstance(bench.send(request(2))[0], StartRequest), "there is room again"


def test_another_vocabulary_is_refused(bench: Bench) -> None:
    fault = refusal(bench.send(request(0, b"other")))
    assert (fault.code, fault.status) == ("vocabulary_mismatch", 409)
    assert b"other".hex() in message_of(fault)
    assert "use a draft model of the same family" in message_of(fault)
    assert bench.connection.channels == 0


@pytest.mark.parametrize(("fingerprint", "collaborative"), [(PRINT, True), (b"", True), (None, False)])
def test_only_a_session_with_a_fingerprint_if_an_empty_one_is_drafted_for(
    bench: Bench, fingerprint: bytes | None, collaborative: bool
) -> None:
    bench.open(0, fingerprint)
    outputs = bench.send(Draft.wishing(0, 0, BASE + 1, (11,), BASE + 1))
    if collaborative:
        assert outputs == [StepRequest(0, (11,))]
    else:
        assert outputs[0] == AbortRequest(0)
        assert "fingerprint" in message_of(refusal(outputs[1:]))


def test_resume_of_an_unknown_session_is_refused_and_its_channel_is_free(bench: Bench) -> None:
    fault = refusal(bench.send(Resume(4, bytes(16), 9)))
    assert (fault.channel, fault.code, fault.status) == (4, "session_unknown", 410)
    assert "open the request again" in message_of(fault)
    assert bench.send(Ack(4, 9)) == [], "sent before the refusal reached the edge"
    bench.open(4)


@pytest.mark.parametrize("waiting", [True, False])
def test_resume_on_a_channel_in_use_ends_the_connection(bench: Bench, waiting: bool) -> None:
    """A `Failed` would tell the edge that its running session is over, while the gateway goes on with it."""
    if waiting:
        bench.send(request(4))
    else:
        bench.open(4)
    hung_up(bench.send(Resume(4, bytes(16), 9)), "out_of_state")


# Messages out of place.


@pytest.mark.parametrize("message", [Draft(6, 0, 0, ()), Run(6, 0), Ack(6, 0), Close(6)])
def test_messages_on_a_channel_that_was_never_opened_end_the_connection(bench: Bench, message: EdgeMessage) -> None:
    bench.open(5)
    text = hung_up(bench.send(message), "out_of_state")
    assert text == f"{type(message).__name__} on channel 6, which was never opened"


@pytest.mark.parametrize("message", [Draft(0, 0, 0, ()), Run(0, 0), Ack(0, 0)])
def test_messages_before_opened_end_the_connection(bench: Bench, message: EdgeMessage) -> None:
    bench.send(request(0))
    assert "before it was opened" in hung_up(bench.send(message), "out_of_state")


@pytest.mark.parametrize("how", ["finished", "closed", "refused", "cancelled", "mismatch"])
@pytest.mark.parametrize("message", [Draft.wishing(0, 3, 77, (1,), 77), Run(0, 0), Ack(0, 5), Close(0)])
def test_late_messages_after_the_end_of_a_session_are_no_fault(bench: Bench, how: str, message: EdgeMessage) -> None:
    match how:
        case "finished":
            bench.open(0)
            session = bench.connection.session(0)
            assert session is not None
            session.finished()
            bench.connection.collect(0)
        case "closed":
            bench.open(0)
            bench.send(Close(0))
        case "refused":
            bench.send(request(0))
            bench.connection.refused(0, ModelNotFound("x"))
        case "cancelled":
            bench.send(request(0))
            bench.send(Close(0))
        case _:
            bench.send(request(0, b"other"))
    bench.connection.take_outputs()
    assert bench.connection.channels == 0
    assert bench.send(message) == []


def test_a_channel_is_used_again_after_the_end_and_starts_afresh(bench: Bench) -> None:
    bench.open(0)
    bench.send(Draft(0, 9, BASE + 1, (11,)))
    bench.send(Close(0))
    bench.open(0)
    assert bench.send(Draft.wishing(0, 0, BASE + 1, (12,), BASE + 1)) == [StepRequest(0, (12,))], "epoch 9 is forgotten"


# The end of waiting.


def test_close_while_waiting_cancels_and_ends(bench: Bench) -> None:
    bench.send(request(2))
    assert bench.send(Close(2)) == [CancelRequest(2), End(2, 1)]
    assert bench.connection.channels == 0


def test_a_disconnect_cancels_what_waits_and_keeps_what_runs_for_the_grace_time(bench: Bench) -> None:
    bench.open(0)
    bench.open(1)
    bench.send(request(2))
    bench.connection.disconnected(bench.now)
    assert bench.connection.take_outputs() == [CancelRequest(2)]
    assert bench.connection.channels == bench.share.taken == 2
    assert bench.connection.deadline() == bench.now + 30
    bench.connection.tick(bench.now + 30)
    assert bench.connection.take_outputs() == [AbortRequest(0), AbortRequest(1)]
    assert bench.connection.channels == bench.share.taken == 0
    assert bench.connection.deadline() is None
    bench.connection.disconnected(bench.now)
    assert bench.connection.take_outputs() == []


@pytest.mark.parametrize("fault", [True, False])
def test_a_disconnect_for_good_aborts_what_runs(bench: Bench, fault: bool) -> None:
    bench.open(0)
    if fault:
        hung_up(bench.send(b"rubbish"), "malformed_message")
    bench.connection.disconnected(bench.now, for_good=not fault)
    assert bench.connection.take_outputs() == [AbortRequest(0)]
    assert bench.connection.channels == bench.share.taken == 0
    assert bench.connection.deadline() is None


# Malformed frames.


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"rubbish",
        encode(Close(0))[:-1],
        encode(End(0, 1)),
        bytes(MAX_FRAME_BYTES + 1),
        encode(Close(0)).replace(b"\0", b"\xcd" + MAX_CHANNELS.to_bytes(2, "big")),
    ],
    ids=["empty", "rubbish", "truncated", "a gateway's message", "too large", "channel too high"],
)
def test_a_malformed_frame_is_answered_and_ends_the_connection(bench: Bench, frame: bytes) -> None:
    bench.open(0)
    assert hung_up(bench.send(frame), "malformed_message")


@pytest.mark.parametrize("text", ["", '{"channel": 0}', "\u0700\x05\x05\x00" + "a" * 0x8003])
def test_a_text_frame_is_malformed_whatever_its_bytes_would_mean(bench: Bench, text: str) -> None:
    bench.open(0)
    assert "text frame" in hung_up(bench.send(text), "malformed_message")


# Isolation.


def test_a_session_s_fault_ends_that_session_and_no_other(bench: Bench) -> None:
    bench.open(0)
    bench.open(1)
    bench.send(Draft(1, 0, BASE + 1, (11, 12)))
    outputs = bench.send(Draft.wishing(0, 0, BASE + 1, (100,), BASE + 1))
    assert outputs[0] == AbortRequest(0)
    fault = refusal(outputs[1:])
    assert (fault.channel, fault.code, fault.status) == (0, "out_of_state", 502)
    assert "outside the vocabulary" in message_of(fault)
    assert bench.connection.session(0) is None
    assert bench.send(Draft.wishing(1, 0, BASE + 3, (), BASE + 2)) == [StepRequest(1, (11, 12))]


def test_sessions_are_isolated_from_each_other_s_drafts_epochs_and_acks(bench: Bench) -> None:
    for channel in (0, 1, 2):
        bench.open(channel)
    bench.send(Draft(0, 5, BASE + 1, (20, 21)))
    bench.send(Draft(1, 0, BASE + 1, (30,)))
    bench.send(Ack(2, 1))
    assert bench.send(Draft.wishing(1, 0, BASE + 2, (31,), BASE + 2)) == [StepRequest(1, (30, 31))]
    assert bench.send(Draft.wishing(0, 5, BASE + 3, (22,), BASE + 3)) == [StepRequest(0, (20, 21, 22))]
    assert bench.step(1, 30, 31, 32) == [
        Verdict(1, 2, BASE + 1, 0, 0, (30, 31, 32), Reason.VERIFICATION, 0, 0, 50_000_000, 4, (50_000_000, 0))
    ]
    untouched = bench.connection.session(2)
    assert untouched is not None
    assert list(untouched.committed) == [1, 2, 3, 10]


def test_the_deadline_is_the_earliest_and_a_tick_serves_only_those_that_are_due(bench: Bench) -> None:
    assert bench.connection.deadline() is None
    bench.open(0)
    bench.now += 2
    bench.open(1)
    assert bench.connection.deadline() == 55.0
    bench.connection.tick(54.9)
    assert bench.connection.take_outputs() == []
    bench.connection.tick(55.0)
    outputs = bench.connection.take_outputs()
    assert [output for output in outputs if isinstance(output, StepRequest)] == [StepRequest(0, ())]
    assert bench.connection.deadline() == 57.0


def test_collect_of_a_session_that_is_gone_is_harmless(bench: Bench) -> None:
    bench.connection.collect(3)
    assert bench.connection.take_outputs() == []


# Signs of life.


def test_a_session_whose_step_is_still_to_come_says_so_while_it_has_a_link(bench: Bench) -> None:
    bench.open(4)
    bench.connection.working(4)
    assert bench.connection.take_outputs() == [Progress(4)]
    bench.connection.working(5)  # over, or never there
    assert bench.connection.take_outputs() == []
    bench.connection.disconnected(bench.now)
    bench.connection.working(4)
    assert bench.connection.take_outputs() == []
