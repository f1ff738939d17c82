"""Whole answers for comparison: every choice with its text, reason and logprobs, the same from a stream as in one."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import httpx
from event_stream import data_of
from harness import MODEL


@dataclass
class Choice:
    """logprobs: as in the API, the parts of a stream joined; None when there were none."""

    text: str = ""
    reason: str | None = None
    logprobs: dict[str, list[Any]] | None = None


@dataclass
class Answer:
    choices: dict[int, Choice] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return self.choices[0].text

    @property
    def tokens(self) -> int:
        tokens: int = self.usage["completion_tokens"]
        return tokens

    @property
    def accepted(self) -> int:
        """Drafts that the target accepted; 0 where the answer says nothing of drafts."""
        accepted: int = self.usage.get("pipesd", {}).get("accepted", 0)
        return accepted

    def add(self, payload: dict[str, Any]) -> None:
        """A chunk of a stream, or a whole answer."""
        assert "error" not in payload, payload
        self.usage = payload.get("usage") or self.usage
        for part in payload["choices"]:
            choice = self.choices.setdefault(part["index"], Choice())
            said = part.get("delta") or part.get("message") or {"content": part.get("text")}
            choice.text += said.get("content") or ""
            assert choice.reason is None, "a choice goes on after its end"
            choice.reason = part["finish_reason"]
            if part["logprobs"] is not None:
                joined = choice.logprobs = choice.logprobs or {}
                for name, values in part["logprobs"].items():
                    if values is not None:
                        joined[name] = joined.get(name, []) + values


def ask(
    url: str, *, stream: bool, headers: dict[str, str] | None = None, client: httpx.Client | None = None, **body: Any
) -> Answer:
    """An answer by plain HTTP; a chat if the body has messages. Raises AssertionError for any error.

    client: to ask by, where there are many requests: making one takes longer than a short answer.
    """
    body = {"model": MODEL, "stream": stream} | body
    if stream:
        body["stream_options"] = {"include_usage": True}
    path = "chat/completions" if "messages" in body else "completions"
    response = (client or httpx).post(f"{url}/{path}", json=body, headers=headers, timeout=300)
    assert response.status_code == 200, response.text
    answer = Answer()
    if not stream:
        answer.add(response.json())
    else:
        *events, last = data_of(response)
        assert last == "[DONE]"
        for event in events:
            answer.add(json.loads(event))
    assert all(choice.reason is not None for choice in answer.choices.values())
    return answer
