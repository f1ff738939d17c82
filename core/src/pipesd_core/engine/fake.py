"""A fake engine for tests: the target model is a function that the test gives, the rest follows the interface.

As `httpx.MockTransport` takes a handler in the place of a server, `FakeEngine` takes a `Target` in the place of a
model:

    engine = FakeEngine(script([104, 105]))          # writes "hi", then EOS
    engine = FakeEngine(by_logits(logits, n_vocab))  # draws from scripted logits with the shared noise

Drafts are verified exactly: one is accepted iff it equals the target's token, and the first that is not ends the step.
Bodies are read, and payloads written, by the code of the llama.cpp engine, so both are OpenAI's. There are no tasks and
no threads: a step is one callback on the event loop, which `abort` and `aclose` take back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from pipesd_core.engine.interface import (
    Broken,
    Deliver,
    EngineOutput,
    Finished,
    ModelInfo,
    Opening,
    Payload,
    StepDone,
)
from pipesd_core.engine.rounds import fault
from pipesd_core.errors import ApiError, ContextLengthExceeded, InvalidRequest, ModelNotFound, Unavailable
from pipesd_core.llamacpp.openai.controls import Controls
from pipesd_core.llamacpp.openai.request import Request, parse
from pipesd_core.llamacpp.openai.responses import FinishReason, Usage, Writer
from pipesd_core.llamacpp.runtime.admission import Places
from pipesd_core.llamacpp.runtime.detokenizer import Text
from pipesd_core.protocol.messages import Endpoint
from pipesd_core.sampling.sampler import Logits, Sampler

Target = Callable[[Opening, Sequence[int]], int]
"""The next token after the opening's prompt and these tokens of the output."""
Payloads = Callable[["FakeGeneration", StepDone], list[Payload]]
"""What a step is to the client."""

EOS: Final = 256
INFO: Final = ModelInfo("fake", n_vocab=257, fingerprint=bytes(16), max_context=512, max_drafts=8)
"""Tokens are bytes, then EOS."""
DEFAULT_TOKENS: Final = 16
"""max_tokens of a request that names none."""


def script(tokens: Sequence[int], then: int = EOS) -> Target:
    """A target that writes these tokens whatever the prompt, and `then` from there on."""
    return lambda _opening, output: tokens[len(output)] if len(output) < len(tokens) else then


def by_logits(logits: Callable[[Sequence[int]], Logits], n_vocab: int) -> Target:
    """A target that draws as real ones do. logits: of the token after these ids, a float32 row (n_vocab,)."""
    sampler = Sampler(n_vocab)

    def target(opening: Opening, output: Sequence[int]) -> int:
        ids = [*opening.prompt_ids, *output]
        return sampler.sample(logits(ids), opening.params, len(ids))

    return target


def piece(token: int) -> bytes:
    """The text of a token: it is a byte, or has none."""
    return bytes([token]) if token < 256 else b""


class FakeGeneration:
    """See `engine.Generation`. What a test may look at:

    orders: the drafts of each step, those of the steps ahead included. aheads: of each call of `step`. output: all
    tokens so far. pending: a step is under way. over: nothing more is said. aborted: `abort` was called, by whoever
    drives it. deliver: whoever drives it hears through this.
    """

    def __init__(self, engine: FakeEngine, request: Request, opening: Opening, deliver: Deliver) -> None:
        self.orders: list[tuple[int, ...]] = []
        self.aheads: list[int] = []
        self.output: list[int] = []
        self.pending = self.over = self.aborted = False
        self.deliver = deliver
        self._engine = engine
        self._opening = opening
        self._request = request
        self._text = Text(piece, opening.stop)
        self._writer = Writer.start(request.endpoint, opening.model, include_usage=request.include_usage)
        self._ahead = 0
        self._reason: FinishReason | None = None
        self._callback: asyncio.Handle | None = None

    @property
    def opening(self) -> Opening:
        return self._opening

    def step(self, drafts: Sequence[int], ahead: int = 0) -> None:
        """See `Generation.step`."""
        if self.over or self._reason is not None:
            raise RuntimeError("step() of a generation that is over")
        if self.pending:
            raise RuntimeError("step() while a step is under way")
        info = self._engine.info
        if (wrong := fault(tuple(drafts), info.max_drafts, info.n_vocab)) is not None:
            raise ValueError(wrong)
        self.aheads.append(ahead)
        self._order(tuple(drafts), ahead)

    def abort(self) -> None:
        """See `Generation.abort`."""
        self.aborted = True
        self._end()

    def go(self) -> None:
        """Take the step under way now. For a test whose engine does not run by itself."""
        if self.over or not self.pending:
            return
        if (said := self._engine.says) is not None:
            self._say(said)
            return
        done = self._take(self.orders[-1])
        self.pending = False
        if self._ahead and not done.ends:
            self._order((), self._ahead - 1)  # before the outputs are told, as real engines do
        self._say(done)
        for payload in self._engine.payloads(self, done):
            self._say(payload)
        if done.ends:
            self._say(Finished())

    def fail(self, error: ApiError) -> None:
        """End it with an error, as an engine that breaks does."""
        self._say(Broken(error))

    def payloads(self, done: StepDone) -> list[Payload]:
        """What the step is to a client of the OpenAI API."""
        ends = self._reason is not None
        usage = Usage(len(self._opening.prompt_ids), len(self.output))
        if ends:
            self._text.finish()
        if not self._request.stream:
            if self._reason is None:
                return []
            whole = self._writer.whole(self._text.take(), self._reason, usage)
            return [Payload(whole, len(self.output), usage=True)]
        said = []
        if (text := self._text.take()) or ends:
            chunk = self._writer.chunk(text, first=len(self.output) == len(done.tokens), finish_reason=self._reason)
            said.append(Payload(chunk, len(self.output) if ends else self._text.covered))
        if ends and self._writer.include_usage:
            said.append(Payload(self._writer.usage_chunk(usage), len(self.output), usage=True))
        return said

    def _order(self, drafts: tuple[int, ...], ahead: int) -> None:
        self.orders.append(drafts)
        self.pending = True
        self._ahead = ahead
        if self._engine.running:
            self._callback = asyncio.get_running_loop().call_later(self._engine.delay_s, self.go)

    def _take(self, drafts: tuple[int, ...]) -> StepDone:
        limits = self._engine.per_step
        verified = drafts[: limits.popleft()] if limits else drafts
        if not self.output and not self._engine.drafts_with_prompt:
            verified = ()
        tokens: list[int] = []
        accepted = 0
        for draft in (*verified, None):
            token = self._engine.target(self._opening, self.output)
            self.output.append(token)
            tokens.append(token)
            accepted += token == draft
            if token in self._opening.eos_ids or self._text.push(token):
                self._reason = "stop"
            elif len(self.output) == self._opening.max_tokens:
                self._reason = "length"
            if token != draft or self._reason is not None:
                break
        return StepDone(tuple(tokens), len(verified), accepted, 1, 2, ends=self._reason is not None)

    def _say(self, output: EngineOutput) -> None:
        if self.over:  # whoever gets the outputs may abort while it does
            return
        if isinstance(output, Finished | Broken):
            self._end()
        self.deliver(output)

    def _end(self) -> None:
        if not self.over:
            self.over = True
            if self._callback is not None:
                self._callback.cancel()
            self._engine.let_go(self)


