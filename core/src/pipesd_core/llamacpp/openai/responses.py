"""The JSON of OpenAI answers: chunks of a stream, and whole responses, of both endpoints.

Counts as vLLM has them: every token the target decided is a completion token, EOS and the tokens of a stop string
included. `accepted_prediction_tokens` and `rejected_prediction_tokens` are about the request parameter `prediction`,
which is not served: 0. Drafts are counted where they are made, by the edge agent, and not here.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any, Literal, Self

import msgspec
from msgspec import Struct

from pipesd_core.protocol.messages import Endpoint

FinishReason = Literal["stop", "length", "tool_calls"]

_encode = msgspec.json.Encoder().encode


class Usage(Struct, frozen=True):
    """Token counts of one answer."""

    prompt_tokens: int
    completion_tokens: int

    def to_json(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "completion_tokens_details": {"accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0},
        }


class CallPiece(Struct, frozen=True):
    """A piece of a call, or all of it. id, name: in the first piece, and in no other."""

    index: int
    id: str | None
    name: str | None
    arguments: str

    def to_json(self) -> dict[str, Any]:
        """The piece as OpenAI writes it, its index left out."""
        if self.name is None:
            return {"function": {"arguments": self.arguments}}
        return {
            "id": self.id,
            "type": "function",
            "function": {"name": self.name, "arguments": self.arguments},
        }


class Writer(Struct, frozen=True):
    """Writes the payloads of one answer: the same id, time and model in each.

    created: Unix time, seconds. include_usage: as in `stream_options`.
    """

    endpoint: Endpoint
    id: str
    created: int
    model: str
    include_usage: bool = False

    @classmethod
    def start(cls, endpoint: Endpoint, model: str, *, include_usage: bool = False) -> Self:
        prefix = "chatcmpl" if endpoint is Endpoint.CHAT_COMPLETIONS else "cmpl"
        return cls(
            endpoint=endpoint,
            id=f"{prefix}-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=model,
            include_usage=include_usage,
        )

    def chunk(
        self,
        text: str,
        calls: Sequence[CallPiece] = (),
        *,
        first: bool,
        finish_reason: FinishReason | None = None,
        logprobs: dict[str, Any] | None = None,
        stop: str | None = None,
    ) -> bytes:
        """One chunk of a stream; the first of a chat names the role, the last has the finish reason.

        stop: the stop string that ends the answer.
        """
        choice: dict[str, Any]
        if self.endpoint is Endpoint.CHAT_COMPLETIONS:
            delta: dict[str, Any] = {"role": "assistant"} if first else {}
            if text or first:
                delta["content"] = text or (None if calls else "")
            if calls:
                delta["tool_calls"] = [{"index": call.index} | call.to_json() for call in calls]
            choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        else:
            choice = {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}
        body = self._head(stream=True) | {"choices": [choice | _stop_reason(stop)]}
        if self.include_usage:
            body["usage"] = None
        return _encode(body)

    def usage_chunk(self, usage: Usage) -> bytes:
        """The last chunk of a stream with `include_usage`: no choices, only the counts."""
        return _encode(self._head(stream=True) | {"choices": [], "usage": usage.to_json()})

    def whole(
        self,
        text: str,
        finish_reason: FinishReason,
        usage: Usage,
        logprobs: dict[str, Any] | None = None,
        calls: Sequence[CallPiece] = (),
        stop: str | None = None,
    ) -> bytes:
        """The whole response of a request that does not stream. stop: see `chunk`."""
        choice: dict[str, Any] = {"index": 0, "logprobs": logprobs, "finish_reason": finish_reason}
        if self.endpoint is Endpoint.CHAT_COMPLETIONS:
            message: dict[str, Any] = {"role": "assistant", "content": text or (None if calls else ""), "refusal": None}
            if calls:
                message["tool_calls"] = [call.to_json() for call in calls]
            choice["message"] = message
        else:
            choice["text"] = text
        choices = [choice | _stop_reason(stop)]
        return _encode(self._head(stream=False) | {"choices": choices, "usage": usage.to_json()})

    def _head(self, *, stream: bool) -> dict[str, Any]:
        kind = "text_completion"
        if self.endpoint is Endpoint.CHAT_COMPLETIONS:
            kind = "chat.completion.chunk" if stream else "chat.completion"
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": None,
        }


def _stop_reason(stop: str | None) -> dict[str, str]:
    """What vLLM calls the stop string that was met."""
    return {} if stop is None else {"stop_reason": stop}
