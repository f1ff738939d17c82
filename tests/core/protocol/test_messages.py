"""The codec: what goes in comes out, whatever else comes in is a `MalformedMessage`, and drafts are small."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given, settings

from pipesd_core.errors import MalformedMessage
from pipesd_core.protocol.messages import (
    FOREVER,
    MAX_CHANNELS,
    MAX_DRAFTS_PER_MESSAGE,
    MAX_FRAME_BYTES,
    VERSION,
    Ack,
    Close,
    Desync,
    Draft,
    Draining,
    EdgeMessage,
    End,
    Endpoint,
    Event,
    Failed,
    GatewayMessage,
    Open,
    Opened,
    Progress,
    Reason,
    Rejected,
    Resume,
    Run,
    Verdict,
    decode_edge,
    decode_gateway,
    encode,
)
from pipesd_core.sampling.params import SamplingParams

ID = bytes(range(16))
EDGE: list[EdgeMessage] = [
    Open(0, VERSION, Endpoint.CHAT_COMPLETIONS, b'{"messages": []}', b"f" * 16, "req_1"),
    Open(MAX_CHANNELS - 1, VERSION, Endpoint.COMPLETIONS, b"", None),
    Open(3, 999, Endpoint.COMPLETIONS, b"", b""),
    Draft(0, 0, 0, ()),
    Draft.wishing(127, 3, 511, (0, 1, 2**31 - 1), 513),
    Draft.wishing(1, 2**53 - 1, FOREVER, tuple(range(MAX_DRAFTS_PER_MESSAGE)), FOREVER),
    Run(0, 0),
    Run(5, FOREVER),
    Ack(0, 2**53 - 1),
    Close(9),
    Resume(2, ID, 77),
]
GATEWAY: list[GatewayMessage] = [
    Opened(0, ID, (1, 2, 3), SamplingParams(0.7, 0.9, 40, -(2**63)), 64, (2,), "toy", ("\n\n", "é")),
    Opened(0, ID, (), SamplingParams(), 0, (), ""),
    Verdict(1, 1, 5, 3, 2, (7, 8, 9), Reason.VERIFICATION, 10, 20, 2**53 - 1),
    Verdict(1, 2, 5, 0, 0, (), Reason.TIMEOUT, 0, 0, 0),
    Verdict(1, 3, 5, 0, 0, (), Reason.VERIFICATION, 0, 0, 0, 70, (2**32 - 1, *(2**53 - 1,) * 63)),
    Event(0, 3, 8, b"{}", True),
    End(0, 4),
    Failed(0, "overloaded", 429, b"{}", 7),
    Desync(0, 2, 9, "a hole"),
    Rejected("malformed_message", "what to do"),
    Draining(30),
    Progress(5),
]
Decode = Callable[[bytes], Any]
BOTH: list[tuple[Decode, Any]] = [*((decode_edge, m) for m in EDGE), *((decode_gateway, m) for m in GATEWAY)]
VALID = [(decode, encode(message)) for decode, message in BOTH]


def frame(*fields: object) -> bytes:
    return msgspec.msgpack.encode(fields)


def accepts_or_refuses(decode: Decode, data: bytes) -> None:
    """A message, which then survives its own encoding, or `MalformedMessage`; any other exception fails the test."""
    try:
        message = decode(data)
    except MalformedMessage:
        return
    assert decode(encode(message)) == message


@pytest.mark.parametrize(("decode", "message"), BOTH)
def test_every_message_round_trips(decode: Decode, message: object) -> None:
    assert decode(encode(message)) == message  # type: ignore[arg-type]


def test_every_message_is_among_the_examples() -> None:
    assert {type(m) for m in EDGE} == set(EdgeMessage.__args__)
    assert {type(m) for m in GATEWAY} == set(GatewayMessage.__args__)


def test_numbers_of_the_messages_are_fixed() -> None:
    """They are the wire: changing one makes old and new versions misunderstand each other."""
    tags = {type(m).__name__: msgspec.msgpack.decode(encode(m))[0] for m in [*EDGE, *GATEWAY]}
    assert tags == {
        "Open": 1, "Draft": 2, "Run": 3, "Ack": 4, "Close": 5, "Resume": 6,
        "Opened": 32, "Verdict": 33, "Event": 34, "End": 35, "Failed": 36, "Desync": 37, "Rejected": 38,
        "Draining": 39, "Progress": 40,
    }  # fmt: skip


def test_a_frame_byte_for_byte() -> None:
    assert encode(Draft.wishing(3, 1, 300, (5, 70_000), 301)).hex(" ") == "96 02 03 01 cd 01 2c 92 05 ce 00 01 11 70 01"


@pytest.mark.parametrize("decode", [decode_edge, decode_gateway])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"hello, gateway",
        b'{"channel": 0}',
        frame(),
        frame(99, 0),
        frame("2", 0),
        frame(None, 0),
        frame(2**63, 0),
        frame(-1, 0),
        frame(2.0, 0),
        msgspec.msgpack.encode({"type": 5, "channel": 0}),
        b"\x91" * 100_000,
        b"\x92\x05" + b"\x91" * 3_000_000 + b"\x00",
        b"\x93\x05\x00" + b"\x91" * 3_000_000 + b"\x00",
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        bytes(MAX_FRAME_BYTES + 1),
    ],
    ids=lambda value: repr(value[:12]) if isinstance(value, bytes) else "",
)
def test_what_is_no_message_is_refused(decode: Decode, data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode(data)


@pytest.mark.parametrize(
    "fields",
    [
        (5,),
        (5, -1),
        (5, MAX_CHANNELS),
        (5, "0"),
        (5, None),
        (5, 1.5),
        (5, True),
        (1, 0, 1, 4, b"", None),  # endpoint 4
        (1, 0, "1", 0, b"", None),
        (1, 0, 1, 0, "text", None),
        (1, 0, 1, 0, b"", "print"),
        (1, 0, 1, 0, b"", None, "x" * 129),
        (2, 0, 0, 0, (0,) * (MAX_DRAFTS_PER_MESSAGE + 1)),
        (2, 0, 0, 0, (2**31,)),
        (2, 0, 0, 0, (-1,)),
        (2, 0, 0, 0, ("5",)),
        (2, 0, 0, 0, None),
        (2, 0, -1, 0, ()),
        (2, 0, 2**53, 0, ()),
        (2, 0, 0, FOREVER + 1, ()),
        (2, 0, 0, -1, ()),
        (2, 0, 0, 0, (), -FOREVER - 1),
        (2, 0, 0, 0, (), FOREVER + 1),
        (3, 0, FOREVER + 1),
        (4, 0, 2**64 - 1),
        (6, 0, ID[:-1], 0),
        (6, 0, ID + b"x", 0),
    ],
)
def test_fields_of_an_edge_outside_their_limits_are_refused(fields: tuple[object, ...]) -> None:
    with pytest.raises(MalformedMessage, match="from an edge"):
        decode_edge(frame(*fields))


@pytest.mark.parametrize(
    "fields",
    [
        (32, 0, ID, (), (-1.0, 1.0, 0, 0), 1, (), ""),  # parameters that no gateway can have
        (32, 0, ID, (), (1.0, float("nan"), 0, 0), 1, (), ""),
        (32, 0, ID, (), (1.0, 1.0, 0, 2**63), 1, (), ""),
        (32, 0, ID, (-1,), (1.0, 1.0, 0, 0), 1, (), ""),
        (33, 0, 1, 0, 0, 0, (), 3, 0, 0, 0),  # reason 3
        (33, 0, 1, 0, 0, 0, (), 0, 0, 0),
        (34, 0, 1, 0, "text"),
        (36, 0, "code", 0, b""),  # no HTTP error status
        (36, 0, "code", 200, b""),
        (36, 0, "code", 600, b""),
        (36, 0, "code", 429, b"", -1),
        (2, 0, 0, 0, ()),  # an edge's message
    ],
)
def test_fields_of_a_gateway_outside_their_limits_are_refused(fields: tuple[object, ...]) -> None:
    with pytest.raises(MalformedMessage, match="from a gateway"):
        decode_gateway(frame(*fields))


@pytest.mark.parametrize("message", EDGE)
def test_an_edge_s_message_is_none_of_a_gateway(message: EdgeMessage) -> None:
    with pytest.raises(MalformedMessage):
        decode_gateway(encode(message))


@pytest.mark.parametrize(("decode", "data"), VALID)
def test_truncated_and_prolonged_frames_are_refused(decode: Decode, data: bytes) -> None:
    for cut in range(len(data)):
        with pytest.raises(MalformedMessage):
            decode(data[:cut])
    with pytest.raises(MalformedMessage):
        decode(data + b"\0")


def test_text_in_another_encoding_is_refused() -> None:
    with pytest.raises(MalformedMessage):
        decode_edge(b"\x97\x01\x00\x01\x00\xc4\x00\xc0\xa2\xff\xfe")
    with pytest.raises(MalformedMessage):
        decode_gateway(b"\x93\x26\xa1\xff\xa0")


def test_the_largest_frame_is_taken_and_the_next_larger_named() -> None:
    body = MAX_FRAME_BYTES - len(encode(Open(0, VERSION, Endpoint.COMPLETIONS, bytes(2**17), None))) + 2**17
    largest = encode(Open(0, VERSION, Endpoint.COMPLETIONS, bytes(body), None))
    assert len(largest) == MAX_FRAME_BYTES
    assert isinstance(decode_edge(largest), Open)
    for decode in (decode_edge, decode_gateway):
        with pytest.raises(MalformedMessage, match=f"{MAX_FRAME_BYTES + 1} bytes; the limit is {MAX_FRAME_BYTES}"):
            decode(largest + b"\0")


def test_fields_that_a_later_version_appends_are_ignored() -> None:
    assert decode_edge(frame(5, 0, "new", {"a": 1})) == Close(0)
    assert decode_edge(frame(2, 0, 0, 0, (1,))) == Draft(0, 0, 0, (1,))


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    accepts_or_refuses(decode_edge, data)
    accepts_or_refuses(decode_gateway, data)


TAGS = [message.__struct_config__.tag for message in get_args(EdgeMessage | GatewayMessage)]
# Shaped like messages, so that the fields are what is fuzzed, and not the framing.
FIELDS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary(max_size=20) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=8,
)


@given(st.sampled_from(TAGS), st.lists(FIELDS, max_size=11))
@settings(max_examples=300)
def test_any_fields(tag: int, fields: list[object]) -> None:
    accepts_or_refuses(decode_edge, frame(tag, *fields))
    accepts_or_refuses(decode_gateway, frame(tag, *fields))


@given(st.sampled_from(VALID), st.data())
@settings(max_examples=500)
def test_mutated_frames(valid: tuple[Decode, bytes], data: st.DataObject) -> None:
    decode, start = valid
    mutant = bytearray(start)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(mutant)))
        match data.draw(st.sampled_from(["flip", "insert", "cut", "repeat"])):
            case "flip" if at < len(mutant):
                mutant[at] ^= data.draw(st.integers(1, 255))
            case "insert":
                mutant[at:at] = data.draw(st.binary(min_size=1, max_size=5))
            case "cut":
                del mutant[at : at + 3]
            case _:
                mutant[at:at] = mutant[:at][:64]
    accepts_or_refuses(decode, bytes(mutant))


# Sizes (at most 20 bytes for a token sent alone, at most 7 per token in batches of 8).

HEADER = 6
"""WebSocket header and mask of a client's frame with a payload below 126 bytes."""


