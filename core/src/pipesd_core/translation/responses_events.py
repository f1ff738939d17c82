"""The answers of OpenAI's Responses API: events and whole responses, from the payloads of a chat."""

from __future__ import annotations

from typing import Any, Final, Literal

Kind = Literal["message", "reasoning", "function_call"]

_ECHOED: Final[dict[str, Any]] = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "store": False,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
"""What a response repeats of its request, with the values of a request that does not say."""
_TOOL: Final = {"description": None, "parameters": None, "strict": None}


class _Item:
    """An output item while it is written."""

    def __init__(self, kind: Kind, item_id: str, index: int, call: dict[str, Any] | None = None) -> None:
        self.kind = kind
        self.id = item_id
        self.index = index
        self.text = ""
        """The content so far; of a call, its arguments."""
        self.logprobs: list[Any] = []
        self._call = call or {}

    def add_logprobs(self, logprobs: list[Any]) -> None:
        self.logprobs += logprobs

    def part(self, *, empty: bool = False) -> dict[str, Any]:
        """Its content."""
        text = "" if empty else self.text
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": [] if empty else self.logprobs}

    def done(self, status: str, *, empty: bool = False) -> dict[str, Any]:
        """The item as it is now."""
        head = {"id": self.id, "type": self.kind, "status": status}
        if self.kind == "function_call":
            return head | self._call | {"arguments": "" if empty else self.text}
        content = [] if empty else [self.part()]
        if self.kind == "reasoning":
            return head | {"summary": [], "content": content}
        return head | {"role": "assistant", "content": content}


