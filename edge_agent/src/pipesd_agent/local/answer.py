"""An answer of the draft model to a client: labelled, and spliced onto what the target wrote before, if it did."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from pipesd_agent.session.counts import Counts
from pipesd_agent.session.splice import CannotSplice, Splice
from pipesd_agent.session.usage import usage_payload
from pipesd_core.engine.autoregressive import TargetOnlyGeneration
from pipesd_core.engine.choices import MultiChoiceGeneration
from pipesd_core.engine.interface import Opening, Payload
from pipesd_core.errors import Unavailable

MODE = {"x-pipesd-mode": "edge"}
"""The header of every answer that this model had a part in, unless the headers were out already."""


class EdgeAnswer:
    """Whoever has one calls `finish` in the end, whatever happened.

    Args:
        give_back: called once, by `finish`.
        reason: why the target does not answer, for errors and the record.
        from_token: output tokens that the target decided.
        splice: of what the client has of the target's text; counts: of the target's session.
    """

    def __init__(
        self,
        answer: TargetOnlyGeneration | MultiChoiceGeneration,
        opening: Opening,
        model: str,
        give_back: Callable[[], None],
        *,
        reason: str,
        from_token: int = 0,
        splice: Splice | None = None,
        counts: Counts | None = None,
    ) -> None:
        self.headers = {"x-pipesd-seed": str(opening.params.seed), **MODE}
        self.label: dict[str, Any] = {"mode": "edge", "model": model, "from_token": from_token}
        self.reason = reason
        self.prompt_tokens = len(opening.prompt_ids)
        self._answer = answer
        self._give_back = give_back
        self._splice = splice
        self._counts = counts
        self._upto = {0: from_token}
        self._started = time.monotonic()
        self._finished = False

    @property
    def output_tokens(self) -> int:
        """So far, the target's included."""
        return sum(self._upto.values())

    async def next(self) -> bytes | None:
        """The next payload for the client; None: complete. Raises ApiError."""
        while (payload := await self._answer.next()) is not None:
            data = self._shown(payload)
            if data is not None:
                return data
        return None

    def taken(self) -> None:
        """As of the other answers: here `next` is what asks for more."""

    def finish(self) -> None:
        """The client has its answer, or is gone. Harmless when repeated."""
        if not self._finished:
            self._finished = True
            self._answer.abort()
            self._give_back()

    def record(self) -> dict[str, Any]:
        """What `/v1/pipesd/requests/ID` says of it."""
        return {
            "seconds": round(time.monotonic() - self._started, 4),
            "prompt_tokens": self.prompt_tokens,
            "output_tokens": self.output_tokens,
            "pipesd": self.label | {"reason": self.reason},
        }

    def _shown(self, payload: Payload) -> bytes | None:
        data: bytes | None = payload.data
        if payload.usage and self._counts is not None:
            data = usage_payload(payload.data, self._counts)
        if self._splice is not None:
            try:
                data = self._splice.take(data or b"")
            except CannotSplice as why:
                raise Unavailable(f"{self.reason}; the draft model cannot go on with the answer: {why}") from why
        if data is None:
            return None
        said = msgspec.json.decode(data)
        self._count(said, payload.upto)
        if not any(choice["finish_reason"] is not None for choice in said["choices"]):
            return data
        return msgspec.json.encode(said | {"pipesd": self.label})

    def _count(self, said: dict[str, Any], upto: int) -> None:
        usage = said.get("usage")
        if usage is not None:
            self.prompt_tokens = usage["prompt_tokens"]
            self._upto = {0: usage["completion_tokens"]}
        else:
            for choice in said["choices"]:
                self._upto[choice["index"]] = upto
