"""What asks the servers of bench/vllm: ordinary streams, and edges with scripted drafts.

Both are as thin as they can be, because they share the machine with what they measure.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np
from websockets.asyncio.client import ClientConnection, connect

from bench.vllm.numbers import corrupt
from bench.vllm.servers import KEY, MODEL
from pipesd_core.protocol.messages import (
    SUBPROTOCOL,
    VERSION,
    Ack,
    Close,
    Draft,
    End,
    Endpoint,
    Event,
    Open,
    Opened,
    Reason,
    Verdict,
    decode_gateway,
    encode,
)

TIMEOUT_S: Final = 120.0
OPENING_DRAFTS: Final = 15
N_VOCAB: Final = 4096
HEADERS: Final = f"Authorization: Bearer {KEY}\r\nContent-Type: application/json\r\nConnection: close\r\n"


def request(prompt: str, tokens: int) -> dict[str, Any]:
    """The body that every client here sends."""
    return {
        "model": MODEL,
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "return_token_ids": True,
    }


@dataclass
class Answer:
    """What a stream has given so far. arrivals: (clock, tokens) of each piece."""

    prompt_ids: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    first: asyncio.Event = field(default_factory=asyncio.Event)


async def stream(port: int, body: dict[str, Any], answer: Answer) -> None:
    """One streamed completion over a bare socket. Raises RuntimeError for anything but 200."""
    content = msgspec.json.encode(body)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
    try:
        lines = f"Host: 127.0.0.1:{port}\r\n{HEADERS}Content-Length: {len(content)}\r\n"
        head = f"POST /v1/completions HTTP/1.1\r\n{lines}\r\n"
        writer.write(head.encode() + content)
        status = await reader.readline()
        if b" 200 " not in status:
            raise RuntimeError((status + await reader.read(2000)).decode())
        async for line in reader:
            if not line.startswith(b"data: "):
                continue
            if line.startswith(b"data: [DONE]"):
                return
            now = time.monotonic()
            for choice in msgspec.json.decode(line[6:])["choices"]:
                if ids := choice.get("token_ids"):
                    answer.ids += ids
                    answer.arrivals.append((now, len(ids)))
                    answer.first.set()
                answer.prompt_ids = choice.get("prompt_token_ids") or answer.prompt_ids
    finally:
        writer.close()


@dataclass(frozen=True)
class Round:
    """One NAV. sent, came: clock; tokens: what the target decided; queue, forward: as the verdict says, in seconds."""

    sent: float
    came: float
    verified: int
    accepted: int
    tokens: int
    queue: float
    forward: float


class Session:
    """A session of an edge that knows the answer. Drafts it, with mistakes at a given rate."""

    def __init__(self, link: Link, channel: int, truth: Sequence[int], seed: int) -> None:
        self.rounds: list[Round] = []
        self._link = link
        self._channel = channel
        self._truth = truth
        self._rng = np.random.default_rng(seed)
        self._committed = 0
        self._wish = 0
        self._sent = 0.0
        self._seq = 0
        self._epoch = 1
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._verdict: asyncio.Future[None] | None = None

    async def open(self, body: dict[str, Any]) -> None:
        """Open it and wait until it is parked."""
        open_ = Open(self._channel, VERSION, Endpoint.COMPLETIONS, msgspec.json.encode(body), b"")
        await self._link.send(open_)
        await self._link.wait_for(self._opened)
        # Right drafts, as many as a step takes: unless the free run under way is past them, their verdict is the last.
        # A client that the machine starves may even find the whole answer there; its block is then run again.
        while not self.rounds and self.left():
            await self.round(OPENING_DRAFTS, 0.0)

    def left(self) -> int:
        """Tokens of the truth that are not committed yet."""
        return len(self._truth) - self._committed

    async def round(self, drafts: int, rate: float) -> None:
        """Send drafts and the wish to verify them all, with what is to be acknowledged; wait for the verdict."""
        self._epoch += 1
        start = self._committed
        ids = corrupt(self._truth[start : start + drafts], rate, N_VOCAB, self._rng)
        self._wish = start + len(ids) - 1
        draft = Draft.wishing(self._channel, self._epoch, start, ids, self._wish)
        self._verdict = asyncio.get_running_loop().create_future()
        ack = Ack(self._channel, self._seq)
        self._sent = time.monotonic()
        await self._link.send(draft)
        await self._link.send(ack)
        await self._link.wait_for(self._verdict)

    def receive(self, message: Any, now: float) -> None:
        """A message of the server. Raises RuntimeError for one that no session here should get."""
        match message:
            case Opened():
                if list(message.prompt_ids) != list(self._truth[: len(message.prompt_ids)]):
                    raise RuntimeError("the session's prompt is not the ordinary request's")
                self._committed = len(message.prompt_ids)
                self._opened.set_result(None)
            case Verdict():
                self._seq = message.seq
                end = message.start + len(message.tokens)
                if tuple(self._truth[message.start : end]) != message.tokens:
                    raise RuntimeError("the session's text is not the ordinary request's")
                self._committed = end
                waiting = self._verdict is not None and not self._verdict.done()
                if waiting and (message.reason is Reason.VERIFICATION or end > self._wish):
                    self._round_over(message, now)
            case Event():
                self._seq = message.seq
            case End():
                pass
            case _:
                raise RuntimeError(f"the server says {message}")

    def _round_over(self, verdict: Verdict, now: float) -> None:
        assert self._verdict is not None
        self._verdict.set_result(None)
        if verdict.reason is Reason.VERIFICATION:
            queue, forward = 1e-6 * verdict.queue_us, 1e-6 * verdict.forward_us
            counts = verdict.verified, verdict.accepted, len(verdict.tokens)
            self.rounds.append(Round(self._sent, now, *counts, queue, forward))

    async def close(self) -> None:
        await self._link.send(Close(self._channel))


class Link:
    """One edge's connection. `async with`; its sessions are made by `session`."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._sessions: list[Session] = []
        self._socket: ClientConnection | None = None
        self.reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Link:
        self._socket = await connect(
            f"ws://127.0.0.1:{self._port}/v1/pipesd/ws",
            subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]
            additional_headers={"Authorization": f"Bearer {KEY}"},
            compression=None,
        )
        self.reader = asyncio.create_task(self._read(self._socket))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._socket is not None
        assert self.reader is not None
        await self._socket.close()
        await asyncio.wait((self.reader,), timeout=TIMEOUT_S)

    async def send(self, message: Any) -> None:
        assert self._socket is not None
        await self._socket.send(encode(message))

    async def wait_for(self, answer: asyncio.Future[None]) -> None:
        """Raises what the reader died of, or RuntimeError when nothing comes."""
        assert self.reader is not None
        await asyncio.wait((answer, self.reader), timeout=TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        if self.reader.done():
            self.reader.result()
        if not answer.done():
            raise RuntimeError(f"no answer of the server within {TIMEOUT_S:g} s, or it has closed the connection")

    def session(self, truth: Sequence[int], seed: int) -> Session:
        """truth: prompt and output ids."""
        self._sessions.append(Session(self, len(self._sessions), truth, seed))
        return self._sessions[-1]

    async def _read(self, socket: ClientConnection) -> None:
        async for frame in socket:
            assert isinstance(frame, bytes)
            message = decode_gateway(frame)
            self._sessions[message.channel].receive(message, time.monotonic())  # type: ignore[union-attr]
