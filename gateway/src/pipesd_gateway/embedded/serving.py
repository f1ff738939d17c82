"""The OpenAI serving code of the embedded engine: `pipesd_gateway.engine.Engine` over a `TargetDecoder`.

The decoder knows sequences of token ids; everything between them and an OpenAI body is in the modules beside this one:
`request` checks, `prompt` (with `chat`) makes the prompt, `generation` (with `text` and `payloads`) makes the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from pipesd_gateway.embedded.chooser import Grammar
from pipesd_gateway.embedded.controls import Controls
from pipesd_gateway.embedded.generation import EmbeddedGeneration, Place
from pipesd_gateway.embedded.logprobs import Decoded
from pipesd_gateway.embedded.prompt import Model, Prompter
from pipesd_gateway.embedded.request import Request, parse
from pipesd_gateway.engine import Deliver, ModelInfo, Opening
from pipesd_gateway.exceptions import ApiError, ModelNotFound, Overloaded, Unavailable
from pipesd_gateway.protocol import Endpoint
from pipesd_gateway.sampling import SamplingParams

QUEUE_WAIT_S: Final = 100.0
"""Longest wait for a free sequence; below the time that an agent waits for a silent gateway (120 s)."""
MAX_PREPARING: Final = 64
"""Most requests whose prompts may wait for the tokenizer."""


class Decoder(Protocol):
    """What is needed of `embedded.decoder.TargetDecoder`."""

    @property
    def model(self) -> Model: ...
    @property
    def n_ctx_seq(self) -> int: ...
    @property
    def max_drafts(self) -> int: ...
    @property
    def load(self) -> dict[str, int]: ...

    async def reserve(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        limit: int,
        eos_ids: frozenset[int],
        on_step: Callable[[Decoded | ApiError], None],
        controls: Controls,
        grammar: Grammar | None,
    ) -> Place: ...

    async def aclose(self) -> None: ...


class EmbeddedEngine:
    """Serves OpenAI requests with a llama.cpp target in this process.

    Args:
        decoder: the target; closed with the engine.
        name: the model's name in the API.
    """

    def __init__(self, decoder: Decoder, *, name: str) -> None:
        model = decoder.model
        self._decoder = decoder
        self._info = ModelInfo(
            name=name,
            n_vocab=model.n_vocab,
            fingerprint=model.fingerprint(),
            max_context=decoder.n_ctx_seq,
            max_drafts=decoder.max_drafts,
        )
        self._prompter = Prompter(model, self._info)
        # A prompt of megabytes must not stop the event loop; one thread, so that the model outlives every use of it.
        self._preparer = ThreadPoolExecutor(1, "pipesd-prompt")
        self._preparing = 0
        self._live: set[EmbeddedGeneration] = set()
        self._closed = False

    @property
    def info(self) -> ModelInfo:
        return self._info

    @property
    def load(self) -> dict[str, int]:
        """For `/health`."""
        return self._decoder.load

    async def open(self, endpoint: Endpoint, body: bytes, deliver: Deliver) -> EmbeddedGeneration:
        """See `Engine.open`."""
        self._check_open()
        request = parse(endpoint, body)
        if request.model not in (None, self._info.name):
            raise ModelNotFound(
                f"the model {request.model!r} does not exist; this server has {self._info.name!r}", param="model"
            )
        opening, grammar = await self._prepare(request)
        self._check_open()
        generation = EmbeddedGeneration(request, opening, self._decoder.model, deliver, self._live.discard)
        try:
            async with asyncio.timeout(QUEUE_WAIT_S):
                place = await self._decoder.reserve(
                    opening.prompt_ids,
                    opening.params,
                    len(opening.prompt_ids) + opening.max_tokens,
                    frozenset(opening.eos_ids),
                    generation.on_step,
                    request.controls,
                    grammar,
                )
        except TimeoutError:
            raise Overloaded(
                f"no place became free within {QUEUE_WAIT_S:.0f} s; try again later", retry_after_s=10
            ) from None
        if self._closed:
            place.release()
            self._check_open()
        generation.start(place)
        self._live.add(generation)
        return generation

    async def aclose(self) -> None:
        """See `Engine.aclose`. Waits for the forward pass that is under way."""
        if self._closed:
            return
        self._closed = True
        self._preparer.shutdown(wait=True)  # what still waits there finds the engine closed, and is quick
        for generation in list(self._live):
            generation.fail(_shutting_down())
        await self._decoder.aclose()

    def _check_open(self) -> None:
        if self._closed:
            raise _shutting_down()

    async def _prepare(self, request: Request) -> tuple[Opening, Grammar | None]:
        if self._preparing >= MAX_PREPARING:
            raise Overloaded(f"{MAX_PREPARING} prompts are waiting for the tokenizer already; try again later")
        self._preparing += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._preparer, self._opening, request)
        finally:
            self._preparing -= 1

    def _opening(self, request: Request) -> tuple[Opening, Grammar | None]:
        """On the preparer's thread."""
        self._check_open()
        return self._prompter.opening(request), self._prompter.grammar(request)


def _shutting_down() -> Unavailable:
    return Unavailable("the server is shutting down; try again later")