class FakeEngine:
    """See `engine.Engine`.

    Args:
        target: the model.
        eos_ids: tokens that end an answer, unless it ignores them.
        places: generations at once. max_queue: calls of `open` that may wait for one.
        payloads: in the place of OpenAI's.

    What a test may set at any time:
        running: False: no step is taken before `FakeGeneration.go`.
        delay_s: how long a step takes.
        per_step: of the drafts of the next steps, only so many are verified.
        drafts_with_prompt: False: the first step of a generation verifies none, as vLLM's does.
        says: said by every step in the place of what it came to, whether that follows the interface or not.
        refusals: raised by the next calls of `open`.
    """

    def __init__(
        self,
        target: Target,
        *,
        info: ModelInfo = INFO,
        eos_ids: tuple[int, ...] = (EOS,),
        places: int = 64,
        max_queue: int = 1024,
        payloads: Payloads = FakeGeneration.payloads,
    ) -> None:
        self.info = info
        self.target = target
        self.eos_ids = eos_ids
        self.payloads = payloads
        self.running = True
        self.delay_s = 0.0
        self.per_step: deque[int] = deque()
        self.drafts_with_prompt = True
        self.says: EngineOutput | None = None
        self.refusals: deque[ApiError] = deque()
        self.generations: list[FakeGeneration] = []
        """All that were ever opened."""
        self.most_queued = 0
        self._places = Places(places, max_queue)
        self._live: set[FakeGeneration] = set()
        self._closed = False

    @property
    def queued(self) -> int:
        """Calls of `open` that wait for a place."""
        return self._places.queued

    async def open(self, endpoint: Endpoint, body: bytes, deliver: Deliver) -> FakeGeneration:
        """See `Engine.open`."""
        if self._closed:
            raise _closed()
        if self.refusals:
            raise self.refusals.popleft()
        request = parse(endpoint, body)
        opening = self.understand(request)
        if self._places.free == 0:
            self.most_queued = max(self.most_queued, self.queued + 1)
        await self._places.take()
        generation = FakeGeneration(self, request, opening, deliver)
        self.generations.append(generation)
        self._live.add(generation)
        return generation

    async def aclose(self) -> None:
        """See `Engine.aclose`."""
        self._closed = True
        self._places.close(_closed())
        for generation in list(self._live):
            generation.fail(_closed())

    def let_go(self, generation: FakeGeneration) -> None:
        """A generation is over. For `FakeGeneration`."""
        self._live.discard(generation)
        self._places.give_back()

    def understand(self, request: Request) -> Opening:
        """A checked request as an opening; a text is its bytes, a chat its messages' texts, one a line."""
        info = self.info
        if request.model not in (None, info.name):
            raise ModelNotFound(f"the model {request.model!r} does not exist; this is {info.name!r}", param="model")
        if request.controls != Controls():
            raise InvalidRequest("the fake engine has no penalties, biases, logprobs or grammars", param="controls")
        prompt = request.prompt or "\n".join(message.content for message in request.messages)
        ids = tuple(prompt.encode()) if isinstance(prompt, str) else prompt
        param = "prompt" if request.endpoint is Endpoint.COMPLETIONS else "messages"
        if not ids:
            raise InvalidRequest("the prompt has no tokens", param=param)
        if max(ids) >= info.n_vocab:
            raise InvalidRequest(
                f"{param} has the token id {max(ids)}; ids of this model are below {info.n_vocab}", param=param
            )
        room = info.max_context - len(ids)
        if room < (request.max_tokens or 1):
            raise ContextLengthExceeded(
                f"the prompt has {len(ids)} tokens and max_tokens is {request.max_tokens}, but the context is "
                f"{info.max_context} tokens",
                param="max_tokens" if room > 0 else param,
            )
        return Opening(
            prompt_ids=ids,
            params=request.params,
            max_tokens=request.max_tokens or min(room, DEFAULT_TOKENS),
            eos_ids=() if request.ignore_eos else self.eos_ids,
            model=info.name,
            stop=request.stop,
        )


def _closed() -> Unavailable:
    return Unavailable("the server is shutting down; try again later")
