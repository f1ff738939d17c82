"""One request in the embedded engine: what the decoder's steps are to the client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from pipesd_core.engine.interface import Broken, Deliver, EngineOutput, Finished, Opening, Payload, StepDone
from pipesd_core.errors import ApiError
from pipesd_core.llamacpp.openai.prompt import Model
from pipesd_core.llamacpp.openai.request import Request
from pipesd_core.llamacpp.openai.responses import FinishReason, Usage, Writer
from pipesd_core.llamacpp.runtime.detokenizer import Text
from pipesd_core.llamacpp.runtime.logprobs import Decoded, Logprobs


class SequenceHandle(Protocol):
    """What is needed of `decoder.Sequence`: one sequence of the decoder, held for one request."""

    def step(self, drafts: Sequence[int]) -> None: ...
    def release(self) -> None: ...


class EmbeddedGeneration:
    """See `engine.Generation`. Everything happens on the event loop's thread."""

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
        self._logprobs: Logprobs | None = None
        if request.logits_processing.logprobs is not None:
            self._logprobs = Logprobs(request.endpoint, lambda token: model.piece(token, special=True))
        self._tokens = 0
        self._told = 0
        self._first = True
        self._sequence: SequenceHandle | None = None
        self._ahead = 0
        self._ended = False
        """The answer is complete, even if not all of it is told yet."""
        self._over = False

    @property
    def opening(self) -> Opening:
        return self._opening

    @property
    def over(self) -> bool:
        return self._over

    def follow(self, tokens: tuple[int, ...]) -> None:
        """Before `start`: the answer begins with these tokens, which another model chose. They may end it."""
        kept, reason = self._push(Decoded(tokens, 0, 0, 0, 0))
        self._tokens += kept
        if self._stream:
            self._say_chunk(reason)
        if reason is not None:
            self._end(reason)

    def start(self, sequence: SequenceHandle) -> None:
        self._sequence = sequence

    def step(self, drafts: Sequence[int], ahead: int = 0) -> None:
        if self._over or self._ended or self._sequence is None:
            raise RuntimeError("step() of a generation that is over")
        self._sequence.step(drafts)
        self._ahead = ahead  # now: a step that is refused leaves the one under way as it is

    def abort(self) -> None:
        if not self._over:
            self._over = True
            if self._sequence is not None:
                self._sequence.release()
            self._on_over(self)

    def fail(self, error: ApiError) -> None:
        """End the request with an error."""
        if not self._over:
            self.abort()
            self._deliver(Broken(error))

    def on_step(self, done: Decoded | ApiError) -> None:
        """The decoder's callback."""
        if self._over:
            return
        if isinstance(done, ApiError):
            self.fail(done)
            return
        kept, reason = self._push(done)
        self._tokens += kept
        self._ended = reason is not None
        if self._ahead and reason is None and self._sequence is not None:
            self._ahead -= 1
            self._sequence.step(())  # before the outputs are told: whoever gets them may do things that last
        self._say(
            StepDone(
                tokens=done.tokens[:kept],
                verified=done.verified,
                accepted=min(done.accepted, kept),
                queue_us=done.queue_us,
                forward_us=done.forward_us,
                ends=reason is not None,
            )
        )
        if self._stream:
            self._say_chunk(reason)
        if reason is not None:
            self._end(reason)

    def _push(self, done: Decoded) -> tuple[int, FinishReason | None]:
        """How many of the step's tokens belong to the answer, and why it ends with the last of them, if it does."""
        reason: FinishReason | None = None
        for kept, token in enumerate(done.tokens, 1):
            if self._logprobs is not None:
                self._logprobs.push(done.ranked[kept - 1], self._text.chars)
            if token in self._eos or self._text.push(token):
                reason = "stop"
            elif self._tokens + kept == self._opening.max_tokens:
                reason = "length"
            if reason is not None:
                return kept, reason
        return len(done.tokens), None

    def _say_chunk(self, reason: FinishReason | None) -> None:
        if reason is not None:
            self._text.finish()
        text = self._text.take()
        if text or reason is not None:
            upto = self._tokens if reason is not None else self._text.covered
            logprobs = self._take_logprobs(upto)
            chunk = self._writer.chunk(text, first=self._first, finish_reason=reason, logprobs=logprobs)
            self._first = False
            self._say(Payload(chunk, upto))

    def _take_logprobs(self, upto: int) -> dict[str, Any] | None:
        """Of the tokens up to this one that were not told yet."""
        count, self._told = upto - self._told, upto
        return None if self._logprobs is None else self._logprobs.take(count)

    def _end(self, reason: FinishReason) -> None:
        usage = Usage(len(self._opening.prompt_ids), self._tokens)
        if not self._stream:
            self._text.finish()
            whole = self._writer.whole(self._text.take(), reason, usage, self._take_logprobs(self._tokens))
            self._say(Payload(whole, self._tokens, usage=True))
        elif self._writer.include_usage:
            self._say(Payload(self._writer.usage_chunk(usage), self._tokens, usage=True))
        if not self._over:
            self.abort()
            self._deliver(Finished())

    def _say(self, output: EngineOutput) -> None:
        if not self._over:  # whoever gets the outputs may abort while it does
            self._deliver(output)
