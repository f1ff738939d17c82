"""Answers made of payloads, and the draft model's: labelled, and spliced onto what the target wrote, if it did."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any, Final

import msgspec

from pipesd_agent.session.cannot_splice import CannotSplice
from pipesd_agent.session.counts import Counts
from pipesd_agent.session.splice import Splice
from pipesd_agent.session.usage import usage_payload
from pipesd_core import answer_format, sse
from pipesd_core.engine.autoregressive import TargetOnlyGeneration
from pipesd_core.engine.choices import MultiChoiceGeneration
from pipesd_core.engine.interface import Opening, Payload
from pipesd_core.errors import Unavailable
from pipesd_core.openai_body import wants_stream
from pipesd_core.protocol.messages import Endpoint

MODE_HEADER: Final = {"x-pipesd-mode": "edge"}
"""The header of every answer that the draft model had a part in, unless the headers were out already."""


class PayloadAnswer(ABC):
    """An `Answer` from payloads: each is a whole body, or the data of one event where the request asks for a stream."""

    status = 200

    def __init__(self, endpoint: Endpoint, body: bytes) -> None:
        self._endpoint = endpoint
        self._body = body
        self._finished = False
        self._callbacks: list[Callable[[], None]] = []

    @cached_property
    def streams(self) -> bool:
        """See `Answer.streams`."""
        return wants_stream(self._body)

    def add_finish_callback(self, callback: Callable[[], None]) -> None:
        """Have `callback` called once, when the client has its answer or is gone."""
        self._callbacks.append(callback)

    async def next(self) -> bytes | None:
        """See `Answer.next`."""
        if self._finished:
            return None
        payload = await self.next_payload()
        if not self.streams:
            return None if payload is None else sse.escaped(payload)
        if payload is not None and not answer_format.is_last(self._endpoint, payload):
            return answer_format.event(self._endpoint, payload)
        if answer_format.has_named_events(self._endpoint) and (
            payload is None or await self.next_payload() is not None  # after the last event comes the end
        ):
            raise Unavailable("the gateway's answer has no end; try again")
        self.finish()  # before the last event: whoever has seen that may ask for the record
        return answer_format.DONE if payload is None else answer_format.event(self._endpoint, payload)

    @property
    @abstractmethod
    def output_tokens(self) -> int:
        """See `Answer.output_tokens`."""

    @abstractmethod
    async def next_payload(self) -> bytes | None:
        """The next payload for the client, who has taken all before it; None: complete. Raises ApiError."""

    def finish(self) -> None:
        """Free what the answer holds: the client has it, or is gone. Harmless when repeated."""
        if not self._finished:
            self._finished = True
            for callback in self._callbacks:
                callback()

    async def aclose(self) -> None:
        """See `Answer.aclose`."""
        self.finish()


class LocalAnswer(PayloadAnswer):
    """The draft model's answer, or the rest of one.

    Args:
        body: of the request.
        release: called once, by `finish`: the model is not needed for this answer any more.
        reason: why the target does not answer, for errors and the record.
        from_token: output tokens that the target decided.
        splice: of what the client has of the target's text; counts: of the target's session.
    """

    def __init__(
        self,
        answer: TargetOnlyGeneration | MultiChoiceGeneration,
        opening: Opening,
        model: str,
        endpoint: Endpoint,
        body: bytes,
        release: Callable[[], None],
        *,
        reason: str,
        from_token: int = 0,
        splice: Splice | None = None,
        counts: Counts | None = None,
    ) -> None:
        super().__init__(endpoint, body)
        self.headers = {"x-pipesd-seed": str(opening.params.seed), **MODE_HEADER}
        self.label: dict[str, Any] = {"mode": "edge", "model": model, "from_token": from_token}
        self.reason = reason
        self.prompt_tokens = len(opening.prompt_ids)
        self._answer = answer
        self._splice = splice
        self._counts = counts
        self._tokens_by_choice = {0: from_token}
        self._started = time.monotonic()
        self.add_finish_callback(answer.abort)
        self.add_finish_callback(release)

    @property
    def output_tokens(self) -> int:
        """Output tokens so far, the target's included."""
        return sum(self._tokens_by_choice.values())

    async def next_payload(self) -> bytes | None:
        """See `PayloadAnswer.next_payload`."""
        while (payload := await self._answer.next()) is not None:
            data = self._labelled(payload)
            if data is not None:
                return data
        return None

    def taken(self) -> None:
        """Do nothing: `next` is what asks the draft model for more."""

    def record(self) -> dict[str, Any]:
        """The figures of this answer for `/v1/pipesd/requests/ID`."""
        return {
            "seconds": round(time.monotonic() - self._started, 4),
            "prompt_tokens": self.prompt_tokens,
            "output_tokens": self.output_tokens,
            "pipesd": self.label | {"reason": self.reason},
        }

    def _labelled(self, payload: Payload) -> bytes | None:
        """A payload as the client gets it; None: nothing of it is new to the client."""
        data: bytes | None = payload.data
        if payload.usage and self._counts is not None:
            data = usage_payload(payload.data, self._counts)
        if self._splice is not None:
            try:
                data = self._splice.take(data or b"")
            except CannotSplice as error:
                raise Unavailable(f"{self.reason}; the draft model cannot go on with the answer: {error}") from error
        if data is None:
            return None
        decoded = msgspec.json.decode(data)
        self._count(decoded, payload)
        if not (self._finishes(decoded) or (payload.usage and "choices" not in decoded)):
            return data
        answer_format.body_in(decoded)["pipesd"] = self.label
        return msgspec.json.encode(decoded)

    @staticmethod
    def _finishes(decoded: dict[str, Any]) -> bool:
        """Whether a payload of a chat or of a text completion has a finish reason."""
        return any(choice["finish_reason"] is not None for choice in decoded.get("choices", ()))

    def _count(self, decoded: dict[str, Any], payload: Payload) -> None:
        usage = answer_format.usage_in(decoded)
        if usage is not None:
            self.prompt_tokens, output = answer_format.counts_of(usage)
            self._tokens_by_choice = {0: output}
        else:
            for choice in decoded.get("choices", ({"index": 0},)):
                self._tokens_by_choice[choice["index"]] = payload.upto
