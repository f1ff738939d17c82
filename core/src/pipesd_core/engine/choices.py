"""Answers with several choices, target-only: one generation per choice, merged into one answer or one stream.

`n` choices of each of several prompts. Choice i of a prompt draws with seed + i, as vLLM does, so each is the answer
that a request of its own with that seed gets. They run side by side, a few at a time; the others wait for those.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from pipesd_core.engine.autoregressive import Alone
from pipesd_core.engine.interface import Engine, Opening, Payload
from pipesd_core.errors import InvalidRequest, Overloaded
from pipesd_core.openai_body import choices_per_prompt, split_prompts, wants_stream
from pipesd_core.protocol.messages import Endpoint

MAX_CHOICES: Final = 128
"""Of one request: n times its prompts."""
AT_ONCE: Final = 4
"""Choices of one request that hold a place of the engine, or wait for one, at the same time."""
OPEN_TIMEOUT_S: Final = 100.0
"""Longest that a choice after the first waits for room in the engine's queue."""
_RETRY_S: Final = 0.5
_MAX_WAITING: Final = 16
"""Payloads that may wait for the client; after that the generations wait."""


class Part(Struct, frozen=True):
    """A choice as a request of its own. first: of its prompt, whose tokens are counted once."""

    fields: dict[str, Raw]
    first: bool

    def body(self) -> bytes:
        return msgspec.json.encode(self.fields)


def split(endpoint: Endpoint, body: bytes) -> list[Part]:
    """The choices of a body that has multiple choices, in order of their index. Raises InvalidRequest."""
    fields = msgspec.json.decode(body, type=dict[str, Raw])
    n = choices_per_prompt(msgspec.json.decode(fields.get("n", b"null")))
    if n > 1:
        del fields["n"]
    prompts = split_prompts(fields["prompt"]) if endpoint is Endpoint.COMPLETIONS and "prompt" in fields else []
    if n * max(1, len(prompts)) > MAX_CHOICES:
        raise InvalidRequest(
            f"n = {n} of {max(1, len(prompts))} prompts; one request has {MAX_CHOICES} choices at most",
            param="n" if n > 1 else "prompt",
        )
    if "best_of" in fields and msgspec.json.decode(fields["best_of"]) == n:
        del fields["best_of"]  # the best n of n
    seed = msgspec.json.decode(fields.get("seed", b"null"))
    if seed is None:
        seed = secrets.randbits(62)
    parts = []
    for one in [{"prompt": prompt} for prompt in prompts] or [{}]:
        for choice in range(n):
            seeds = {"seed": Raw(msgspec.json.encode(seed + choice))} if type(seed) is int else {}
            parts.append(Part(fields | one | seeds, first=choice == 0))
    return parts


