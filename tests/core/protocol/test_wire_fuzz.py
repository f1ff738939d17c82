"""The decoders against bytes that were made to hurt: the documented exception only, in bounded time and memory."""

from __future__ import annotations

import struct
import time
import tracemalloc
from collections.abc import Callable

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given, settings
from test_messages import EDGE, GATEWAY

from pipesd_core.errors import MalformedMessage
from pipesd_core.protocol.messages import MAX_FRAME_BYTES, Draft, decode_edge, decode_gateway, encode

Decode = Callable[[bytes], object]

DECODERS: list[Decode] = [decode_edge, decode_gateway]
VALID = [(decode_edge, encode(message)) for message in EDGE] + [
    (decode_gateway, encode(message)) for message in GATEWAY
]
MAX_S = 2.0
"""Processor time for the largest frame there is; an honest one of this size takes a few milliseconds."""
MAX_OVERHEAD = 64
"""Bytes of memory for each byte of a frame, while it is decoded: a token id of one byte is an object of 28 and 8."""
FULL = MAX_FRAME_BYTES


def frame_of(head: bytes, filler: bytes) -> bytes:
    """As long as a frame may be."""
    return head + filler * ((FULL - len(head)) // len(filler))


def array(length: int) -> bytes:
    return b"\xdd" + struct.pack(">I", length)


HOSTILE = {
    "arrays in arrays": frame_of(b"", b"\x91"),
    "maps in maps": frame_of(b"", b"\x81\xa0"),
    "arrays in a field": frame_of(b"\x96\x02\x00\x00\x00", b"\x91"),
    "arrays in a field that nobody knows": frame_of(b"\x93\x05\x00", b"\x91"),
    "maps in a field that nobody knows": frame_of(b"\x93\x05\x00", b"\x81\xa0"),
    "2^32 elements announced": array(2**32 - 1),
    "2^32 fields announced": array(2**32 - 1) + b"\x05\x00",
    "2^32 ids announced": b"\x96\x02\x00\x00\x00" + array(2**32 - 1),
    "2^32 ids announced, many there": frame_of(b"\x96\x02\x00\x00\x00" + array(2**32 - 1), b"\x01"),
    "2^32 prompt ids announced": b"\x99\x20\x00\xc4\x10" + bytes(16) + array(2**32 - 1),
    "2^32 prompt ids announced, many there": frame_of(b"\x99\x20\x00\xc4\x10" + bytes(16) + array(2**32 - 1), b"\x01"),
    "2^32 bytes announced": b"\x97\x01\x00\x01\x01\xc6\xff\xff\xff\xff",
    "2^32 characters announced": b"\x97\x01\x00\x01\x01\xc4\x00\xc0\xdb\xff\xff\xff\xff",
    "2^32 map entries announced": b"\x93\x05\x00\xdf\xff\xff\xff\xff",
    "an extension of 2^32 bytes": b"\x93\x05\x00\xc9\xff\xff\xff\xff\x01",
    "a map of many entries": b"\x93\x05\x00\xdf" + struct.pack(">I", FULL // 3) + b"\xa1a\x01" * (FULL // 3 - 8),
    "many fields": array(FULL - 6) + b"\x05" + b"\x00" * (FULL - 6),
    "many nils": array(FULL - 6) + b"\x05" + b"\xc0" * (FULL - 6),
    "a long request id": b"\x97\x01\x00\x01\x01\xc4\x00\xc0\xdb" + struct.pack(">I", FULL - 14) + b"a" * (FULL - 14),
    "the largest integers": b"\x96\x02" + b"\xcf" + b"\xff" * 8 + b"\xd3\x80" + bytes(7) + b"\xcf\xff" + b"\xff" * 7,
    "nothing but zeros": bytes(FULL),
    "nothing but 0xff": b"\xff" * FULL,
}


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize("what", HOSTILE)
def test_frames_that_were_made_to_hurt(decode: Decode, what: str) -> None:
    frame = HOSTILE[what]
    assert len(frame) <= FULL
    tracemalloc.start()
    try:
        began = time.thread_time()
        refused(decode, frame)
        seconds = time.thread_time() - began
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert seconds < MAX_S
    assert most < MAX_OVERHEAD * len(frame) + 2**20


def test_what_a_refusal_says_is_short() -> None:
    """It goes back to the other end, and into the log."""
    for decode in DECODERS:
        for frame in HOSTILE.values():
            assert len(refused(decode, frame) or "") < 500


def refused(decode: Decode, frame: bytes) -> str | None:
    """The refusal, None where there is none (unknown fields at the end are allowed). Any other exception fails."""
    try:
        decode(frame)
    except MalformedMessage as error:
        return str(error)
    return None


@given(st.sampled_from(DECODERS), st.binary(max_size=4096))
@settings(max_examples=500)
def test_random_bytes(decode: Decode, data: bytes) -> None:
    refused(decode, data)


@given(st.sampled_from(VALID), st.data())
@settings(max_examples=1000)
def test_valid_frames_with_bytes_of_any_kind_put_in(valid: tuple[Decode, bytes], data: st.DataObject) -> None:
    """Every place, every length byte of msgpack, and the tails of other frames."""
    decode, start = valid
    at = data.draw(st.integers(0, len(start)))
    kinds = st.sampled_from([bytes([kind]) for kind in range(0xC0, 0xE0)])
    inserted = data.draw(
        kinds
        | st.builds(bytes.__add__, kinds, st.binary(min_size=1, max_size=9))
        | st.sampled_from([frame for _, frame in VALID])
    )
    skipped = data.draw(st.integers(0, 4))
    refused(decode, start[:at] + inserted + start[at + skipped :])


@given(st.lists(st.integers(-(2**63), 2**64 - 1), max_size=300), st.integers(-(2**63), 2**64 - 1))
def test_integers_of_any_size(ids: list[int], epoch: int) -> None:
    frame = msgspec.msgpack.encode([2, 0, epoch, 0, ids])
    fits = 0 <= epoch < 2**53 and len(ids) <= 256 and all(0 <= token < 2**31 for token in ids)
    assert (refused(decode_edge, frame) is None) == fits
    if fits:
        assert decode_edge(frame) == Draft(0, epoch, 0, tuple(ids))
