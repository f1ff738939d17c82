"""Plain autoregressive decoding: a generation driven to its end without drafts. The reference for everything else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from pipesd_core.engine.interface import (
    Broken,
    Deliver,
    EngineOutput,
    Finished,
    Generation,
    Opening,
    Payload,
    Queued,
    StepDone,
    Working,
)
from pipesd_core.errors import EngineFailed
from pipesd_core.protocol.messages import Endpoint

STEP_TIMEOUT_S: Final = 120.0
"""Longest wait for one forward pass of the engine while a step is awaited; a prompt takes as many as it is long."""
_MAX_OUTPUTS: Final = 64
"""Most outputs of one step; a step has three or four."""


class Opener(Protocol):
    """The part of an `Engine` that this module needs."""

    async def open(self, endpoint: Endpoint, body: bytes, deliver: Deliver) -> Generation: ...


class TargetOnlyGeneration:
    """One request without speculation. Its creator calls `abort` in the end, whatever happened.

    A call of `next` asks for a step only when nothing is left to return, so a client
    that does not read stops the generation.

    Args:
        on_queued: called with the opening when the request is checked and waits for a slot, if the engine says so.
    """

    def __init__(self, engine: Opener, on_queued: Callable[[Opening], None] = lambda _: None) -> None:
        self._engine = engine
        self._on_queued = on_queued
        self._outputs: asyncio.Queue[EngineOutput] = asyncio.Queue(_MAX_OUTPUTS)
        self._generation: Generation | None = None
        self._stepping = False
        self._finished = False
        self._patience: asyncio.Timeout | None = None
        """That of whoever waits for an output now."""

    async def open(self, endpoint: Endpoint, body: bytes) -> Opening:
        """Open the request; see `Engine.open`. Raises ApiError."""
        self._generation = await self._engine.open(endpoint, body, self._take)
        return self._generation.opening

    async def next(self) -> Payload | None:
        """The next payload of the answer; None after the last. Raises ApiError when the generation breaks."""
        if self._generation is None:
            raise RuntimeError("next() before open()")
        while not self._finished:
            if not self._stepping and self._outputs.empty():
                self._generation.step(())
                self._stepping = True
            match await self._output():
                case StepDone():
                    self._stepping = False
                case Payload() as payload:
                    return payload
                case Finished():
                    self._finished = True
                case Broken(error=error):
                    self._finished = True
                    raise error
        return None

    def abort(self) -> None:
        """Abort the request. Harmless at any time, and when repeated."""
        self._finished = True
        if self._generation is not None:
            self._generation.abort()

    def _take(self, output: EngineOutput) -> None:
        match output:
            case Queued(opening=opening):
                self._on_queued(opening)
            case Working():
                if self._patience is not None and not self._patience.expired():
                    self._patience.reschedule(asyncio.get_running_loop().time() + STEP_TIMEOUT_S)
            case _:
                self._outputs.put_nowait(output)

    async def _output(self) -> EngineOutput:
        try:
            async with asyncio.timeout(STEP_TIMEOUT_S) as self._patience:
                return await self._outputs.get()
        except TimeoutError:
            raise EngineFailed(f"the engine did not finish a forward pass within {STEP_TIMEOUT_S:.0f} s") from None
        finally:
            self._patience = None
