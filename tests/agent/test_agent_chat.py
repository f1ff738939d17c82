"""`pipesd-agent chat` over answers that a real agent gives in trouble only; tests/e2e has it at a terminal."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from pipesd_agent.chat import ChatError, chat
from pipesd_core.errors import ConfigError

Handler = Callable[[httpx.Request], httpx.Response]
URL = "http://agent/v1"
EMOJI = "\N{GRINNING FACE}"
LINE_ENDS = "\x0b\x0c\x1c\x1d\x1e\u0085\u2028\u2029"
"""What Unicode ends lines with, beside those of the wire."""


def typed(*lines: str) -> io.TextIOWrapper:
    """Standard input with these lines."""
    return io.TextIOWrapper(io.BytesIO("".join(f"{line}\n" for line in lines).encode()), encoding="utf-8")


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Type lines at an agent that has a model and answers so."""

    def run(handler: Handler, *lines: str, stdin: io.TextIOBase | None = None, **options: Any) -> int:
        real = httpx.Client
        monkeypatch.setattr("httpx.Client", lambda **kwargs: real(transport=httpx.MockTransport(handler), **kwargs))
        monkeypatch.setattr("sys.stdin", stdin or typed(*lines))
        return chat(URL, **({"model": None, "temperature": None, "max_tokens": None} | options))

    return run


def with_model(answer: Handler) -> Handler:
    """An agent that has the model m."""

    def handle(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"data": [{"id": "m"}]}) if request.method == "GET" else answer(request)

    return handle


def events(*pieces: str, end: str = "data: [DONE]\n\n") -> httpx.Response:
    chunks = [{"choices": [{"delta": {"content": piece}}]} for piece in pieces]
    text = "".join(f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n" for chunk in chunks)
    return httpx.Response(200, text=text + ": ping\n\n" + end)


def error_body(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "x", "param": None, "code": None}}


def test_the_conversation_grows(talk: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content))
        return events("one ", "two")

    assert talk(with_model(answer), "a", "b\r", "/new", "c", temperature=0.5) == 0
    assert [len(body["messages"]) for body in asked] == [1, 3, 1]
    assert asked[1]["messages"][1:] == [{"role": "assistant", "content": "one two"}, {"role": "user", "content": "b"}]
    assert asked[0] == {
        "model": "m", "messages": [{"role": "user", "content": "a"}], "stream": True, "temperature": 0.5,
    }  # fmt: skip
    assert capsys.readouterr().out.count("one two") == 3


def test_an_answer_with_every_line_end_of_unicode_s(
    talk: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """They are no line ends on the wire."""
    text = f"a{LINE_ENDS}b{EMOJI}"
    asked: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content))
        return events("[", text, "]")

    assert talk(with_model(answer), "1", "2") == 0
    assert capsys.readouterr().out.count(f"[{text}]") == 2
    assert asked[1]["messages"][1]["content"] == f"[{text}]"


@pytest.mark.parametrize(
    ("response", "said"),
    [
        (events("half of it", end=""), "[the answer was cut off]"),
        (events("half", end='data: {"error": {"message": "link lost"}}\n\n'), "[link lost]"),
        (events("half", end='data: {"error": 5}\n\n'), f"[what came from {URL} is no answer: "),
        (events("half", end="data: {]\n\n"), f"[what came from {URL} is no answer: "),
        (events("half", end='data: {"choices": [{"index": 0}]}\n\n'), f"[what came from {URL} is no answer: "),
        (httpx.Response(429, json=error_body("try again")), "[try again]"),
        (httpx.Response(401, json=error_body("the gateway h refuses this agent's key: set x")), "set x]"),
        (httpx.Response(502, text="<html>"), "[HTTP 502]"),
        (httpx.ConnectError("[Errno 111] Connection refused"), f"[no agent at {URL} (Connection refused); start one"),
        (httpx.ReadTimeout("timed out"), f"[nothing came from the agent at {URL} for 120 s; try again]"),
        (httpx.RemoteProtocolError("peer closed"), f"[the connection to {URL} broke (peer closed); is an agent"),
    ],
)
def test_an_answer_that_is_not_whole_is_said_and_forgotten(
    talk: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    response: httpx.Response | httpx.HTTPError,
    said: str,
) -> None:
    asked: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content)["messages"])
        if len(asked) > 1:
            return events("fine")
        if isinstance(response, httpx.HTTPError):
            raise response
        return response

    assert talk(with_model(answer), "a", "b") == 0
    assert said in capsys.readouterr().err
    assert asked[1] == [{"role": "user", "content": "b"}]


