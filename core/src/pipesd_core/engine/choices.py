"""Target-only answers with several choices: one generation for each choice, merged into one answer or one stream.

`n` choices of each of several prompts. Choice i of a prompt draws with seed + i, as vLLM does, so each is the answer
that a request of its own with that seed gets. `MAX_RUNNING_CHOICES` of them run at a time.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from pipesd_core.engine.autoregressive import TargetOnlyGeneration
from pipesd_core.engine.interface import Engine, Opening, Payload
from pipesd_core.errors import InvalidRequest, Overloaded
from pipesd_core.openai_body import NOT_JSON, choices_per_prompt, split_prompts, wants_stream
from pipesd_core.openai_values import same, whole
from pipesd_core.protocol.messages import Endpoint
from pipesd_core.sampling.params import LARGEST_SEED

MAX_CHOICES: Final = 128
"""Most choices of one request: n times the number of its prompts."""
MAX_RUNNING_CHOICES: Final = 4
"""Most choices of one request that are in the engine or in its admission queue at the same time."""
OPEN_TIMEOUT_S: Final = 100.0
"""Longest wait of a choice after the first for room in the engine's admission queue."""
_RETRY_S: Final = 0.5
_MAX_WAITING: Final = 16
"""Most payloads that wait for the client; after that the generations wait."""


class ChoiceRequest(Struct, frozen=True):
    """A request body for one choice. first: it is the first choice of its prompt, whose tokens are counted once.

    prompt: the place of its prompt in a list of several; None: there is one.
    """

    fields: dict[str, Raw]
    first: bool
    prompt: int | None = None

    def body(self) -> bytes:
        return msgspec.json.encode(self.fields)

    def located(self, error: InvalidRequest) -> InvalidRequest:
        """An error of this request as one of the whole one: it says which of several prompts it is about."""
        if self.prompt is None or error.param is None or not error.param.startswith("prompt"):
            return error
        where = f"prompt[{self.prompt}]"
        about = error.message.removeprefix("prompt")
        message = f"{where}{about}" if about != error.message else f"{where}: {about}"
        return type(error)(message, param=where + error.param.removeprefix("prompt"))


def split(endpoint: Endpoint, body: bytes) -> list[ChoiceRequest]:
    """One request for each choice of a body that has multiple choices, in order. Raises InvalidRequest."""
    try:
        fields = msgspec.json.decode(body, type=dict[str, Raw])
        asked = {name: msgspec.json.decode(fields.get(name, b"null")) for name in ("n", "best_of", "seed")}
    except NOT_JSON as error:  # a number out of range, a text that is no UTF-8: raw JSON is not looked at that closely
        raise InvalidRequest(f"the body is not JSON: {error}") from error
    n, seed = choices_per_prompt(asked["n"]), whole(asked["seed"])
    if n > 1:
        del fields["n"]
    prompts = split_prompts(fields["prompt"]) if endpoint is Endpoint.COMPLETIONS and "prompt" in fields else []
    if n * max(1, len(prompts)) > MAX_CHOICES:
        raise InvalidRequest(
            f"n = {n} of {max(1, len(prompts))} prompts; one request has {MAX_CHOICES} choices at most",
            param="n" if n > 1 else "prompt",
        )
    if same(asked["best_of"], n):
        del fields["best_of"]  # the best n of n: asks for nothing more
    if asked["seed"] is None:
        seed = secrets.randbits(62)
    elif seed is not None and seed <= LARGEST_SEED < seed + n - 1:
        raise InvalidRequest(
            f"the seed of the last of {n} choices, seed + {n - 1}, must be at most {LARGEST_SEED}, but seed is {seed}",
            param="seed",
        )
    requests = []
    for number, one in enumerate([{"prompt": prompt} for prompt in prompts] or [{}]):
        place = number if prompts else None
        for choice in range(n):
            seeds = {"seed": Raw(msgspec.json.encode(seed + choice))} if seed is not None else {}
            requests.append(ChoiceRequest(fields | one | seeds, choice == 0, place))
    return requests


class MultiChoiceGeneration:
    """One request with several choices. As for `TargetOnlyGeneration`, its creator calls `abort` in the end.

    Args:
        on_queued: of the first choice, as there.
    """

    def __init__(self, engine: Engine, on_queued: Callable[[Opening], None] = lambda _: None) -> None:
        self._engine = engine
        self._on_queued = on_queued
        self._answers: set[TargetOnlyGeneration] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._waiting: asyncio.Queue[tuple[int, Payload]] = asyncio.Queue(_MAX_WAITING)
        self._changed = asyncio.Event()
        self._opening = asyncio.Lock()
        self._merged = _MergedAnswer([])
        self._streams = False
        self._finished = False

    async def open(self, endpoint: Endpoint, body: bytes) -> Opening:
        """Open the first choice, so that its refusal comes before the answer. Raises ApiError.

        An error of another choice is raised by `next`.
        """
        requests = split(endpoint, body)
        self._merged = _MergedAnswer(requests)
        first = TargetOnlyGeneration(self._engine, self._on_queued)
        self._answers.add(first)
        try:
            opening = await first.open(endpoint, requests[0].body())
        except InvalidRequest as error:
            raise requests[0].located(error) from None
        self._streams = wants_stream(body)
        left = iter(range(1, len(requests)))
        for number in range(min(MAX_RUNNING_CHOICES, len(requests))):
            begun = (0, first) if number == 0 else None
            task = asyncio.create_task(self._work(endpoint, requests, left, begun))
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
        """Abort all choices. Harmless at any time, and when repeated."""
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
        self,
        endpoint: Endpoint,
        requests: list[ChoiceRequest],
        left: Iterator[int],
        begun: tuple[int, TargetOnlyGeneration] | None,
    ) -> None:
        """Generate choice after choice, as long as there are any left."""
        if begun is not None:
            await self._generate(*begun)
        for index in left:
            answer = await self._open(endpoint, requests[index])
            await self._generate(index, answer)

    async def _open(self, endpoint: Endpoint, request: ChoiceRequest) -> TargetOnlyGeneration:
        answer = TargetOnlyGeneration(self._engine)
        self._answers.add(answer)
        async with self._opening:  # one choice at a time waits in the engine's bounded queue
            deadline = asyncio.get_running_loop().time() + OPEN_TIMEOUT_S
            while True:
                try:
                    await answer.open(endpoint, request.body())
                    return answer
                except InvalidRequest as error:
                    raise request.located(error) from None
                except Overloaded:  # the answer may have begun, so wait rather than break off
                    if asyncio.get_running_loop().time() >= deadline:
                        raise
                await asyncio.sleep(_RETRY_S)

    async def _generate(self, index: int, answer: TargetOnlyGeneration) -> None:
        try:
            while (payload := await answer.next()) is not None:
                await self._waiting.put((index, payload))
                self._changed.set()
        finally:
            answer.abort()
            self._answers.discard(answer)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # retrieved, so that asyncio does not warn; `_next` raises it
        self._changed.set()


class _MergedAnswer:
    """The JSON of all choices under one id, with their indices and the sum of their usage."""

    def __init__(self, requests: list[ChoiceRequest]) -> None:
        self._first = [request.first for request in requests]
        self._head: dict[str, Any] = {}
        self._choices: dict[int, Any] = {}
        self._usage: dict[str, Any] | None = None

    def take(self, index: int, payload: Payload, *, streams: bool) -> Payload | None:
        """The part of a choice's payload that the client gets now; None: nothing yet."""
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
        """The payload after all choices: the usage of a stream, if it is wanted; else the whole answer."""
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
