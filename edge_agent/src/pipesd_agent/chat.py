"""`pipesd-agent chat`: a conversation with a running agent in a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any, Final

import httpx
import msgspec

from pipesd_agent.link.network import Network
from pipesd_core.errors import ConfigError, error_message_from_body
from pipesd_core.service.program import fail

TIMEOUT_S: Final = 120.0
HELP: Final = "Ctrl-D ends, /new begins a new conversation."


class ChatError(Exception):
    """The agent refused, or did not finish, an answer."""


def chat(
    url: str, model: str | None, temperature: float | None, max_tokens: int | None, api_key: str | None = None
) -> int:
    """Read lines from stdin, and stream the answers to stdout. Returns the exit code."""
    try:
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        client = Network(os.environ, [url]).blocking_http_client(
            "the agent",
            "--url",
            base_url=url.rstrip("/"),
            headers=headers,
            timeout=httpx.Timeout(TIMEOUT_S, connect=5.0),
        )
    except ConfigError as error:
        return fail("pipesd-agent chat", error)
    except httpx.InvalidURL as error:
        print(f"pipesd-agent chat: --url {url!r} is no address: {error}", file=sys.stderr)
        return 2
    with client:
        try:
            model = model or _first_model(client)
        except (httpx.HTTPError, ChatError) as error:
            print(
                f"pipesd-agent chat: no agent at {url} ({error}); start one with: pipesd-agent start", file=sys.stderr
            )
            return 1
        options = {"temperature": temperature, "max_tokens": max_tokens}
        options = {name: value for name, value in options.items() if value is not None}
        print(f"Talking to {model}. {HELP}")
        messages: list[dict[str, str]] = []
        while (line := _read_line()) is not None:
            if line in ("", "/new"):
                messages = messages if not line else []
                continue
            messages.append({"role": "user", "content": line})
            try:
                messages.append({"role": "assistant", "content": _answer(client, model, messages, options)})
            except (httpx.HTTPError, ChatError) as error:
                messages.pop()
                print(f"\n[{error}]", file=sys.stderr)
            except KeyboardInterrupt:  # enough of this answer; leaving the stream stops it in the cloud too
                messages.pop()
                print("\n[stopped]")
    return 0


def _read_line() -> str | None:
    try:
        return input("\n> ").strip()
    except (EOFError, KeyboardInterrupt):
        print()
        return None


def _answer(client: httpx.Client, model: str, messages: list[dict[str, str]], options: dict[str, Any]) -> str:
    body = {"model": model, "messages": messages, "stream": True, **options}
    text = ""
    with client.stream("POST", "/chat/completions", json=body) as response:
        if response.status_code != 200:
            response.read()
            raise ChatError(_why_refused(response))
        for event in _events(response):
            for choice in event.get("choices", ()):
                piece = choice["delta"].get("content") or ""
                text += piece
                print(piece, end="", flush=True)
    print()
    return text


def _events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """The chunks of a stream. Raises ChatError when it breaks off: an answer that is cut must not look complete."""
    for line in response.iter_lines():
        if line == "data: [DONE]":
            return
        if line.startswith("data: "):
            event: dict[str, Any] = msgspec.json.decode(line[len("data: ") :])
            if "error" in event:
                raise ChatError(error_message_from_body(event) or "the answer was cut off")
            yield event
    raise ChatError("the answer was cut off")


def _first_model(client: httpx.Client) -> str:
    response = client.get("/models")
    if response.status_code != 200:
        raise ChatError(_why_refused(response))
    try:
        models = response.json()["data"]
    except (ValueError, KeyError, TypeError):
        raise ChatError("what answers there is no agent") from None
    if not models:
        raise ChatError("it does not know its gateway's models yet; name one with --model, or wait for the gateway")
    return str(models[0]["id"])


def _why_refused(response: httpx.Response) -> str:
    return error_message_from_body(response.content) or f"HTTP {response.status_code}"