class ResponsesAnswer:
    """Implementation of `translation.AnswerTranslator` for `/v1/responses`.

    Args:
        request: the body of the request, without its nulls.
    """

    def __init__(self, request: dict[str, Any]) -> None:
        self._request = request
        self._head: dict[str, Any] = {}
        self._key = ""
        self._number = 0
        self._output: list[dict[str, Any]] = []
        self._item: _Item | None = None
        self._call: int | None = None
        """The chat's index of the call that is being written."""
        self._logprobs: list[Any] = []
        """The logprobs of tokens whose text has not come yet."""
        self._finish: str | None = None

    def take(self, chat: dict[str, Any]) -> list[dict[str, Any]]:
        """See `AnswerTranslator.take`."""
        if chat["object"] == "chat.completion":
            return [self._whole(chat)]
        events: list[dict[str, Any]] = []
        if not self._head:
            self._begin(chat)
            events += [
                self._event("response.created", response=self._response("in_progress", [], None)),
                self._event("response.in_progress", response=self._response("in_progress", [], None)),
            ]
        for choice in chat["choices"]:
            events += self._take_delta(choice)
        if chat.get("usage") is not None:
            events += self._end(chat["usage"])
        return events

    def _whole(self, chat: dict[str, Any]) -> dict[str, Any]:
        self._begin(chat)
        (choice,) = chat["choices"]
        message = choice["message"]
        calls = message.get("tool_calls") or []
        delta = message | {"tool_calls": [call | {"index": index} for index, call in enumerate(calls)]}
        self._take_delta(choice | {"delta": delta})
        response: dict[str, Any] = self._end(chat["usage"])[-1]["response"]
        return response

    def _begin(self, chat: dict[str, Any]) -> None:
        key = str(chat["id"]).rpartition("-")[2]
        self._head = {"id": f"resp_{key}", "object": "response", "created_at": chat["created"], "model": chat["model"]}
        self._key = key

    def _take_delta(self, choice: dict[str, Any]) -> list[dict[str, Any]]:
        delta = choice["delta"]
        events: list[dict[str, Any]] = []
        thoughts = delta.get("reasoning_content") or delta.get("reasoning")
        self._logprobs += (choice.get("logprobs") or {}).get("content") or []
        if thoughts:
            events += self._write("reasoning", thoughts)
        if delta.get("content"):
            events += self._write("message", delta["content"])
        for call in delta.get("tool_calls") or ():
            events += self._write_call(call)
        self._finish = choice.get("finish_reason") or self._finish
        return events

    def _write(self, kind: Kind, text: str) -> list[dict[str, Any]]:
        events = self._open(kind)
        item = self._item
        assert item is not None
        item.text += text
        place = {"item_id": item.id, "output_index": item.index, "content_index": 0, "delta": text}
        if kind == "reasoning":
            return [*events, self._event("response.reasoning_text.delta", **place)]
        logprobs, self._logprobs = self._logprobs, []
        item.add_logprobs(logprobs)
        return [*events, self._event("response.output_text.delta", **place, logprobs=logprobs)]

    def _write_call(self, call: dict[str, Any]) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        function = call.get("function") or {}
        if self._item is None or self._item.kind != "function_call" or self._call != call["index"]:
            self._call = call["index"]
            head = {"call_id": call["id"], "name": function["name"]}
            events += self._open("function_call", head)
        item = self._item
        assert item is not None
        if arguments := function.get("arguments"):
            item.text += arguments
            place = {"item_id": item.id, "output_index": item.index}
            events.append(self._event("response.function_call_arguments.delta", **place, delta=arguments))
        return events

    def _open(self, kind: Kind, call: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Events that begin an item, unless one of this kind goes on."""
        if self._item is not None and self._item.kind == kind and call is None:
            return []
        events = self._close("completed")
        index = len(self._output)
        prefix = {"message": "msg", "reasoning": "rs", "function_call": "fc"}[kind]
        item = self._item = _Item(kind, f"{prefix}_{self._key}{index}", index, call)
        added = item.done("in_progress", empty=True)
        events.append(self._event("response.output_item.added", output_index=index, item=added))
        if kind != "function_call":
            place = {"item_id": item.id, "output_index": index, "content_index": 0}
            events.append(self._event("response.content_part.added", **place, part=item.part(empty=True)))
        return events

    def _close(self, status: str) -> list[dict[str, Any]]:
        """Events that end the item that is being written."""
        item, self._item = self._item, None
        if item is None:
            return []
        place: dict[str, Any] = {"item_id": item.id, "output_index": item.index}
        done = item.done(status)
        self._output.append(done)
        events: list[dict[str, Any]] = []
        if item.kind == "function_call":
            events.append(self._event("response.function_call_arguments.done", **place, arguments=item.text))
        else:
            place["content_index"] = 0
            if item.kind == "reasoning":
                events.append(self._event("response.reasoning_text.done", **place, text=item.text))
            else:
                text = {"text": item.text, "logprobs": item.logprobs}
                events.append(self._event("response.output_text.done", **place, **text))
            events.append(self._event("response.content_part.done", **place, part=item.part()))
        events.append(self._event("response.output_item.done", output_index=item.index, item=done))
        return events

    def _end(self, usage: dict[str, Any]) -> list[dict[str, Any]]:
        cut = self._finish == "length"
        status = "incomplete" if cut else "completed"
        events: list[dict[str, Any]] = []
        if self._item is None and not self._output:  # a message without text is an answer too
            events += self._open("message")
        if self._item is not None and self._item.kind == "message":
            self._item.add_logprobs(self._logprobs)
        events += self._close(status)
        response = self._response(status, self._output, _usage(usage))
        if cut:
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        events.append(self._event(f"response.{status}", response=response))
        return events

    def _response(self, status: str, output: list[dict[str, Any]], usage: dict[str, Any] | None) -> dict[str, Any]:
        echo = {name: self._request.get(name, value) for name, value in _ECHOED.items()}
        echo["tools"] = [_TOOL | tool for tool in self._request.get("tools", [])]
        outcome = {"status": status, "error": None, "incomplete_details": None, "output": list(output), "usage": usage}
        return self._head | outcome | echo

    def _event(self, kind: str, **content: Any) -> dict[str, Any]:
        number, self._number = self._number, self._number + 1
        return {"type": kind, "sequence_number": number, **content}


def _usage(chat: dict[str, Any]) -> dict[str, Any]:
    cached = (chat.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    thought = (chat.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    return {
        "input_tokens": chat["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": chat["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": thought},
        "total_tokens": chat["total_tokens"],
    }
