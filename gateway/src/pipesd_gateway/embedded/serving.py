"""The OpenAI serving code of the embedded engine: `pipesd_gateway.engine.Engine` over a `TargetDecoder`.

The decoder knows sequences of token ids; everything between them and an OpenAI body is here and in the modules beside
this one: `request` checks, `chat` and the tokenizer make the prompt, `text` makes the answer, `payloads` writes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from pipesd_gateway.embedded.chat import ChatTemplate
from pipesd_gateway.embedded.payloads import FinishReason, Usage, Writer
from pipesd_gateway.embedded.request import Request, parse
from pipesd_gateway.embedded.text import Text
from pipesd_gateway.engine import Broken, Deliver, EngineOutput, Finished, ModelInfo, Opening, Payload, StepDone
from pipesd_gateway.exceptions import (
    ApiError,
    ContextLengthExceeded,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    Unavailable,
)
from pipesd_gateway.protocol import Endpoint
from pipesd_gateway.sampling import SamplingParams

QUEUE_WAIT_S: Final = 300.0
"""Longest wait for a free sequence; below the OpenAI SDK's own limit of 600 s, so that it gets an answer."""
MAX_PREPARING: Final = 64
"""Most requests whose prompts may wait for the tokenizer."""
DEFAULT_COMPLETION_TOKENS: Final = 16
"""OpenAI's default of max_tokens in /v1/completions; in a chat it is the rest of the context."""


class Model(Protocol):
    """What is needed of `embedded.llama.Model`."""

    @property
    def n_vocab(self) -> int: ...
    @property
    def bos(self) -> int | None: ...
    @property
    def eos(self) -> int | None: ...
    @property
    def adds_bos(self) -> bool: ...
    @property
    def eog_ids(self) -> tuple[int, ...]: ...
    @property
    def chat_template(self) -> str | None: ...

    def tokenize(self, text: str, *, special: bool) -> list[int]: ...
    def piece(self, token: int, *, special: bool) -> bytes: ...
    def fingerprint(self) -> bytes: ...


class Place(Protocol):
    """What is needed of `embedded.decoder.Sequence`: one sequence of the decoder, held for one request."""

    def step(self, drafts: Sequence[int]) -> None: ...
    def release(self) -> None: ...


class Decoder(Protocol):
    """What is needed of `embedded.decoder.TargetDecoder`."""

    @property
    def model(self) -> Model: ...
    @property
    def n_ctx_seq(self) -> int: ...
    @property
    def max_drafts(self) -> int: ...

    async def reserve(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        limit: int,
        eos_ids: frozenset[int],
        on_step: Callable[[StepDone | ApiError], None],
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
        self._template = _template(model)
        self._info = ModelInfo(
            name=name,
            n_vocab=model.n_vocab,
            fingerprint=model.fingerprint(),
            max_context=decoder.n_ctx_seq,
            max_drafts=decoder.max_drafts,
        )
        # A prompt of megabytes must not stop the event loop; one thread, so that the model outlives every use of it.
        self._preparer = ThreadPoolExecutor(1, "pipesd-prompt")
        self._preparing = 0
        self._live: set[EmbeddedGeneration] = set()
        self._closed = False

    @property
    def info(self) -> ModelInfo:
        return self._info

    async def open(self, endpoint: Endpoint, body: bytes, deliver: Deliver) -> EmbeddedGeneration:
        """See `Engine.open`."""
        self._check_open()
        request = parse(endpoint, body)
        if request.model not in (None, self._info.name):
            raise ModelNotFound(
                f"the model {request.model!r} does not exist; this server has {self._info.name!r}", param="model"
            )
        opening = await self._prepare(request)
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

    async def _prepare(self, request: Request) -> Opening:
        if self._preparing >= MAX_PREPARING:
            raise Overloaded(f"{MAX_PREPARING} prompts are waiting for the tokenizer already; try again later")
        self._preparing += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._preparer, self._opening, request)
        finally:
            self._preparing -= 1

    def _opening(self, request: Request) -> Opening:
        """On the preparer's thread."""
        self._check_open()
        prompt_ids = self._prompt_ids(request)
        return Opening(
            prompt_ids=prompt_ids,
            params=request.params,
            max_tokens=_max_tokens(request, len(prompt_ids), self._info),
            eos_ids=self._decoder.model.eog_ids,
            model=self._info.name,
            stop=request.stop,
        )

    def _prompt_ids(self, request: Request) -> tuple[int, ...]:
        """Text is tokenised with special tokens recognised, in both endpoints, as in vLLM.

        BOS, where the model wants it: of a chat it is the template's business, before a prompt it is put here.
        """
        model = self._decoder.model
        if request.endpoint is Endpoint.CHAT_COMPLETIONS:
            if self._template is None:
                raise InvalidRequest(f"{self._info.name!r} has no chat template; use /v1/completions", param="messages")
            ids = tuple(model.tokenize(self._template.render(request.messages), special=True))
        elif isinstance(request.prompt, str):
            ids = tuple(model.tokenize(request.prompt, special=True))
            if model.adds_bos and model.bos is not None and ids[:1] != (model.bos,):
                ids = (model.bos, *ids)
        else:
            ids = request.prompt
            if max(ids) >= model.n_vocab:
                raise InvalidRequest(
                    f"prompt has the token id {max(ids)}; ids of this model are below {model.n_vocab}",
                    param="prompt",
                )
        if not ids:
            raise InvalidRequest("the prompt has no tokens", param="prompt")
        return ids


