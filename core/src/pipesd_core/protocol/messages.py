"""The wire of pipesd.v1: typed messages, their limits, and the one codec that both ends import.

One WebSocket per agent carries many sessions. Every message is one binary frame: a msgpack array whose first element
is the message's number. `channel` is the edge's short name for a session on this connection (one byte up to 127); the
session's real id, 128 random bits, is in `Opened`. Positions are absolute indices into prompt + output. Rules of the
exchange: architecture §4, `session.py` (gateway side), `pipesd_agent.session.session` (edge side).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Final, Self

import msgspec
from msgspec import Meta, Struct
from msgspec.msgpack import Decoder

from pipesd_core.errors import InvalidRequest, MalformedMessage
from pipesd_core.sampling.params import SamplingParams

SUBPROTOCOL: Final = "pipesd.v1"
VERSION: Final = 1
FOREVER: Final = 2**32 - 1
"""`Run.until` of cloud-only: the target goes on by itself to the end."""

MAX_FRAME_BYTES: Final = 4 * 2**20
"""Largest frame either end accepts; an `open` with a long chat is the big one."""
MAX_DRAFTS_PER_MESSAGE: Final = 256
MAX_CHANNELS: Final = 1024
MAX_UNACKED: Final = 256
"""A session with more unacknowledged messages than this parks after its step: flow control and buffer bound in one."""
MAX_UNACKED_BYTES: Final = 2**20
"""The bound for the payloads of unacknowledged events. One event may be larger if it is the only one."""

MAX_IGNORED_CHARS: Final = 512
"""Length of a list of ignored parameters."""
MAX_STAMPS: Final = 64
"""Most arrivals that one verdict reports; the last ones."""
STAMP_PERIOD_US: Final = 2**32
"""The first of a verdict's stamps is the clock modulo this: five bytes on the wire instead of nine."""

Channel = Annotated[int, Meta(ge=0, lt=MAX_CHANNELS)]
Position = Annotated[int, Meta(ge=0, le=FOREVER)]
TokenId = Annotated[int, Meta(ge=0, lt=2**31)]
Count = Annotated[int, Meta(ge=0, lt=2**53)]
Status = Annotated[int, Meta(ge=400, le=599)]
SessionId = Annotated[bytes, Meta(min_length=16, max_length=16)]


class Endpoint(IntEnum):
    """The endpoint that the body of an `Open` belongs to: OpenAI's, but for Anthropic's Messages."""

    CHAT_COMPLETIONS = 0
    COMPLETIONS = 1
    RESPONSES = 2
    MESSAGES = 3


class Reason(IntEnum):
    """The reason of an engine step: a verification, a free run, or an edge that was silent for too long."""

    VERIFICATION = 0
    RUN = 1
    TIMEOUT = 2


# Edge to gateway.


class Open(Struct, frozen=True, array_like=True, tag=1):
    """Start a session. `fingerprint`: of the drafter's vocabulary; empty: the drafter has none of its own (prompt
    lookup proposes ids that it has seen); None: cloud-only, no drafts will come. `free_start`: tokens that the target
    writes by itself, unless a draft or a `Run` comes before; the first one is the prompt's own step. `progress`: the
    edge takes `Progress`."""

    channel: Channel
    version: int
    endpoint: Endpoint
    body: bytes
    fingerprint: bytes | None
    request_id: Annotated[str, Meta(max_length=128)] = ""
    free_start: Annotated[int, Meta(ge=1, le=FOREVER)] = FOREVER
    progress: bool = False


class Draft(Struct, frozen=True, array_like=True, tag=2):
    """Drafted ids from absolute position `start` on, and perhaps a request to verify them through a position.

    On the wire that position, `wish`, is relative to `start`: one byte where the position would cost three. Make a
    message with `wishing`.
    """

    channel: Channel
    epoch: Count
    start: Position
    ids: Annotated[tuple[TokenId, ...], Meta(max_length=MAX_DRAFTS_PER_MESSAGE)]
    wish: Annotated[int, Meta(ge=-FOREVER, le=FOREVER)] | None = None

    @classmethod
    def wishing(cls, channel: int, epoch: int, start: int, ids: tuple[int, ...], verify_through: int | None) -> Self:
        """A draft that asks for verification through absolute position `verify_through` (None: does not ask)."""
        return cls(channel, epoch, start, ids, None if verify_through is None else verify_through - start)

    @property
    def verify_through(self) -> int | None:
        """The absolute position through which verification is asked for; None: it is not."""
        return None if self.wish is None else self.start + self.wish


class Run(Struct, frozen=True, array_like=True, tag=3):
    """Free run: the target goes on by itself while committed <= until; until <= committed means stop."""

    channel: Channel
    until: Position


class Ack(Struct, frozen=True, array_like=True, tag=4):
    """Everything up to sequence number `seq` has been taken (an event: by the client)."""

    channel: Channel
    seq: Count


class Close(Struct, frozen=True, array_like=True, tag=5):
    """The edge does not want the session any more; nothing more is sent for it."""

    channel: Channel


class Resume(Struct, frozen=True, array_like=True, tag=6):
    """Go on, on this connection, with a session that was opened on another one; `seq` is the last that arrived.

    Answered by all messages after `seq`, and then whatever follows; or by `Failed` with code `session_unknown`.
    """

    channel: Channel
    session: SessionId
    seq: Count


# Gateway to edge.


