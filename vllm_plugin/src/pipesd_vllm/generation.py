"""One session inside the vLLM engine: `pipesd_gateway.engine.Generation` over vLLM's own serving code.

A task runs the serving code, which asks its engine client to `generate`; that is `_generate` here. It passes on what
vLLM says of a round only when the round is over and its StepDone is delivered, then waits for the next `step`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec

from pipesd_gateway.engine import Broken, Deliver, Finished, Opening, Payload, StepDone
from pipesd_gateway.exceptions import ApiError, EngineFailed, InvalidRequest
from pipesd_gateway.protocol import Endpoint
from pipesd_vllm import keys
from pipesd_vllm.batcher import Batcher
from pipesd_vllm.compat.serving import Serving, as_api_error, new_tokens
from pipesd_vllm.metrics import Metrics
from pipesd_vllm.rounds import Round

log = logging.getLogger(__name__)


class VllmGeneration:
    """One OpenAI request. Whoever made it calls `abort` in the end, or takes Finished or Broken.

    Args:
        over: called with this object once vLLM has let go of the request.
    """

    def __init__(
        self,
        serving: Serving,
        batcher: Batcher,
        metrics: Metrics,
        deliver: Deliver,
        over: Callable[[VllmGeneration], None],
    ) -> None:
        self._serving = serving
        self._batcher = batcher
        self._metrics = metrics
        self._deliver = deliver
        self._over = over
        self._key = keys.new_key()
        self._opened: asyncio.Future[Opening] = asyncio.get_running_loop().create_future()
        self._ordered: asyncio.Future[tuple[int, ...]] | None = None
        self._task: asyncio.Task[None] | None = None
        self._shown = 0
        self._accepted = False
        """`open` has returned; until then nothing may be delivered."""
        self._failure: ApiError | None = None
        self._silent = False

    # `Generation`.

    @property
    def opening(self) -> Opening:
        return self._opened.result()

    def step(self, drafts: Sequence[int]) -> None:
        if self._silent:
            return
        if self._ordered is None or self._ordered.done():
            raise RuntimeError("step() while a step is under way")
        self._ordered.set_result(tuple(drafts))

    def abort(self) -> None:
        self._silent = True
        if self._task is not None:
            self._task.cancel()

    # For the engine.

    async def open(self, endpoint: Endpoint, body: bytes) -> None:
        """Have vLLM accept the request. Raises ApiError."""
        self._task = asyncio.create_task(self._run(endpoint, body))
        self._task.add_done_callback(self._ended)
        try:
            await asyncio.wait((self._task, self._opened), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self.abort()
            raise
        if self._failure is None and not self._opened.done():
            self._failure = EngineFailed("vLLM ended the request before it began")
        if self._failure is not None:
            self.abort()
            raise self._failure
        self._accepted = True

    def fail(self, error: ApiError) -> None:
        """The server ends: the session is told, and over."""
        self._broke(error)
        self.abort()

    # Inside.

    async def _run(self, endpoint: Endpoint, body: bytes) -> None:
        try:
            async for data in self._serving.answer(endpoint, body, self._generate):
                if not self._silent:
                    self._deliver(Payload(data, self._shown, _has_usage(data)))
        except Exception as error:
            self._broke(as_api_error(error))
            return
        if not self._silent and self._accepted:
            self._silent = True
            self._deliver(Finished())

    def _broke(self, error: ApiError) -> None:
        if not self._accepted:
            self._failure = error
        elif not self._silent:
            self._silent = True
            log.error("a session broke: %s", error)
            self._deliver(Broken(error))

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._over(self)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a session failed", exc_info=error)

    def _generate(self, engine_input: Any, params: Any, request_id: str, **kwargs: Any) -> AsyncIterator[Any]:
        """What vLLM's serving code gets instead of its engine client's `generate`."""
        if self._opened.done():
            raise InvalidRequest("several prompts in one request cannot be drafted for: ask the server itself")
        opening = self._serving.opening(engine_input, params, self._key)
        self._ordered = asyncio.get_running_loop().create_future()
        self._opened.set_result(opening)
        return self._rounds(engine_input, params, request_id, kwargs)

    async def _rounds(self, engine_input: Any, params: Any, request_id: str, kwargs: Any) -> AsyncIterator[Any]:
        drafts = await self._next_order()  # the first step is the prompt's: vLLM verifies no drafts in it
        began = time.perf_counter()
        outputs = self._serving.engine_client.generate(engine_input, params, request_id, **kwargs)
        try:
            round_ = Round()
            decided = 0
            while True:
                held: list[Any] = []
                tokens: list[int] = []
                while not round_.over:
                    output = await anext(outputs)
                    new = new_tokens(output, params, decided)
                    decided += len(new)
                    tokens += new
                    round_.take(new)
                    held.append(output)
                    if output.finished:
                        break
                ends = held[-1].finished
                if tokens:
                    self._step_done(round_, tuple(tokens), began, ends)
                for output in held:
                    yield output
                if ends:
                    return
                drafts = await self._next_order()
                began = time.perf_counter()
                word = await self._batcher.submit(self._key, drafts)
                if word != "ok":
                    raise EngineFailed(f"the engine refused a step: {word}")
                round_ = Round(drafts)
        finally:
            await outputs.aclose()

    def _step_done(self, round_: Round, tokens: tuple[int, ...], began: float, ends: bool) -> None:
        self._shown += len(tokens)
        verified = len(round_.drafts)
        self._metrics.step(verified, round_.accepted, len(tokens))
        forward_us = int(1e6 * (time.perf_counter() - began))
        self._ordered = asyncio.get_running_loop().create_future()  # delivering may order the next step at once
        if not self._silent:
            self._deliver(StepDone(tokens, verified, round_.accepted, 0, forward_us, ends))

    async def _next_order(self) -> tuple[int, ...]:
        # No timeout here: the session's own park timeout orders a step.
        assert self._ordered is not None
        return await self._ordered


def _has_usage(data: bytes) -> bool:
    if b'"usage"' not in data:
        return False
    said = msgspec.json.decode(data)
    return isinstance(said, dict) and isinstance(said.get("usage"), dict)
