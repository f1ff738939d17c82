"""One request in the embedded engine: what the decoder's steps are to the client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from pipesd_gateway.embedded.payloads import FinishReason, Usage, Writer
from pipesd_gateway.embedded.prompt import Model
from pipesd_gateway.embedded.request import Request
from pipesd_gateway.embedded.text import Text
from pipesd_gateway.engine import Broken, Deliver, EngineOutput, Finished, Opening, Payload, StepDone
from pipesd_gateway.exceptions import ApiError


class Place(Protocol):
    """What is needed of `embedded.decoder.Sequence`: one sequence of the decoder, held for one request."""

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
        self._tokens = 0
        self._first = True
        self._place: Place | None = None
        self._ahead = 0
        self._over = False

    @property
    def opening(self) -> Opening:
        return self._opening

    def start(self, place: Place) -> None:
        self._place = place

    def step(self, drafts: Sequence[int], ahead: int = 0) -> None:
        if self._over or self._place is None:
            raise RuntimeError("step() of a generation that is over")
        self._ahead = ahead
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
        if self._ahead and reason is None and self._place is not None:
            self._ahead -= 1
            self._place.step(())  # before the outputs are told: whoever gets them may do things that last
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