class Opened(Struct, frozen=True, array_like=True, tag=32):
    """The session exists. Prompt ids, the *effective* parameters, and where the answer must end. `ignored`: list of the
    body's parameters that were left aside (`openai_parameters.ignored_list`)."""

    channel: Channel
    session: SessionId
    prompt_ids: tuple[TokenId, ...]
    params: SamplingParams
    max_tokens: Count
    eos_ids: tuple[TokenId, ...]
    model: str
    stop: tuple[str, ...] = ()
    ignored: Annotated[str, Meta(max_length=MAX_IGNORED_CHARS, pattern=r"^[ -~]*\Z")] = ""


class Verdict(Struct, frozen=True, array_like=True, tag=33):
    """The outcome of one engine step: `verified` drafts were in the pass, the first `accepted` of them were right, and
    the session's committed ids grew by `tokens` from position `start` on (drafts that were right included).

    queue_us: from the moment the step could have started until it did; forward_us: the forward pass; recv_us: the
    gateway's clock when the last draft message before the step arrived (0: none) - only differences mean anything.

    heard: messages of the edge for this session that had arrived on its link, `Open` or `Resume` being the first (0:
    not reported, as in a verdict that is sent again). stamps: when the last of them arrived that no verdict has
    reported yet: the gateway's clock in microseconds, modulo STAMP_PERIOD_US, then the time from each to the next.
    """

    channel: Channel
    seq: Count
    start: Position
    verified: Count
    accepted: Count
    tokens: tuple[TokenId, ...]
    reason: Reason
    queue_us: Count
    forward_us: Count
    recv_us: Count
    heard: Count = 0
    stamps: Annotated[tuple[Count, ...], Meta(max_length=MAX_STAMPS)] = ()


class Event(Struct, frozen=True, array_like=True, tag=34):
    """One payload of the engine's own OpenAI answer: the JSON of an SSE chunk, or of the whole response.

    It covers the text up to position `upto`, whose tokens have all been in verdicts before. `usage`: the payload has a
    usage object; to that one, and to no other, the agent adds `usage.pipesd` and `timings`.
    """

    channel: Channel
    seq: Count
    upto: Position
    payload: bytes
    usage: bool = False


class End(Struct, frozen=True, array_like=True, tag=35):
    """The answer is complete. Last message of a session."""

    channel: Channel
    seq: Count


class Failed(Struct, frozen=True, array_like=True, tag=36):
    """The session is over without a complete answer. `status` and `body` are the OpenAI-shaped error for the client."""

    channel: Channel
    code: str
    status: Status
    body: bytes
    retry_after_s: Count = 0


class Desync(Struct, frozen=True, array_like=True, tag=37):
    """Drafts of `epoch` had a hole or contradicted earlier ones. The path is dead; the edge starts a new epoch from
    its committed ids. Costs speed, never tokens."""

    channel: Channel
    epoch: Count
    expected: Position
    message: str


class Rejected(Struct, frozen=True, array_like=True, tag=38):
    """A message that cannot be attributed to a session was refused. The connection is closed behind it."""

    code: str
    message: str


class Draining(Struct, frozen=True, array_like=True, tag=39):
    """The gateway is about to end; a message about the whole connection. Nothing new is opened; what runs goes on until
    its end, or until the connection is closed (1012) after `deadline_s` seconds at the latest."""

    deadline_s: Count


class Progress(Struct, frozen=True, array_like=True, tag=40):
    """The engine is at work, and the step that was ordered for the session is still to come: it reads a long prompt, or
    others are before it. Comes about once a second, to an edge whose `Open` asks for it; not kept for a resume."""

    channel: Channel


EdgeMessage = Open | Draft | Run | Ack | Close | Resume
SessionMessage = Opened | Verdict | Event | End | Failed | Desync | Progress
"""What a gateway sends for one session; `Failed` and `End` are last."""
GatewayMessage = SessionMessage | Rejected | Draining

_encoder = msgspec.msgpack.Encoder()
_edge_decoder: Decoder[EdgeMessage] = Decoder(EdgeMessage)
_gateway_decoder: Decoder[GatewayMessage] = Decoder(GatewayMessage)


def encode(message: EdgeMessage | GatewayMessage) -> bytes:
    """The binary frame of a message."""
    return _encoder.encode(message)


def decode_edge(frame: bytes) -> EdgeMessage:
    """A message that came from an edge. Raises `MalformedMessage`, and nothing else, whatever the bytes are."""
    if len(frame) > MAX_FRAME_BYTES:
        raise MalformedMessage(f"frame of {len(frame)} bytes; the limit is {MAX_FRAME_BYTES}")
    try:
        return _edge_decoder.decode(frame)
    except (msgspec.DecodeError, RecursionError, OverflowError, UnicodeDecodeError) as error:
        raise MalformedMessage(f"not a pipesd.v1 message from an edge: {error}") from error


def decode_gateway(frame: bytes) -> GatewayMessage:
    """A message that came from a gateway. Raises `MalformedMessage`, and nothing else, whatever the bytes are."""
    if len(frame) > MAX_FRAME_BYTES:
        raise MalformedMessage(f"frame of {len(frame)} bytes; the limit is {MAX_FRAME_BYTES}")
    try:
        return _gateway_decoder.decode(frame)
    except (msgspec.DecodeError, InvalidRequest, RecursionError, OverflowError, UnicodeDecodeError) as error:
        raise MalformedMessage(f"not a pipesd.v1 message from a gateway: {error}") from error