def test_interrupting_an_answer_is_no_end(talk: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if len(asked) == 1:
            raise KeyboardInterrupt
        return events("fine")

    assert talk(with_model(answer), "a", "b") == 0
    out = capsys.readouterr().out
    assert "[stopped]" in out
    assert "fine" in out


class Interrupted(io.StringIO):
    """A terminal at which Ctrl-C is pressed."""

    def readline(self, size: int = -1, /) -> str:  # type: ignore[override]  # noqa: ARG002
        raise KeyboardInterrupt


def test_interrupting_the_wait_for_a_line_is_the_end(talk: Callable[..., int]) -> None:
    assert talk(with_model(lambda _: events("fine")), stdin=Interrupted()) == 0


def test_a_line_that_is_no_text_is_said_and_not_sent(
    talk: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content)["messages"])
        return events("fine")

    lines = b"\xef\xbb\xbfgood\r\n" + "schön\n".encode("latin-1") + b"more\n"
    assert talk(with_model(answer), stdin=io.TextIOWrapper(io.BytesIO(lines), encoding="utf-8")) == 0
    assert "that line is not utf-8 text (its byte 4 is 0xf6)" in capsys.readouterr().err
    assert [messages[-1]["content"] for messages in asked] == ["good", "more"]


def connected_to_nothing(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("[Errno 111] Connection refused", request=request)


def without_models(ready: httpx.Response) -> Handler:
    def handle(request: httpx.Request) -> httpx.Response:
        assert request.url.path in ("/v1/models", "/ready")
        return ready if request.url.path == "/ready" else httpx.Response(200, json={"data": []})

    return handle


REFUSED_KEY = (
    "no link to the gateway: the gateway ws://h refuses this agent's key (no API key): set gateway_api_key_file"
)


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        (connected_to_nothing, f"no agent at {URL} (Connection refused); start one with: pipesd-agent start"),
        (without_models(httpx.Response(503, json=error_body(REFUSED_KEY))), f"models yet ({REFUSED_KEY}); "),
        (without_models(httpx.Response(200, json={})), "does not know its gateway's models yet; try again later"),
        (without_models(httpx.Response(404, text="x")), "does not know its gateway's models yet; try again later"),
        (lambda _: httpx.Response(200, text="<html>"), f"what answers at {URL} is no agent: check --url"),
        (lambda _: httpx.Response(200, json=[1]), f"what answers at {URL} is no agent: check --url"),
        (lambda _: httpx.Response(302, text=""), f"what answers at {URL} is no agent (HTTP 302): check --url"),
        (lambda _: httpx.Response(404, json=error_body("it is under /v1")), "(404: it is under /v1): check --url"),
        (lambda _: httpx.Response(503, json=error_body("the model is loading")), "is not ready: the model is loading"),
        (
            lambda _: httpx.Response(401, json=error_body("the API key is not one of this server's")),
            "asks for an API key of its own (the API key is not one of this server's): give it by --api-key-file or "
            "PIPESD_AGENT_API_KEY",
        ),
    ],
)
@pytest.mark.parametrize("model", [None, "m"])
def test_why_there_is_nobody_to_talk_to(
    talk: Callable[..., int], handler: Handler, said: str, model: str | None
) -> None:
    """Also where a model is named, so that nobody types at nothing; that the list is empty is no matter then."""
    if model and "models yet" in said:
        assert talk(handler, model=model) == 0
        return
    with pytest.raises(ChatError) as error:
        talk(handler, model=model)
    assert said in str(error.value)
    assert ("no agent" in str(error.value)) == ("no agent" in said)


@pytest.mark.parametrize("url", ["", "nonsense", "ftp://h", "http://", "http://h:99999", "http://h:0", "http://ü.de"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ConfigError, match=r"--url must be an address such as .*, but is '"):
        chat(url, None, None, None)
