"""A fake engine for tests: the target model is a function that the test gives, the rest follows the interface.

As `httpx.MockTransport` takes a handler instead of a server, `FakeEngine` takes a `Target` instead of a
model:

    engine = FakeEngine(script([104, 105]))          # writes "hi", then EOS
    engine = FakeEngine(by_logits(logits, n_vocab))  # draws from scripted logits with the shared noise

Drafts are verified exactly: one is accepted iff it equals the target's token, and the first that is not ends the step.
Bodies and payloads are OpenAI's, of both endpoints, with the fields that matter to the interface and no others. There
are no tasks and no threads: a step is one callback on the event loop, which `abort` and `aclose` take back.
"""

from __future__ import annotations

import asyncio
import re
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from pipesd_core.engine.interface import (
    Broken,
    Deliver,
    EngineOutput,
    Finished,
    ModelInfo,
    Opening,
    Payload,
    Queued,
    StepDone,
)
from pipesd_core.engine.rounds import fault
from pipesd_core.engine.translated import is_translated, open_translated
from pipesd_core.errors import ApiError, ContextLengthExceeded, InvalidRequest, ModelNotFound, Overloaded, ShuttingDown
from pipesd_core.openai_body import NOT_JSON, names_served_model
from pipesd_core.protocol.messages import Endpoint
from pipesd_core.sampling.params import SamplingParams
from pipesd_core.sampling.sampler import Logits, Sampler, draw_seed

Target = Callable[[Opening, Sequence[int]], int]
"""The next token after the opening's prompt and these tokens of the output."""
Payloads = Callable[["FakeGeneration", StepDone], list[Payload]]
"""Makes the payloads of a step."""

EOS: Final = 256
INFO: Final = ModelInfo("fake", n_vocab=257, fingerprint=bytes(16), max_context=512, max_drafts=8)
"""Tokens are the first 256 characters of Unicode, then EOS."""
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


class Message(Struct, frozen=True):
    """One message of a chat."""

    role: str
    content: str


class StreamOptions(Struct, frozen=True):
    include_usage: bool = False


class Request(Struct, frozen=True, forbid_unknown_fields=True):
    """A request body. None, and null, mean: not given."""

    prompt: str | list[int] | None = None
    messages: list[Message] | None = None
    model: str | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    ignore_eos: bool = False
    stream: bool = False
    stream_options: StreamOptions | None = None

    @property
    def params(self) -> SamplingParams:
        return SamplingParams(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=self.top_k or 0,
            seed=draw_seed() if self.seed is None else self.seed,
        )

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


def parse(body: bytes) -> Request:
    """Parse a body. Raises InvalidRequest, which names the field that is wrong."""
    try:
        request = msgspec.json.decode(body, type=Request)
    except NOT_JSON as error:
        where = re.search(r"\$\.(\w+)|unknown field `(\w+)`", str(error))
        raise InvalidRequest(f"the body: {error}", param=where and (where[1] or where[2])) from None
    if request.max_tokens is None and request.max_completion_tokens is not None:
        request = msgspec.structs.replace(request, max_tokens=request.max_completion_tokens)
    if request.max_tokens is not None and request.max_tokens < 1:
        raise InvalidRequest(f"max_tokens must be at least 1, but is {request.max_tokens}", param="max_tokens")
    if "" in request.stops:
        raise InvalidRequest("a stop string must not be empty", param="stop")
    return request


class Text:
    """The text of an answer, held back while it may be the beginning of a stop string."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._text = ""
        self._ends: list[int] = []
        """End of each token's text, in characters."""
        self._taken = 0

    def push(self, token: int) -> bool:
        """Take a token. True: a stop string is complete, and the text ends before it."""
        self._text += chr(token) if token < 256 else ""
        self._ends.append(len(self._text))
        found = [at for stop in self._stops if (at := self._text.find(stop)) >= 0]
        if found:
            self._text = self._text[: min(found)]
        return bool(found)

    def take(self, *, all_: bool) -> tuple[str, int]:
        """The text that may be shown and was not taken before, and how many tokens are shown with it."""
        held = max((n for stop in self._stops for n in range(len(stop)) if self._text.endswith(stop[:n])), default=0)
        shown = len(self._text) - (0 if all_ else held)
        new, self._taken = self._text[self._taken : shown], shown
        return new, len(self._ends) if all_ else bisect_right(self._ends, shown)