class Several:
    """One request with several choices. Like `Alone`: whoever makes one calls `abort` in the end, whatever happened."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._answers: set[Alone] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._waiting: asyncio.Queue[tuple[int, Payload]] = asyncio.Queue(_MAX_WAITING)
        self._changed = asyncio.Event()
        self._opening = asyncio.Lock()
        self._merged = _Merged([])
        self._streams = False
        self._finished = False

    async def open(self, endpoint: Endpoint, body: bytes) -> Opening:
        """Opens the first choice, so that its refusal comes before the answer. Raises ApiError.

        What is wrong with another prompt only is told by `next`.
        """
        parts = split(endpoint, body)
        self._merged = _Merged(parts)
        first = Alone(self._engine)
        self._answers.add(first)
        opening = await first.open(endpoint, parts[0].body())
        self._streams = wants_stream(body)
        left = iter(range(1, len(parts)))
        for number in range(min(AT_ONCE, len(parts))):
            begun = (0, first) if number == 0 else None
            task = asyncio.create_task(self._work(endpoint, parts, left, begun))
            task.add_done_callback(self._on_done)
            self._tasks.append(task)
        return opening

    async def next(self) -> Payload | None:
        """The next payload of the merged answer; None after the last. Raises ApiError when a choice breaks."""
        while not self._finished:
            received = await self._next()
            if received is None:
                self._finished = True
                return self._merged.last()
            payload = self._merged.take(*received, streams=self._streams)
            if payload is not None:
                return payload
        return None

    def abort(self) -> None:
        """Let go of all choices. Harmless at any time, and when repeated."""
        self._finished = True
        for answer in self._answers:
            answer.abort()
        for task in self._tasks:
            task.cancel()

    async def _next(self) -> tuple[int, Payload] | None:
        """The next payload of any choice; None after the last. Waits as long as a generation's step may take."""
        while self._waiting.empty():
            for task in self._tasks:
                if task.done():
                    task.result()
            if all(task.done() for task in self._tasks):
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._waiting.get_nowait()

    async def _work(
        self, endpoint: Endpoint, parts: list[Part], left: Iterator[int], begun: tuple[int, Alone] | None
    ) -> None:
        """Choice after choice, as long as there are any left."""
        if begun is not None:
            await self._generate(*begun)
        for index in left:
            answer = await self._open(endpoint, parts[index].body())
            await self._generate(index, answer)

    async def _open(self, endpoint: Endpoint, body: bytes) -> Alone:
        answer = Alone(self._engine)
        self._answers.add(answer)
        async with self._opening:  # a request waits in one place of the engine's bounded queue, not in several
            deadline = asyncio.get_running_loop().time() + OPEN_TIMEOUT_S
            while True:
                try:
                    await answer.open(endpoint, body)
                    return answer
                except Overloaded:  # the answer may have begun: it waits, rather than breaking off
                    if asyncio.get_running_loop().time() >= deadline:
                        raise
                await asyncio.sleep(_RETRY_S)

    async def _generate(self, index: int, answer: Alone) -> None:
        try:
            while (payload := await answer.next()) is not None:
                await self._waiting.put((index, payload))
                self._changed.set()
        finally:
            answer.abort()
            self._answers.discard(answer)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # seen; `_next` raises it
        self._changed.set()


class _Merged:
    """The JSON of all choices under one id, with their indices and the sum of their usage."""

    def __init__(self, parts: list[Part]) -> None:
        self._first = [part.first for part in parts]
        self._head: dict[str, Any] = {}
        self._choices: dict[int, Any] = {}
        self._usage: dict[str, Any] | None = None

    def take(self, index: int, payload: Payload, *, streams: bool) -> Payload | None:
        """What the client gets of a choice's payload now."""
        body = msgspec.json.decode(payload.data)
        self._head = self._head or {name: body[name] for name in body if name not in {"choices", "usage"}}
        if body.get("usage") is not None:
            self._add(body["usage"], count_prompt=self._first[index])
        choices = [choice | {"index": index} for choice in body["choices"]]
        if not streams:
            self._choices[index] = choices[0]
            return None
        if not choices:
            return None
        return msgspec.structs.replace(payload, data=msgspec.json.encode(body | self._head | {"choices": choices}))

    def last(self) -> Payload | None:
        """What comes after all choices: of a stream the usage, if that is wanted; else the whole answer."""
        if self._usage is None:
            return None
        choices = [self._choices[index] for index in sorted(self._choices)]
        data = msgspec.json.encode(self._head | {"choices": choices, "usage": self._usage})
        return Payload(data, upto=self._usage["completion_tokens"], usage=True)

    def _add(self, usage: dict[str, Any], *, count_prompt: bool) -> None:
        if self._usage is None:
            self._usage = {name: _zero(value) for name, value in usage.items()}
        for name, value in usage.items():
            if isinstance(value, dict):
                self._usage[name] = {key: self._usage[name][key] + value[key] for key in value}
            elif name == "completion_tokens" or (name == "prompt_tokens" and count_prompt):
                self._usage[name] += value
        self._usage["total_tokens"] = self._usage["prompt_tokens"] + self._usage["completion_tokens"]


def _zero(value: Any) -> Any:
    return dict.fromkeys(value, 0) if isinstance(value, dict) else 0
