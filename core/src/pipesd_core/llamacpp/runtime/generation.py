"""One request in the embedded engine: turns the decoder's steps into outputs for the session and its client."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from pipesd_core.engine.interface import Broken, Deliver, EngineOutput, Finished, Opening, Payload, StepDone, Working
from pipesd_core.errors import ApiError, EngineFailed
from pipesd_core.llamacpp.openai.prompt import Model
from pipesd_core.llamacpp.openai.request import Request
from pipesd_core.llamacpp.openai.responses import CallPiece, FinishReason, Usage, Writer
from pipesd_core.llamacpp.openai.tool_calls import CallDelta, CallParser, CallRules, call_id
from pipesd_core.llamacpp.runtime.detokenizer import Detokenizer
from pipesd_core.llamacpp.runtime.logprobs import Decoded, Logprobs

log = logging.getLogger(__name__)


class SequenceHandle(Protocol):
    """The part of `decoder.DecoderSequence` that this module needs: one slot of the decoder, held for one request."""

    def step(self, drafts: Sequence[int]) -> None: ...
    def release(self) -> None: ...


class EmbeddedGeneration:
    """Implementation of `engine.interface.Generation`. Everything happens on the event loop's thread."""

    def __init__(
        self,
        request: Request,
        opening: Opening,
        model: Model,
        deliver: Deliver,
        on_over: Callable[[EmbeddedGeneration], None],
        rules: CallRules,
    ) -> None:
        self._opening = opening
        self._eos = frozenset(opening.eos_ids)
        self._deliver = deliver
        self._on_over = on_over
        self._stream = request.stream
        self._writer = Writer.start(request.endpoint, opening.model, include_usage=request.include_usage)
        self._text = Detokenizer(lambda token: model.piece(token, special=token in rules.markers), opening.stop)
        self._parser = CallParser(rules)
        self._logprobs: Logprobs | None = None
        if request.logits_processing.logprobs is not None:
            self._logprobs = Logprobs(request.endpoint, lambda token: model.piece(token, special=True))
        self._tokens = 0
        self._logprobs_upto = 0
        self._first = True
        self._sequence: SequenceHandle | None = None
        self._ahead = 0
        self._ended = False
        """The answer is complete, even if not all of it is delivered yet."""
        self._over = False

    @property
    def opening(self) -> Opening:
        return self._opening

    @property
    def over(self) -> bool:
        return self._over

    def begin_with(self, tokens: tuple[int, ...]) -> None:
        """Begin the answer with tokens that another model chose, before `start`. They may end it."""
        kept, reason = self._push(Decoded(tokens, 0, 0, 0, 0))
        self._tokens += kept
        if self._stream:
            self._emit_chunk(reason)
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
        """Take the result of a step: the decoder's callback."""
        if self._over:
            return
        if isinstance(done, ApiError):
            self.fail(done)
            return
        try:
            self._take(done)
        except Exception:  # a bug: nobody would order another step, and the request would hang
            log.exception("the result of a step could not be used")
            self.fail(EngineFailed("internal error; see the server's log"))

    def _take(self, done: Decoded) -> None:
        kept, reason = self._push(done)
        self._tokens += kept
        self._ended = reason is not None
        if self._ahead and reason is None and self._sequence is not None:
            self._ahead -= 1
            self._sequence.step(())  # before the outputs: whoever gets them may take long
        self._emit(
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
            self._emit_chunk(reason)
        if reason is not None:
            self._end(reason)

    def on_working(self) -> None:
        """Pass on that the step under way is still to come: the decoder's callback."""
        self._emit(Working())

    def _push(self, done: Decoded) -> tuple[int, FinishReason | None]:
        """Count the step's tokens that belong to the answer; also the finish reason if the answer ends with them."""
        reason: FinishReason | None = None
        for kept, token in enumerate(done.tokens, 1):
            if self._logprobs is not None:
                self._logprobs.push(done.ranked[kept - 1], self._text.chars)
            if token in self._eos or self._text.push(token) or self._parser.push(self._text.take()):
                reason = "stop"
            elif self._tokens + kept == self._opening.max_tokens:
                reason = "length"
            if reason is not None:
                self._text.finish()
                self._parser.push(self._text.take())
                self._parser.finish()
                return kept, "tool_calls" if reason == "stop" and self._parser.called else reason
        return len(done.tokens), None

    def _emit_chunk(self, reason: FinishReason | None) -> None:
        delta = self._parser.take()
        if delta.content or delta.calls or reason is not None:
            upto = self._tokens if reason is not None else self._text.covered(self._parser.held)
            logprobs = self._take_logprobs(upto)
            calls = [self._piece(call) for call in delta.calls]
            chunk = self._writer.chunk(
                delta.content,
                calls,
                first=self._first,
                finish_reason=reason,
                logprobs=logprobs,
                stop=self._text.met,
            )
            self._first = False
            self._emit(Payload(chunk, upto))

    def _piece(self, call: CallDelta) -> CallPiece:
        opening = self._opening
        name = None if call.name is None else call_id(opening.prompt_ids, opening.params.seed, call.index)
        return CallPiece(call.index, name, call.name, call.arguments)

    def _take_logprobs(self, upto: int) -> dict[str, Any] | None:
        """The logprobs of the tokens up to number `upto` that were not taken yet."""
        count, self._logprobs_upto = upto - self._logprobs_upto, upto
        return None if self._logprobs is None else self._logprobs.take(count)

    def _end(self, reason: FinishReason) -> None:
        usage = Usage(len(self._opening.prompt_ids), self._tokens)
        if not self._stream:
            delta = self._parser.take()
            calls = [self._piece(call) for call in delta.calls]
            logprobs = self._take_logprobs(self._tokens)
            whole = self._writer.whole(delta.content, reason, usage, logprobs, calls, self._text.met)
            self._emit(Payload(whole, self._tokens, usage=True))
        elif self._writer.include_usage:
            self._emit(Payload(self._writer.usage_chunk(usage), self._tokens, usage=True))
        if not self._over:
            self.abort()
            self._deliver(Finished())

    def _emit(self, output: EngineOutput) -> None:
        if not self._over:  # whoever gets the outputs may abort while it does
            self._deliver(output)
