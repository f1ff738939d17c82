"""The OpenAI serving code of the embedded engine: `pipesd_core.engine.interface.Engine` over a `TargetDecoder`.

The decoder knows sequences of token ids; everything between them and an OpenAI body is in the modules beside this one:
`request` checks, `prompt` (with `chat_template`) makes the prompt, `generation` (with `detokenizer` and `responses`)
the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from pipesd_core.engine.interface import Deliver, ModelInfo, Opening, Queued
from pipesd_core.engine.translated import is_translated, open_translated
from pipesd_core.errors import ApiError, ModelNotFound, Overloaded, ShuttingDown, Unavailable
from pipesd_core.llamacpp.openai.logits_processing import Constraint, LogitsProcessing
from pipesd_core.llamacpp.openai.prompt import Model, Prompter
from pipesd_core.llamacpp.openai.request import Request, parse
from pipesd_core.llamacpp.openai.tool_calls import CallRules
from pipesd_core.llamacpp.runtime.generation import EmbeddedGeneration, SequenceHandle
from pipesd_core.llamacpp.runtime.logprobs import Decoded
from pipesd_core.occupancy import Occupancy
from pipesd_core.openai_body import names_served_model
from pipesd_core.openai_parameters import UnknownParameters
from pipesd_core.protocol.messages import Endpoint
from pipesd_core.sampling.params import SamplingParams

QUEUE_WAIT_S: Final = 100.0
"""Longest wait for a free slot; below the time that an agent waits for a silent gateway (120 s)."""
MAX_PREPARING: Final = 64
"""Most requests whose bodies and prompts wait to be parsed."""
MAX_TAKEN_BACK: Final = 4096
"""Most cancelled requests that wait with these; their turn costs next to nothing."""


Begun = tuple[Opening, Constraint | None, CallRules]


class Decoder(Protocol):
    """The part of `decoder.TargetDecoder` that this module needs."""

    @property
    def model(self) -> Model: ...
    @property
    def n_ctx_seq(self) -> int: ...
    @property
    def max_drafts(self) -> int: ...
    @property
    def load(self) -> dict[str, int]: ...
    @property
    def wait_s(self) -> float: ...
    @property
    def fault(self) -> str | None: ...

    async def reserve(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        limit: int,
        eos_ids: frozenset[int],
        on_step: Callable[[Decoded | ApiError], None],
        logits_processing: LogitsProcessing,
        constraint: Constraint | None,
        decided: Sequence[int],
        on_working: Callable[[], None],
    ) -> SequenceHandle: ...

    async def aclose(self) -> None: ...


class EmbeddedEngine:
    """Serves OpenAI requests with a llama.cpp target in this process.

    Args:
        decoder: the target; closed with the engine.
        name: the model's name in the API.
        unknown_parameters: what is done with parameters that are known to nobody.
        chat_template: a chat template instead of the model's own.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        name: str,
        unknown_parameters: UnknownParameters = "refuse",
        chat_template: str | None = None,
    ) -> None:
        model = decoder.model
        self._decoder = decoder
        self._unknown_parameters = unknown_parameters
        self._info = ModelInfo(
            name=name,
            n_vocab=model.n_vocab,
            fingerprint=model.fingerprint(),
            max_context=decoder.n_ctx_seq,
            max_drafts=decoder.max_drafts,
        )
        self._prompter = Prompter(model, self._info, chat_template)
        # A body of megabytes must not stop the event loop; one thread, so that the model outlives every use of it.
        self._preparer = ThreadPoolExecutor(1, "pipesd-prompt")
        self._preparing = Occupancy()
        """The requests on their way to the preparer's thread, cancelled ones included."""
        self._wanted = 0
        """Number of these that have not been cancelled."""
        self._live: set[EmbeddedGeneration] = set()
        self._closed = False

    @property
    def info(self) -> ModelInfo:
        return self._info

    @property
    def load(self) -> dict[str, int]:
        """Figures for `/health`: free slots, and requests in the admission queue."""
        return self._decoder.load

    @property
    def fault(self) -> str | None:
        """Why nothing is decoded any more, though nobody closed the engine; None: it works."""
        return self._decoder.fault

    async def open(self, endpoint: Endpoint, body: bytes, deliver: Deliver) -> EmbeddedGeneration:
        """Open a request; see `Engine.open`."""
        if is_translated(endpoint):
            return await open_translated(self.open, endpoint, body, deliver)
        self._check_open()
        request, begun = await self._prepare(endpoint, body, self._begun)
        return await self._begin(request, begun, deliver)

    async def continue_answer(
        self, endpoint: Endpoint, body: bytes, opening: Opening, decided: tuple[int, ...], deliver: Deliver
    ) -> EmbeddedGeneration:
        """Continue an answer that another model with this vocabulary began; it is delivered again from its beginning.

        Args:
            body: the request, for what `opening` does not hold.
            opening: of the other model; its max_tokens is cut to this model's context where the body names none.
            decided: the tokens of the output that the other model chose.

        Raises ApiError, as `open`; InvalidRequest for logprobs, which nobody here knows of `decided`.
        """

        async def continued(endpoint: Endpoint, body: bytes, deliver: Deliver) -> EmbeddedGeneration:
            return await self.continue_answer(endpoint, body, opening, decided, deliver)

        if is_translated(endpoint):
            return await open_translated(continued, endpoint, body, deliver)
        self._check_open()
        request, begun = await self._prepare(
            endpoint,
            body,
            lambda request: (
                self._prompter.opening_after(request, opening, decided),
                self._prompter.constraint(request, decided),
                self._prompter.call_rules(request),
            ),
        )
        return await self._begin(request, begun, deliver, decided)

    async def _begin(
        self, request: Request, begun: Begun, deliver: Deliver, decided: tuple[int, ...] = ()
    ) -> EmbeddedGeneration:
        self._check_open()
        opening, constraint, rules = begun
        generation = EmbeddedGeneration(request, opening, self._decoder.model, deliver, self._live.discard, rules)
        if decided:
            generation.begin_with(decided)
            if generation.over:
                return generation
        deliver(Queued(opening))
        try:
            async with asyncio.timeout(QUEUE_WAIT_S):
                sequence = await self._decoder.reserve(
                    opening.prompt_ids,
                    opening.params,
                    len(opening.prompt_ids) + opening.max_tokens,
                    frozenset(opening.eos_ids),
                    generation.on_step,
                    request.logits_processing,
                    constraint,
                    decided,
                    generation.on_working,
                )
        except TimeoutError:
            raise Overloaded(
                f"no place became free within {QUEUE_WAIT_S:.0f} s; try again later",
                retry_after_s=self._decoder.wait_s,
            ) from None
        if self._closed:
            sequence.release()
            self._check_open()
        generation.start(sequence)
        self._live.add(generation)
        return generation

    async def aclose(self) -> None:
        """Close the engine; see `Engine.aclose`. Waits for the forward pass that is under way."""
        if self._closed:
            return
        self._closed = True
        self._preparer.shutdown(wait=True)  # requests that still wait there find the engine closed at once
        for generation in list(self._live):
            generation.fail(_shutting_down())
        await self._decoder.aclose()

    def _check_open(self) -> None:
        if self._closed:
            raise _shutting_down()

    async def _prepare(
        self, endpoint: Endpoint, body: bytes, make: Callable[[Request], Begun]
    ) -> tuple[Request, Begun]:
        """Parse the request on the preparer's thread and apply `make` to it there."""
        waiting = self._preparing.taken
        if self._wanted >= MAX_PREPARING or waiting >= MAX_PREPARING + MAX_TAKEN_BACK:
            raise Overloaded(
                f"{waiting} requests are waiting to be read already; try again later",
                retry_after_s=self._preparing.wait_s(waiting - 1),
            )
        wanted = [body]
        future = asyncio.get_running_loop().run_in_executor(self._preparer, self._prepared, endpoint, wanted, make)
        self._preparing.take()
        self._wanted += 1
        future.add_done_callback(self._on_prepared)
        try:
            return await asyncio.shield(future)
        finally:
            self._wanted -= 1
            wanted.clear()  # bodies of cancelled requests must not pile up

    def _on_prepared(self, future: asyncio.Future[tuple[Request, Begun]]) -> None:
        self._preparing.free()
        if not future.cancelled():
            future.exception()  # retrieved, so that asyncio does not warn where nobody awaits it

    def _prepared(
        self, endpoint: Endpoint, wanted: list[bytes], make: Callable[[Request], Begun]
    ) -> tuple[Request, Begun]:
        """Parse a request; runs on the preparer's thread. wanted: the body; empty once the request is cancelled."""
        self._check_open()
        if not wanted:
            raise Unavailable("the request was taken back")
        request = parse(endpoint, wanted[0], self._unknown_parameters)
        return request, make(request)

    def _begun(self, request: Request) -> Begun:
        if not names_served_model(request.model, self._info.name):
            raise ModelNotFound(
                f"the model {request.model!r} does not exist; this server has {self._info.name!r}", param="model"
            )
        rules = self._prompter.call_rules(request)
        return self._prompter.opening(request), self._prompter.constraint(request), rules


def _shutting_down() -> ShuttingDown:
    return ShuttingDown("the server is shutting down; try again later")