def _template(model: Model) -> ChatTemplate | None:
    if model.chat_template is None:
        return None
    special = {"bos_token": model.bos, "eos_token": model.eos}
    return ChatTemplate(
        model.chat_template,
        {
            name: model.piece(token, special=True).decode("utf-8", "replace")
            for name, token in special.items()
            if token is not None
        },
    )


def _max_tokens(request: Request, n_prompt: int, info: ModelInfo) -> int:
    chat = request.endpoint is Endpoint.CHAT_COMPLETIONS
    room = info.max_context - n_prompt
    if room < 1:
        raise ContextLengthExceeded(
            f"the prompt has {n_prompt} tokens, but the context is {info.max_context} tokens for prompt and answer "
            "together; shorten the prompt",
            param="messages" if chat else "prompt",
        )
    if request.max_tokens is None:
        return room if chat else min(room, DEFAULT_COMPLETION_TOKENS)
    if request.max_tokens > room:
        raise ContextLengthExceeded(
            f"the prompt has {n_prompt} tokens and max_tokens is {request.max_tokens}, together "
            f"{n_prompt + request.max_tokens}, but the context is {info.max_context} tokens; ask for at most {room} "
            "or shorten the prompt",
            param="max_tokens",
        )
    return request.max_tokens


def _shutting_down() -> Unavailable:
    return Unavailable("the server is shutting down; try again later")


class EmbeddedGeneration:
    """One request in the embedded engine. Everything happens on the event loop's thread. See `engine.Generation`."""

    def __init__(
        self,
        request: Request,
        opening: Opening,
        model: Model,
        deliver: Deliver,
        on_over: Callable[[EmbeddedGeneration], None],
    ) -> None:
        self._opening = opening
        self._eos = frozenset(opening.eos_ids)
        self._deliver = deliver
        self._on_over = on_over
        self._stream = request.stream
        self._writer = Writer.start(request.endpoint, opening.model, include_usage=request.include_usage)
        self._text = Text(lambda token: model.piece(token, special=False), opening.stop)
        self._tokens = 0
        self._first = True
        self._place: Place | None = None
        self._over = False

    @property
    def opening(self) -> Opening:
        return self._opening

    def start(self, place: Place) -> None:
        self._place = place

    def step(self, drafts: Sequence[int]) -> None:
        if self._over or self._place is None:
            raise RuntimeError("step() of a generation that is over")
        self._place.step(drafts)

    def abort(self) -> None:
        if not self._over:
            self._over = True
            if self._place is not None:
                self._place.release()
            self._on_over(self)

    def fail(self, error: ApiError) -> None:
        """End the request with an error."""
        if not self._over:
            self.abort()
            self._deliver(Broken(error))

    def on_step(self, done: StepDone | ApiError) -> None:
        """The decoder's callback."""
        if self._over:
            return
        if isinstance(done, ApiError):
            self.fail(done)
            return
        kept, reason = self._push(done.tokens)
        self._tokens += kept
        self._say(
            StepDone(
                tokens=done.tokens[:kept],
                verified=done.verified,
                accepted=min(done.accepted, kept),
                queue_us=done.queue_us,
                forward_us=done.forward_us,
            )
        )
        if self._stream:
            self._say_chunk(reason)
        if reason is not None:
            self._end(reason)

    def _push(self, tokens: tuple[int, ...]) -> tuple[int, FinishReason | None]:
        """How many of the step's tokens belong to the answer, and why it ends with the last of them, if it does."""
        reason: FinishReason | None = None
        for kept, token in enumerate(tokens, 1):
            if token in self._eos or self._text.push(token):
                reason = "stop"
            elif self._tokens + kept == self._opening.max_tokens:
                reason = "length"
            if reason is not None:
                return kept, reason
        return len(tokens), None

    def _say_chunk(self, reason: FinishReason | None) -> None:
        if reason is not None:
            self._text.finish()
        text = self._text.take()
        if text or reason is not None:
            upto = self._tokens if reason is not None else self._text.covered
            self._say(Payload(self._writer.chunk(text, first=self._first, finish_reason=reason), upto))
            self._first = False

    def _end(self, reason: FinishReason) -> None:
        usage = Usage(len(self._opening.prompt_ids), self._tokens)
        if not self._stream:
            self._text.finish()
            self._say(Payload(self._writer.whole(self._text.take(), reason, usage), self._tokens, usage=True))
        elif self._writer.include_usage:
            self._say(Payload(self._writer.usage_chunk(usage), self._tokens, usage=True))
        if not self._over:
            self.abort()
            self._deliver(Finished())

    def _say(self, output: EngineOutput) -> None:
        if not self._over:  # whoever gets the outputs may abort while it does
            self._deliver(output)
