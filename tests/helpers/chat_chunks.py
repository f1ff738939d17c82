"""Chat answers for tests of what reads them: one answer as a whole, and cut into the chunks of a stream."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import strategies as st
from msgspec import Struct

HEAD: dict[str, Any] = {"id": "chatcmpl-0a1b", "created": 1700000000, "model": "target"}
USAGE: dict[str, Any] = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


class Call(Struct, frozen=True):
    name: str
    arguments: str


class Answer(Struct, frozen=True):
    """What a chat answers: thoughts, then text, then calls."""

    text: str = ""
    calls: tuple[Call, ...] = ()
    thoughts: str = ""
    finish: str = "stop"
    stop: str | None = None

    def whole(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": self.text, "refusal": None}
        if self.calls:
            message["tool_calls"] = [call | {"type": "function"} for call in map(_call, itertools.count(), self.calls)]
        if self.thoughts:
            message["reasoning_content"] = self.thoughts
        choice = {"index": 0, "message": message, "finish_reason": self.finish, "logprobs": None} | self._stop()
        return HEAD | {"object": "chat.completion", "choices": [choice], "usage": USAGE}

    def chunks(self, cut: Cut) -> Iterator[dict[str, Any]]:
        """The chunks of a stream with usage; `cut` cuts its texts."""
        yield _chunk({"role": "assistant", "content": ""})
        for piece in cut(self.thoughts):
            yield _chunk({"reasoning_content": piece})
        for piece in cut(self.text):
            yield _chunk({"content": piece})
        for index, call in enumerate(self.calls):
            head = _call(index, call) | {"index": index, "type": "function"}
            yield _chunk({"tool_calls": [head | {"function": {"name": call.name, "arguments": ""}}]})
            for piece in cut(call.arguments):
                yield _chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
        yield _chunk({}, self.finish, **self._stop())
        yield HEAD | {"object": "chat.completion.chunk", "choices": [], "usage": USAGE}

    def _stop(self) -> dict[str, Any]:
        return {} if self.stop is None else {"stop_reason": self.stop}


class Cut:
    """Cuts texts into pieces of these lengths, again and again."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self._lengths = itertools.cycle(lengths)

    def __call__(self, text: str) -> Iterator[str]:
        while text:
            length = next(self._lengths)
            yield text[:length]
            text = text[length:]


cuts = st.lists(st.integers(1, 9), min_size=1, max_size=5).map(Cut)
_texts = st.text(max_size=20)
_calls = st.builds(Call, st.sampled_from(("look", "go")), st.sampled_from(('{"a":1}', "{}", '{"b":"é\\"}"}')))
answers = st.builds(
    Answer,
    _texts,
    st.lists(_calls, max_size=3).map(tuple),
    _texts,
    st.sampled_from(("stop", "length")),
)


def _call(index: int, call: Call) -> dict[str, Any]:
    return {"id": f"call_{index}", "function": {"name": call.name, "arguments": call.arguments}}


def _chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish} | more
    return HEAD | {"object": "chat.completion.chunk", "choices": [choice], "usage": None}
