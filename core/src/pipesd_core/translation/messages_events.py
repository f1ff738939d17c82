"""The answers of Anthropic's Messages API: events and whole messages, from the payloads of a chat."""

from __future__ import annotations

from typing import Any, Final

import msgspec

_DELTAS: Final = {"text": ("text_delta", "text"), "thinking": ("thinking_delta", "thinking")}
"""By type of a block: type of its deltas, and their key."""


class MessagesAnswer:
    """Implementation of `translation.AnswerTranslator` for `/v1/messages`.

    Args:
        prompt_tokens: of the prompt, which the first event tells.
    """

    def __init__(self, prompt_tokens: int) -> None:
        self._prompt_tokens = prompt_tokens
        self._begun = False
        self._blocks = 0
        self._block: str | None = None
        """Type of the block that is being written."""
        self._call: int | None = None
        """The chat's index of the call that is being written."""
        self._called = False
        self._finish: str | None = None
        self._stop: str | None = None

    def take(self, chat: dict[str, Any]) -> list[dict[str, Any]]:
        """See `AnswerTranslator.take`."""
        if chat["object"] == "chat.completion":
            return [self._whole(chat)]
        events: list[dict[str, Any]] = []
        if not self._begun:
            self._begun = True
            usage = {"input_tokens": self._prompt_tokens, "output_tokens": 0}
            events.append({"type": "message_start", "message": _message(chat, [], usage)})
        for choice in chat["choices"]:
            events += self._take_delta(choice)
        if chat.get("usage") is not None:
            events += self._end(chat["usage"])
        return events

    def _whole(self, chat: dict[str, Any]) -> dict[str, Any]:
        (choice,) = chat["choices"]
        message = choice["message"]
        content: list[dict[str, Any]] = []
        if thoughts := message.get("reasoning_content") or message.get("reasoning"):
            content.append({"type": "thinking", "thinking": thoughts, "signature": ""})
        if message.get("content"):
            content.append(_text(message["content"]))
        for call in message.get("tool_calls") or ():
            self._called = True
            function = call["function"]
            block = {"type": "tool_use", "id": call["id"], "name": function["name"]}
            content.append(block | {"input": _arguments(function["arguments"])})
        self._note_end(choice)
        return _message(chat, content or [_text("")], _usage(chat["usage"])) | self._reason()

    def _take_delta(self, choice: dict[str, Any]) -> list[dict[str, Any]]:
        delta = choice["delta"]
        events: list[dict[str, Any]] = []
        if thoughts := delta.get("reasoning_content") or delta.get("reasoning"):
            events += self._write("thinking", thoughts)
        if delta.get("content"):
            events += self._write("text", delta["content"])
        for call in delta.get("tool_calls") or ():
            events += self._write_call(call)
        self._note_end(choice)
        return events

    def _note_end(self, choice: dict[str, Any]) -> None:
        self._finish = choice.get("finish_reason") or self._finish
        if isinstance(stop := choice.get("stop_reason"), str):
            self._stop = stop

    def _write(self, kind: str, text: str) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        if self._block != kind:
            block = _text("") if kind == "text" else {"type": "thinking", "thinking": "", "signature": ""}
            events += self._open(kind, block)
        delta, key = _DELTAS[kind]
        return [*events, self._delta({"type": delta, key: text})]

    def _write_call(self, call: dict[str, Any]) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        function = call.get("function") or {}
        if self._block != "tool_use" or self._call != call["index"]:
            self._call, self._called = call["index"], True
            block = {"type": "tool_use", "id": call["id"], "name": function["name"], "input": {}}
            events += self._open("tool_use", block)
        if arguments := function.get("arguments"):
            events.append(self._delta({"type": "input_json_delta", "partial_json": arguments}))
        return events

    def _open(self, kind: str, block: dict[str, Any]) -> list[dict[str, Any]]:
        events = self._close()
        self._block = kind
        return [*events, {"type": "content_block_start", "index": self._blocks, "content_block": block}]

    def _close(self) -> list[dict[str, Any]]:
        if self._block is None:
            return []
        self._block = None
        self._blocks += 1
        return [{"type": "content_block_stop", "index": self._blocks - 1}]

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": self._blocks, "delta": delta}

    def _end(self, usage: dict[str, Any]) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        if self._block is None and not self._blocks:  # clients expect a first block
            events += self._open("text", _text(""))
        events += self._close()
        events.append({"type": "message_delta", "delta": self._reason(), "usage": _usage(usage)})
        return [*events, {"type": "message_stop"}]

    def _reason(self) -> dict[str, Any]:
        """`stop_reason` and `stop_sequence`."""
        if self._finish == "length":
            return {"stop_reason": "max_tokens", "stop_sequence": None}
        if self._stop is not None:
            return {"stop_reason": "stop_sequence", "stop_sequence": self._stop}
        return {"stop_reason": "tool_use" if self._called else "end_turn", "stop_sequence": None}


def _message(chat: dict[str, Any], content: list[dict[str, Any]], usage: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"msg_{str(chat['id']).rpartition('-')[2]}",
        "type": "message",
        "role": "assistant",
        "model": chat["model"],
        "content": content,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _arguments(text: str) -> Any:
    """The arguments of a call. Those of an answer that was cut off may be no JSON: none, then."""
    try:
        return msgspec.json.decode(text or "{}")
    except msgspec.DecodeError:
        return {}


def _usage(chat: dict[str, Any]) -> dict[str, Any]:
    return {"input_tokens": chat["prompt_tokens"], "output_tokens": chat["completion_tokens"]}
