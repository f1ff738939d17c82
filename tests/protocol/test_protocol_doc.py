"""docs/protocol.md says what the code does: messages, limits, names of tests, and its example, played to a session."""

from __future__ import annotations

import re

import msgspec
import pytest
from repository import ROOT

from pipesd_core.engine.interface import ModelInfo, Opening, Payload, StepDone
from pipesd_core.llamacpp.runtime import rows
from pipesd_core.protocol import messages
from pipesd_core.protocol.messages import EdgeMessage, End, Event, GatewayMessage, Opened, Verdict, encode
from pipesd_gateway import agent_socket, quota, session
from pipesd_gateway.connection import GatewayConnection
from pipesd_gateway.limits import SessionLimits
from pipesd_gateway.quota import Quota

DOC = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
MESSAGES = [*EdgeMessage.__args__, *GatewayMessage.__args__]
EXAMPLE = re.findall(r"^([→←]) (.+)\n  ([0-9a-f ]+)$", DOC, re.MULTILINE)


@pytest.mark.parametrize("message", MESSAGES)
def test_every_message_stands_in_its_table(message: type[msgspec.Struct]) -> None:
    row = re.search(rf"^\| {message.__struct_config__.tag} \| `{message.__name__}` \| (.+) \|$", DOC, re.MULTILINE)
    assert row is not None
    named = re.findall(r"`(\w+)`", row[1])
    fields = list(message.__struct_fields__)
    assert named[: len(fields)] == fields


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (
            messages,
            [
                "MAX_FRAME_BYTES",
                "MAX_DRAFTS_PER_MESSAGE",
                "MAX_CHANNELS",
                "FOREVER",
                "MAX_UNACKED",
                "MAX_UNACKED_BYTES",
                "MAX_STAMPS",
            ],
        ),
        (session, ["MAX_PATH"]),
    ],
)
def test_limits_are_those_of_the_code(module: object, names: list[str]) -> None:
    for name in names:
        assert f"`{name}` = {getattr(module, name)}" in DOC


def test_bounds_are_those_of_the_code() -> None:
    bounds = dict(re.findall(r"^\| .+ \| ([^|]+) \| `(?:\w+\.)*([A-Z_]+)`.* \|$", DOC, re.MULTILINE))
    assert bounds == {
        str(messages.MAX_UNACKED_BYTES): "MAX_UNACKED_BYTES",
        str(agent_socket.MAX_SESSIONS): "MAX_SESSIONS",
        str(quota.MAX_SESSIONS_PER_KEY): "MAX_SESSIONS_PER_KEY",
        str(session.MAX_PATH): "MAX_PATH",
        f"{rows.MAX_DRAFTS}, embedded engine": "MAX_DRAFTS",
        str(messages.MAX_UNACKED): "MAX_UNACKED",
        str(session.MAX_AHEAD + 1): "MAX_AHEAD",
        "64 × (256 + 2 × 16 + 16)": "MAX_OUTBOX",
    }
    assert agent_socket.MAX_OUTBOX == 64 * (256 + 2 * 16 + 16)
    limits = SessionLimits()
    assert f"`park_timeout_s` ({limits.park_timeout_s:g} s)" in DOC
    assert f"`stall_timeout_s` ({limits.stall_timeout_s:g} s)" in DOC
    assert f"`grace_s` ({limits.grace_s:g} s" in DOC


def test_the_tests_that_it_names_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", DOC))
    defined = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^ *(?:async )?def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert len(named) > 20
    assert named - defined == set()


def test_the_frames_of_the_example_are_its_messages() -> None:
    assert len(EXAMPLE) == 12
    for _, described, frame in EXAMPLE:
        assert encode(_evaluate(described)).hex(" ") == frame, described


def test_the_example_is_what_a_session_does() -> None:
    now = 81.500412
    connection = GatewayConnection(
        ModelInfo("demo-target", 4096, bytes(16), 2048, 61), SessionLimits(), Quota().share(None)
    )
    reported: list[GatewayMessage] = []
    for direction, described, frame in EXAMPLE:
        message = _evaluate(described)
        if direction == "→":
            connection.receive(bytes.fromhex(frame), now)
        running = connection.session(0)
        match message:
            case Opened():
                opening = Opening(
                    message.prompt_ids, message.params, message.max_tokens, message.eos_ids, message.model
                )
                connection.accepted(0, opening, now)
            case Verdict(_, _, _, verified, accepted, tokens, _, queue_us, forward_us):
                assert running is not None
                running.step_done(StepDone(tokens, verified, accepted, queue_us, forward_us), now)
            case Event(_, _, upto, payload):
                assert running is not None
                running.payload(Payload(payload, upto - 2))
        connection.collect(0)
        reported += [output for output in connection.take_outputs() if isinstance(output, GatewayMessage)]
        if direction == "←":
            answer = reported.pop(0)
            if isinstance(answer, Opened):
                answer = msgspec.structs.replace(answer, session=bytes(16))
            assert answer == message
    assert reported == []
    assert isinstance(message, End)


def _evaluate(described: str) -> EdgeMessage | GatewayMessage:
    message = eval(described, vars(messages))
    assert isinstance(message, EdgeMessage | GatewayMessage)
    return message
