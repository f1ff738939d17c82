"""The local model: the draft model alone, for whole answers and for the rest of answers that the target began.

It is the draft model's file in the embedded engine, target-only, with a context of its own beside the drafter's
(llama.cpp maps the file, so both share its pages). It is loaded when it is first needed, and freed when nobody has
needed it for a while: an agent whose cloud is there pays nothing for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Raw

from pipesd_agent.local.answer import LocalAnswer
from pipesd_agent.session.cannot_splice import CannotSplice
from pipesd_agent.session.session import EdgeSession
from pipesd_agent.session.splice import Splice
from pipesd_core.engine.autoregressive import TargetOnlyGeneration
from pipesd_core.engine.choices import MultiChoiceGeneration
from pipesd_core.engine.interface import Deliver, Generation, Opening
from pipesd_core.errors import ApiError, ModelLoadError, ShuttingDown, Unavailable
from pipesd_core.openai_body import NOT_JSON, has_multiple_choices
from pipesd_core.openai_parameters import drop_unknown
from pipesd_core.protocol.messages import Endpoint, Opened
from pipesd_core.translation.parameters import own_names

if TYPE_CHECKING:  # it imports llama.cpp's bindings
    from pipesd_core.llamacpp.runtime.engine import EmbeddedEngine

log = logging.getLogger(__name__)

IDLE_S: Final = 60.0
"""After so long without a request the model and its KV cache are freed."""
_DECIDED_FIELDS: Final = ("model", "temperature", "top_p", "top_k", "seed", "stop", "stop_sequences")
"""Fields of a body whose values in force are in `Opened`."""


class CannotContinue(Exception):
    """Raised where the draft model cannot continue an answer; the message says why."""


class LocalModel:
    """The draft model as an engine of its own, which it owns. All methods on the event loop's thread, but `load`.

    Args:
        make: loads the engine; blocks, raises ModelLoadError.
        idle_s: see `IDLE_S`; None: the model stays.
    """

    def __init__(self, make: Callable[[], EmbeddedEngine], *, idle_s: float | None = IDLE_S) -> None:
        self._make = make
        self._idle_s = idle_s
        self._engine: EmbeddedEngine | None = None
        self._users = 0
        self._work: asyncio.Task[None] | None = None
        """Loads the engine, or frees it."""
        self._timer: asyncio.TimerHandle | None = None
        self.closed = False
        """Whether the agent is shutting down: no answer is started any more."""

    @property
    def listing(self) -> list[dict[str, Any]]:
        """The list for `/v1/models`; empty unless the model is loaded."""
        return [] if self._engine is None else [self._engine.info.entry()]

    def load(self) -> None:
        """Load the model before the event loop uses it; on any thread. Raises ModelLoadError."""
        self._engine = self._make()

    async def start(self, endpoint: Endpoint, body: bytes, reason: str) -> LocalAnswer:
        """Start a whole answer. reason: why the target does not write it.

        Raises ApiError; cancelling takes the request back.
        """
        engine = await self._acquire()
        answer = MultiChoiceGeneration(engine) if has_multiple_choices(endpoint, body) else TargetOnlyGeneration(engine)
        try:
            opening = await answer.open(endpoint, body)
        except BaseException:
            answer.abort()
            self._release()
            raise
        return LocalAnswer(answer, opening, engine.info.name, endpoint, body, self._release, reason=reason)

    async def continue_answer(self, session: EdgeSession, reason: str) -> LocalAnswer:
        """Start the rest of an answer whose target is lost, after the tokens that the target has committed.

        Raises CannotContinue, ApiError; cancelling takes the request back.
        """
        opened, request = session.opened, session.request
        if opened is None:
            raise CannotContinue("it has not begun")
        if not request.fingerprint:
            raise CannotContinue("it was opened cloud-only, so nobody compared its vocabulary with the draft model's")
        try:
            splice = Splice(session.delivered)
        except CannotSplice as error:
            raise CannotContinue(str(error)) from error
        decided = tuple(session.committed[len(opened.prompt_ids) :])
        engine = await self._acquire()
        answer = TargetOnlyGeneration(_ContinuedGeneration(engine, _opening(opened), decided))
        try:
            body = drop_fields(request.body, *_DECIDED_FIELDS)
            if opened.ignored:  # or else the draft model would refuse what the target has left aside
                body, _ = drop_unknown(body, own_names(request.endpoint))
            opening = await answer.open(request.endpoint, body)
        except BaseException:
            answer.abort()
            self._release()
            raise
        return LocalAnswer(
            answer,
            opening,
            engine.info.name,
            request.endpoint,
            request.body,
            self._release,
            reason=reason,
            from_token=len(decided),
            splice=splice,
            counts=session.counts,
        )

    async def aclose(self) -> None:
        """End what runs with an error, and free the model. Harmless when repeated."""
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._work is not None:
            await asyncio.gather(self._work, return_exceptions=True)
        if self._engine is not None:
            await self._engine.aclose()

    async def _acquire(self) -> EmbeddedEngine:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._users += 1
        try:
            while self._engine is None or self._engine.fault is not None:
                if self.closed:
                    raise ShuttingDown("the agent is shutting down; try again later")
                if self._work is None and self._engine is not None:
                    log.error("local model: loaded again, since it broke: %s", self._engine.fault)
                    self._unload()
                if self._work is None:
                    self._work = asyncio.create_task(self._load())
                    self._work.add_done_callback(self._work_done)
                await asyncio.shield(self._work)
            return self._engine
        except BaseException:
            self._release()
            raise

    async def _load(self) -> None:
        log.info("local model: loading, to answer without the target")
        try:
            self._engine = await asyncio.to_thread(self._make)
        except (ModelLoadError, MemoryError) as error:
            raise Unavailable(f"it cannot be loaded: {str(error) or 'not enough memory'}") from error

    def _work_done(self, task: asyncio.Task[None]) -> None:
        self._work = None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("local model: %s", error)

    def _release(self) -> None:
        self._users -= 1
        if not self._users and self._idle_s is not None and not self.closed:
            self._timer = asyncio.get_running_loop().call_later(self._idle_s, self._free_idle)

    def _free_idle(self) -> None:
        log.info("local model: freed, unused for %g s", self._idle_s)
        self._unload()

    def _unload(self) -> None:
        engine, self._engine, self._timer = self._engine, None, None
        if engine is not None:
            self._work = asyncio.create_task(engine.aclose())
            self._work.add_done_callback(self._work_done)


class _ContinuedGeneration:
    """Opens the one generation that continues an answer after `decided` output tokens."""

    def __init__(self, engine: EmbeddedEngine, opening: Opening, decided: tuple[int, ...]) -> None:
        self._engine, self._opening, self._decided = engine, opening, decided

    async def open(self, endpoint: Endpoint, body: bytes, deliver: Deliver) -> Generation:
        return await self._engine.continue_answer(endpoint, body, self._opening, self._decided, deliver)


def drop_fields(body: bytes, *names: str) -> bytes:
    """A body without these fields. One that is no object stays as it is, for the engine to refuse."""
    try:
        fields = msgspec.json.decode(body, type=dict[str, Raw])
    except NOT_JSON:
        return body
    return msgspec.json.encode({name: value for name, value in fields.items() if name not in names})


def _opening(opened: Opened) -> Opening:
    return Opening(opened.prompt_ids, opened.params, opened.max_tokens, opened.eos_ids, opened.model, opened.stop)


def error_message(error: ApiError) -> str:
    """The message that a client gets for an error; for one of a gateway, the message is in its body."""
    return str(error.body()["error"]["message"])