def on_the_wire(epoch: int, position: int, token: int, n: int, *, verify: bool) -> int:
    payload = len(encode(Draft.wishing(127, epoch, position, (token,) * n, position + n - 1 if verify else None)))
    assert payload < 126
    return HEADER + payload


@pytest.mark.parametrize("token", [0, 255, 65_535, 65_536, 200_000])
@pytest.mark.parametrize("position", [0, 127, 2_000, 65_535 - 8])
@pytest.mark.parametrize("epoch", [0, 127])
@pytest.mark.parametrize("verify", [True, False])
def test_drafts_are_small_enough(epoch: int, position: int, token: int, verify: bool) -> None:
    assert on_the_wire(epoch, position, token, 1, verify=verify) <= 20
    assert on_the_wire(epoch, position, token, 8, verify=verify) <= 7 * 8


@pytest.mark.parametrize(
    ("what", "epoch", "position", "token", "verify", "one", "eight"),
    [
        ("the demo pair", 40, 400, 3_999, False, 18, 39),
        ("the demo pair, with a wish", 40, 400, 3_999, True, 18, 39),
        ("Qwen2.5", 40, 2_000, 151_000, False, 20, 55),
        ("Qwen2.5, with a wish", 40, 2_000, 151_000, True, 20, 55),
        ("more than 127 rollbacks", 128, 2_000, 151_000, False, 21, 56),
        ("more than 255 rollbacks", 256, 2_000, 151_000, False, 22, 57),
        ("positions above 65535", 40, 100_000, 151_000, False, 22, 57),
        ("all of it, with a wish", 256, 100_000, 151_000, True, 24, 59),
    ],
)
def test_sizes_and_what_lies_beyond(
    what: str, epoch: int, position: int, token: int, verify: bool, one: int, eight: int
) -> None:
    sizes = [on_the_wire(epoch, position, token, n, verify=verify) for n in (1, 8)]
    assert sizes == [one, eight], what
