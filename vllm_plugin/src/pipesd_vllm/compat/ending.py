"""The end of vLLM's engine: the plugin hears of it first, and clients get an error that names it and can be acted on.

Three methods of the engine client are replaced, which vLLM's API server looks up each time: `shutdown`, with which it
answers SIGTERM (vLLM tells nobody before); `generate`, whose EngineDeadError would else reach clients of streams as a
500 that speaks of a stack trace; and `check_health`, so that load balancers see a server that stops.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from fastapi import FastAPI, Request
from vllm.entrypoints.launchers.launcher import terminate_if_errored
from vllm.exceptions import RetryableRequestError
from vllm.v1.engine.exceptions import EngineDeadError

from pipesd_core.errors import Unavailable
from pipesd_core.service.http import json_response

log = logging.getLogger(__name__)

DRAIN_MARGIN_S: Final = 10.0
"""How much longer than it was given a drain may take before vLLM's engine stops all the same."""


class EngineGone(Unavailable):
    """vLLM's engine has stopped, or is about to: it takes no more steps, of any request."""

    def __init__(self) -> None:
        super().__init__("vLLM's engine has stopped; try again: another server may answer, or this one once it is back")


class EngineStopped(RetryableRequestError):
    """`EngineGone` for vLLM's own serving code, which makes a 503 of it, or an error event with that code."""

    def __init__(self) -> None:
        super().__init__(str(EngineGone()))


class Ending:
    """The end of one engine client.

    Args:
        drain: called and awaited before the engine is stopped, with the seconds of vLLM's `--shutdown-timeout`.
    """

    def __init__(self, engine_client: Any, drain: Callable[[float], Awaitable[None]]) -> None:
        self._client = engine_client
        self._drain = drain
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._stopping = threading.Event()
        self._shutdown_of_vllm = engine_client.shutdown
        self._generate_of_vllm = engine_client.generate
        self._check_health_of_vllm = engine_client.check_health
        engine_client.shutdown = self._shutdown
        engine_client.generate = self._generate
        engine_client.check_health = self._check_health

    def _shutdown(self, timeout: float | None = None) -> None:
        """Drain, then shut down as vLLM does. vLLM calls this on a thread, and once more on the loop's at the end."""
        if not self._stopping.is_set() and threading.get_ident() != self._loop_thread:
            self._stopping.set()
            began = time.monotonic()
            try:
                draining = asyncio.run_coroutine_threadsafe(_awaited(self._drain(timeout or 0.0)), self._loop)
                draining.result((timeout or 0.0) + DRAIN_MARGIN_S)
            except Exception:  # TimeoutError included; the server ends whatever became of it
                log.exception("the drain failed; agents may not have been told of the end of this server")
            if timeout:
                timeout = max(0.0, timeout - (time.monotonic() - began))
        self._stopping.set()
        self._shutdown_of_vllm(timeout=timeout)
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._tell_what_waits)

    def _tell_what_waits(self) -> None:
        # vLLM cancels the task that would tell requests of the engine's end, and then waits for them for ever.
        self._client.output_processor.propagate_error(EngineDeadError())

    async def _generate(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """For requests of vLLM's own API. Raises EngineStopped, also where vLLM would end an answer as aborted."""
        if self._stopping.is_set():
            raise EngineStopped
        outputs = self._generate_of_vllm(*args, **kwargs)
        try:
            async for output in outputs:
                if self._stopping.is_set() and any(one.finish_reason == "abort" for one in output.outputs):
                    raise EngineStopped
                yield output
        except EngineDeadError:
            raise EngineStopped from None
        finally:
            await outputs.aclose()

    async def _check_health(self) -> None:
        if self._stopping.is_set():
            raise EngineDeadError
        await self._check_health_of_vllm()


def answer_for_the_dead(app: FastAPI) -> None:
    """Have requests that meet a dead engine answered as those that meet a stopped one.

    vLLM's own handler, of the base class of these errors, would say 500.
    """

    async def unavailable(request: Request, _: Exception) -> Any:
        state = request.app.state
        if getattr(state, "server", None) is not None:
            terminate_if_errored(server=state.server, engine=state.engine_client)  # as vLLM's own handler does
        error = EngineGone()
        return json_response(error.body(), error.status, error.headers())

    for kind in (EngineDeadError, EngineStopped):
        app.add_exception_handler(kind, unavailable)


async def _awaited(what: Awaitable[None]) -> None:
    await what
