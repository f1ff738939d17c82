"""One session inside the vLLM engine: `pipesd_core.engine.interface.Generation` over vLLM's own serving code.

A task runs the serving code, which asks its engine client to `generate`; that is `_generate` here. It passes on what
vLLM says of a round only when the round is over and its StepDone is delivered, then waits for the next `step`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

import msgspec

from pipesd_core.answer_format import usage_in
from pipesd_core.engine.interface import Broken, Deliver, Finished, Opening, Payload, StepDone, Working
from pipesd_core.engine.rounds import Decided, Round, fault
from pipesd_core.errors import ApiError, EngineFailed, InvalidRequest
from pipesd_core.protocol.messages import Endpoint
from pipesd_vllm import park_keys
from pipesd_vllm.compat.ending import EngineGone
from pipesd_vllm.compat.serving import Serving, as_api_error, go_ahead, new_tokens
from pipesd_vllm.rpc_coalescer import RpcCoalescer
from pipesd_vllm.step_times import StepTimes

log = logging.getLogger(__name__)

WORKING_S: Final = 600.0
"""Longest time without an output of a request for which its edge is told that the engine is at work: the engine core
may answer, and yet have lost the request."""


class VllmGeneration:
    """One OpenAI request. Whoever made it calls `abort` in the end, or takes Finished or Broken.

    Args:
        over: called with this object once vLLM has let go of the request.
        engine_gone: called where the engine turns out to have stopped; it calls `abort` or `fail`.
    """

    def __init__(
        self,
        serving: Serving,
        coalescer: RpcCoalescer,
        times: StepTimes,
        deliver: Deliver,
        over: Callable[[VllmGeneration], None],
        engine_gone: Callable[[], None],
    ) -> None:
        self._serving = serving
        self._coalescer = coalescer
        self._times = times
        self._deliver = deliver
        self._over = over
        self._engine_gone = engine_gone
        self._key = park_keys.new_key()
        self._opened: asyncio.Future[Opening] = asyncio.get_running_loop().create_future()
        self._ordered: asyncio.Future[tuple[tuple[int, ...], int]] | None = None
        self._task: asyncio.Task[None] | None = None
        self._shown = 0
        self._stepping = False
        self._last_output_at = 0.0
        """Time (monotonic) of the last output, or of the order that it is to come by."""
        self._accepted = False
        """`open` has returned; until then nothing may be delivered."""
        self._failure: ApiError | None = None
        self._silent = False

    # The `Generation` interface.

    @property
    def opening(self) -> Opening:
        return self._opened.result()

    def step(self, drafts: Sequence[int], ahead: int = 0) -> None:
        if self._silent:
            raise RuntimeError("step() of a generation that is over")
        if self._ordered is None or self._ordered.done():
            raise RuntimeError("step() while a step is under way")
        drafts = tuple(drafts)
        info = self._serving.info
        if (wrong := fault(drafts, info.max_drafts, info.n_vocab)) is not None:
            raise ValueError(wrong)
        self._ordered.set_result((drafts, ahead))
        self._stepping = True
        self._last_output_at = time.monotonic()

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
        """End the session with an error."""
        self._broke(error)
        self.abort()

    def working(self) -> None:
        """Tell whoever waits for a step that the engine is at work, but not after `WORKING_S` without an output."""
        if self._stepping and not self._silent and time.monotonic() - self._last_output_at < WORKING_S:
            self._deliver(Working())

    # Private.

    async def _run(self, endpoint: Endpoint, body: bytes) -> None:
        early: list[bytes] = []  # of an answer that has not begun: Responses do not wait for the first token
        try:
            async for data in self._serving.answer(endpoint, body, self._generate):
                if not self._shown:
                    early.append(data)
                    continue
                told, early = [*early, data], []
                self._tell(told)
            self._tell(early)
        except Exception as error:
            failure = as_api_error(error)
            if isinstance(failure, EngineGone):
                self._engine_gone()
            self._broke(failure)
            return
        if not self._silent and self._accepted:
            self._silent = True
            self._deliver(Finished())

    def _tell(self, payloads: list[bytes]) -> None:
        for data in payloads:
            if not self._silent:
                self._deliver(Payload(data, self._shown, _has_usage(data)))

    def _broke(self, error: ApiError) -> None:
        if not self._accepted:
            self._failure = error
        elif not self._silent:
            self._silent = True
            log.error("session ended with an error: %s", error)
            self._deliver(Broken(error))

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._over(self)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("session failed", exc_info=error)

    def _generate(self, engine_input: Any, params: Any, request_id: str, **kwargs: Any) -> AsyncIterator[Any]:
        """The `generate` that vLLM's serving code calls instead of its engine client's."""
        if self._opened.done():
            raise InvalidRequest("several prompts in one request cannot be drafted for: ask the server itself")
        opening = self._serving.opening(engine_input, params, self._key)
        self._ordered = asyncio.get_running_loop().create_future()
        self._opened.set_result(opening)
        return self._rounds(engine_input, params, request_id, kwargs)

    async def _rounds(self, engine_input: Any, params: Any, request_id: str, kwargs: Any) -> AsyncIterator[Any]:
        _, ahead = await self._next_order()  # the first step is the prompt's: vLLM verifies no drafts in it
        go_ahead(params, ahead)
        outputs = self._serving.generate(engine_input, params, request_id, **kwargs)
        self._times.watch(self._key)
        try:
            round_ = Round((), ahead)
            decided = 0
            while True:
                while True:
                    held: list[Any] = []
                    steps: list[Decided] = []
                    while not steps:
                        output = await anext(outputs)
                        self._last_output_at = time.monotonic()
                        new = new_tokens(output, params, decided)
                        decided += len(new)
                        steps = round_.take(new)
                        held.append(output)
                        if output.finished:
                            steps += round_.cut()
                            break
                    queue_us, forward_us = self._times.take(self._key)
                    ends = held[-1].finished
                    if round_.over or ends:
                        self._stepping = False
                    if round_.over and not ends:
                        # Delivering may order the next round at once.
                        self._ordered = asyncio.get_running_loop().create_future()
                    for step in steps:
                        self._step_done(step, queue_us, forward_us, ends and step is steps[-1])
                    for output in held:
                        yield output
                    if ends:
                        return
                    if round_.over:
                        break
                drafts, ahead = await self._next_order()
                result = await self._coalescer.submit(self._key, drafts, ahead)
                if result != "ok":
                    raise EngineFailed(f"the engine refused a step: {result}")
                round_ = Round(drafts, ahead)
        except EngineGone:
            # Now: vLLM's serving code makes an event of the error, as of any.
            self._engine_gone()
            raise
        finally:
            self._times.forget(self._key)
            await outputs.aclose()

    def _step_done(self, step: Decided, queue_us: int, forward_us: int, ends: bool) -> None:
        self._shown += len(step.tokens)
        if not self._silent:
            self._deliver(StepDone(step.tokens, step.verified, step.accepted, queue_us, forward_us, ends))

    async def _next_order(self) -> tuple[tuple[int, ...], int]:
        # No timeout here: the session's own park timeout orders a step.
        assert self._ordered is not None
        return await self._ordered


def _has_usage(data: bytes) -> bool:
    if b'"usage"' not in data:
        return False
    payload = msgspec.json.decode(data)
    return isinstance(payload, dict) and usage_in(payload) is not None
