"""What the end-to-end tests of `pipesd-agent chat` cannot bring about: answers that break off."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from pipesd_agent.chat import chat

Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Type lines at an agent that answers so."""

    def run(handler: Handler, *lines: str, **options: Any) -> int:
        real = httpx.Client
        monkeypatch.setattr("httpx.Client", lambda **kwargs: real(transport=httpx.MockTransport(handler), **kwargs))
        typed = iter(lines)

        def read(_: str) -> str:
            line = next(typed, None)
            if line is None:
                raise EOFError
            return line

        monkeypatch.setattr("builtins.input", read)
        return chat("http://agent/v1", **({"model": "m", "temperature": None, "max_tokens": None} | options))

    return run


def events(*pieces: str, end: str = "data: [DONE]\n\n") -> httpx.Response:
    chunks = [{"choices": [{"delta": {"content": piece}}]} for piece in pieces]
    text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
    return httpx.Response(200, text=text + ": ping\n\n" + end)


def test_the_conversation_grows(talk: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content))
        return events("one ", "two")

    assert talk(answer, "a", "b", "/new", "c", temperature=0.5) == 0
    assert [len(body["messages"]) for body in asked] == [1, 3, 1]
    assert asked[1]["messages"][1] == {"role": "assistant", "content": "one two"}
    assert asked[0] == {
        "model": "m", "messages": [{"role": "user", "content": "a"}], "stream": True, "temperature": 0.5,
    }  # fmt: skip
    assert capsys.readouterr().out.count("one two") == 3


@pytest.mark.parametrize(
    ("response", "said"),
    [
        (events("half of it", end=""), "[the answer was cut off]"),
        (events("half", end='data: {"error": {"message": "link lost"}}\n\n'), "[link lost]"),
        (httpx.Response(429, json={"error": {"message": "try again"}}), "[try again]"),
        (httpx.Response(502, text="<html>"), "[HTTP 502]"),
    ],
)
def test_an_answer_that_is_not_whole_is_said_and_forgotten(
    talk: Callable[..., int], capsys: pytest.CaptureFixture[str], response: httpx.Response, said: str
) -> None:
    asked: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content)["messages"])
        return response if len(asked) == 1 else events("fine")

    assert talk(answer, "a", "b") == 0
    assert said in capsys.readouterr().err
    assert asked[1] == [{"role": "user", "content": "b"}]


def test_interrupting_an_answer_is_no_end(talk: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if len(asked) == 1:
            raise KeyboardInterrupt
        return events("fine")

    assert talk(answer, "a", "b") == 0
    out = capsys.readouterr().out
    assert "[stopped]" in out
    assert "fine" in out


@pytest.mark.parametrize(
    ("response", "said"),
    [
        (httpx.Response(200, json={"data": []}), "does not know its gateway's models yet"),
        (httpx.Response(200, text="<html>"), "no agent"),
        (httpx.Response(404, json={"error": {"message": "the API is under /v1"}}), "the API is under /v1"),
    ],
)
def test_no_model_to_talk_to(
    talk: Callable[..., int], capsys: pytest.CaptureFixture[str], response: httpx.Response, said: str
) -> None:
    assert talk(lambda _: response, model=None) == 1
    assert said in capsys.readouterr().err