class FakeGeneration:
    """Implementation of `engine.interface.Generation`. What a test may look at:

    orders: the drafts of each step, those of the steps ahead included. aheads: the steps ahead of each call of
    `step`. output: all tokens so far. pending: a step is under way. over: no output follows.
    aborted: `abort` was called. deliver: receives the outputs.
    """

    def __init__(self, engine: FakeEngine, request: Request, opening: Opening, deliver: Deliver) -> None:
        self.orders: list[tuple[int, ...]] = []
        self.aheads: list[int] = []
        self.output: list[int] = []
        self.pending = self.over = self.aborted = False
        self.deliver = deliver
        self._engine = engine
        self._number = len(engine.generations)
        self._opening = opening
        self._request = request
        self._chat = request.messages is not None
        self._text = Text(opening.stop)
        self._ahead = 0
        self._reason: Literal["stop", "length"] | None = None
        self._callback: asyncio.Handle | None = None

    @property
    def opening(self) -> Opening:
        return self._opening

    def step(self, drafts: Sequence[int], ahead: int = 0) -> None:
        """Take a step; see `Generation.step`."""
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
        """Abort the request; see `Generation.abort`."""
        self.aborted = True
        self._end()

    def go(self) -> None:
        """Take the step under way now. For a test whose engine does not run by itself."""
        if self.over or not self.pending:
            return
        if (output := self._engine.step_output) is not None:
            self._emit(output)
            return
        done = self._take(self.orders[-1])
        self.pending = False
        if self._ahead and not done.ends:
            self._order((), self._ahead - 1)  # before the outputs, as real engines do
        self._emit(done)
        for payload in self._engine.payloads(self, done):
            self._emit(payload)
        if done.ends:
            self._emit(Finished())

    def fail(self, error: ApiError) -> None:
        """End it with an error, as an engine that breaks does."""
        self._emit(Broken(error))

    def payloads(self, _done: StepDone) -> list[Payload]:
        """The payloads of a step, as the OpenAI API has them."""
        ends = self._reason is not None
        if not self._request.stream:
            return [self._payload(*self._text.take(all_=True), self._usage())] if ends else []
        options = self._request.stream_options or StreamOptions()
        nothing = {"usage": None} if options.include_usage else {}
        text, upto = self._text.take(all_=ends)
        payloads = [self._payload(text, upto, nothing)] if text or ends else []
        if ends and options.include_usage:
            body = self._head() | {"choices": []} | self._usage()
            payloads.append(Payload(msgspec.json.encode(body), len(self.output), usage=True))
        return payloads

    def _payload(self, text: str, upto: int, usage: dict[str, Any]) -> Payload:
        content: dict[str, Any] = {"text": text}
        if self._chat:
            content = {"delta" if self._request.stream else "message": {"role": "assistant", "content": text}}
        choice = {"index": 0, "logprobs": None, "finish_reason": self._reason} | content
        body = self._head() | {"choices": [choice]} | usage
        return Payload(msgspec.json.encode(body), upto, usage=usage.get("usage") is not None)

    def _head(self) -> dict[str, Any]:
        kind = "text_completion"
        if self._chat:
            kind = "chat.completion.chunk" if self._request.stream else "chat.completion"
        name = f"{'chatcmpl' if self._chat else 'cmpl'}-{self._number}"
        return {"id": name, "object": kind, "created": 0, "model": self._opening.model}

    def _usage(self) -> dict[str, Any]:
        prompt, output = len(self._opening.prompt_ids), len(self.output)
        counts = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
        return {"usage": counts}

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
            if self._text.push(token) or token in self._opening.eos_ids:
                self._reason = "stop"
            elif len(self.output) == self._opening.max_tokens:
                self._reason = "length"
            if token != draft or self._reason is not None:
                break
        return StepDone(tuple(tokens), len(verified), accepted, 1, 2, ends=self._reason is not None)

    def _emit(self, output: EngineOutput) -> None:
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
    """Implementation of `engine.interface.Engine`.

    Args:
        target: the model.
        eos_ids: tokens that end an answer, unless it ignores them.
        max_running: generations at once. max_queue: calls of `open` that wait for a slot at most.
        payloads: makes the payloads of a step, instead of OpenAI's.

    What a test may set at any time:
        running: False: no step is taken before `FakeGeneration.go`.
        delay_s: how long a step takes.
        per_step: of the drafts of the next steps, only so many are verified.
        drafts_with_prompt: False: the first step of a generation verifies none, as vLLM's does.
        step_output: the output of every step instead of the real one, whether it follows the interface or not.
        refusals: raised by the next calls of `open`.
    """

    def __init__(
        self,
        target: Target,
        *,
        info: ModelInfo = INFO,
        eos_ids: tuple[int, ...] = (EOS,),
        max_running: int = 64,
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
        self.step_output: EngineOutput | None = None
        self.refusals: deque[ApiError] = deque()
        self.generations: list[FakeGeneration] = []
        """All generations that were ever opened."""
        self.queued = self.most_queued = 0
        """Calls of `open` that wait for a slot; the most that ever did."""
        self._free = asyncio.Semaphore(max_running)
        self._max_queue = max_queue
        self._live: set[FakeGeneration] = set()
        self._closed = False

    async def open(self, endpoint: Endpoint, body: bytes, deliver: Deliver) -> FakeGeneration:
        """Open a request; see `Engine.open`."""
        if is_translated(endpoint):
            return await open_translated(self.open, endpoint, body, deliver)
        self._check_open()
        if self.refusals:
            raise self.refusals.popleft()
        request = parse(body)
        opening = self.understand(endpoint, request)
        if self._free.locked() and self.queued >= self._max_queue:
            raise Overloaded(f"{self.queued} requests wait already, which is the limit; try again")
        deliver(Queued(opening))
        self.queued += 1
        self.most_queued = max(self.most_queued, self.queued)
        try:
            await self._free.acquire()
        finally:
            self.queued -= 1
        try:
            self._check_open()
        except ApiError:
            self._free.release()  # the next waiting call finds the engine closed too
            raise
        generation = FakeGeneration(self, request, opening, deliver)
        self.generations.append(generation)
        self._live.add(generation)
        return generation

    async def aclose(self) -> None:
        """Close the engine; see `Engine.aclose`."""
        self._closed = True
        for generation in list(self._live):
            generation.fail(_closed())

    def _check_open(self) -> None:
        if self._closed:
            raise _closed()

    def let_go(self, generation: FakeGeneration) -> None:
        """Release the slot of a generation that is over. For `FakeGeneration`."""
        self._live.discard(generation)
        self._free.release()

    def understand(self, endpoint: Endpoint, request: Request) -> Opening:
        """A checked request as an opening; a text is its characters, a chat its messages' texts, one a line."""
        info = self.info
        if not names_served_model(request.model, info.name):
            raise ModelNotFound(f"the model {request.model!r} does not exist; this is {info.name!r}", param="model")
        param, prompt = "prompt", request.prompt or ""
        if endpoint is Endpoint.CHAT_COMPLETIONS:
            param, prompt = "messages", "\n".join(message.content for message in request.messages or ())
        ids = tuple(map(ord, prompt)) if isinstance(prompt, str) else tuple(prompt)
        if not ids:
            raise InvalidRequest(f"{param} has no tokens", param=param)
        if not 0 <= min(ids) <= max(ids) < info.n_vocab:
            raise InvalidRequest(f"{param} has ids that are not below {info.n_vocab}", param=param)
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
            stop=request.stops,
        )


def _closed() -> ShuttingDown:
    return ShuttingDown("the server is shutting down; try again later")
