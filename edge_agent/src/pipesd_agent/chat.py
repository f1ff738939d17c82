"""`pipesd-agent chat`: a conversation with a running agent in a terminal, or through pipes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import msgspec
from msgspec import Struct

from pipesd_agent.config import KEYS
from pipesd_agent.link.failures import tls_trouble
from pipesd_agent.link.network import Network
from pipesd_core.errors import ConfigError, PipeSDError, error_message_from_body
from pipesd_core.service.standard_streams import LineUnusable, complain, read_line, write
from pipesd_core.sse import EventReader, EventTooLarge

TIMEOUT_S: Final = 120.0
CONNECT_TIMEOUT_S: Final = 5.0
TRUST: Final = "name that by the environment variable SSL_CERT_FILE"
HELP: Final = "Ctrl-D ends, /new begins a new conversation."


class ChatError(PipeSDError):
    """The agent cannot be talked to, refused an answer, or did not finish it."""


class _Delta(Struct):
    content: str | None = None


class _Choice(Struct):
    delta: _Delta


class _Chunk(Struct):
    """What is shown of an event of a stream; error: it is the last one of an answer that failed."""

    choices: tuple[_Choice, ...] = ()
    error: dict[str, Any] | None = None


def chat(
    url: str, model: str | None, temperature: float | None, max_tokens: int | None, api_key: str | None = None
) -> int:
    """Read lines from stdin, and stream the answers to stdout. Returns the exit code; raises PipeSDError."""
    _check_address(url)
    try:
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        timeout = httpx.Timeout(TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        network = Network(os.environ, [url])
        client = network.blocking_http_client(base_url=url.rstrip("/"), headers=headers, timeout=timeout)
    except httpx.InvalidURL as error:
        raise ConfigError(f"--url {url!r} is no address: {error}") from error
    with client:
        agent = _Agent(client, url)
        model = agent.model(model)
        options = {"temperature": temperature, "max_tokens": max_tokens}
        options = {name: value for name, value in options.items() if value is not None}
        write(f"Talking to {model}. {HELP}")
        messages: list[dict[str, str]] = []
        while (line := _read_line()) is not None:
            if line in ("", "/new"):
                messages = messages if not line else []
                continue
            messages.append({"role": "user", "content": line})
            try:
                body = {"model": model, "messages": messages, "stream": True, **options}
                messages.append({"role": "assistant", "content": _show(agent.answer(body))})
            except ChatError as error:
                messages.pop()
                complain(f"\n[{error}]")
            except KeyboardInterrupt:  # enough of this answer; leaving the stream stops it in the cloud too
                messages.pop()
                write("\n[stopped]")
    return 0


def _check_address(url: str) -> None:
    """Raise ConfigError for what is no address of an API."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        url.encode("ascii")
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"--url must be an address such as http://127.0.0.1:8101/v1, but is {url!r}")


def _read_line() -> str | None:
    while True:
        write("\n> ", end="")
        try:
            line = read_line()
        except LineUnusable as error:
            complain(f"\n[{error}]")
            continue
        except KeyboardInterrupt:
            line = None
        if line is None:
            write("")
            return None
        return line.strip()


def _show(pieces: Iterator[str]) -> str:
    text = ""
    for piece in pieces:
        text += piece
        write(piece, end="")
    write("")
    return text


class _Agent:
    """The agent at an address. All methods raise ChatError, which says what to do."""

    def __init__(self, client: httpx.Client, url: str) -> None:
        self._client = client
        self._url = url

    def model(self, wanted: str | None) -> str:
        """The model to talk to: the wanted one, or else the first that the agent lists. Asks in either case."""
        response = self._get(f"{self._client.base_url}models")
        if response.status_code != 200:
            raise ChatError(self._why_no_list(response))
        try:
            listed = [str(model["id"]) for model in response.json()["data"]]
        except (ValueError, KeyError, TypeError):
            raise ChatError(f"what answers at {self._url} is no agent: check --url") from None
        if wanted or listed:
            return wanted or listed[0]
        ready = self._get(f"{str(self._client.base_url).removesuffix('v1/')}ready")
        why = "" if ready.status_code == 200 else error_message_from_body(ready.content)
        raise ChatError(
            f"the agent at {self._url} does not know its gateway's models yet"
            f"{f' ({why})' if why else ''}; try again later, or name one with --model"
        )

    def answer(self, body: dict[str, Any]) -> Iterator[str]:
        """The pieces of an answer. An answer that is cut must not look complete."""
        try:
            with self._client.stream("POST", "/chat/completions", json=body) as response:
                if response.status_code != 200:
                    response.read()
                    raise ChatError(error_message_from_body(response.content) or f"HTTP {response.status_code}")
                yield from _pieces(response)
        except (msgspec.DecodeError, EventTooLarge, UnicodeDecodeError) as error:
            raise ChatError(f"what came from {self._url} is no answer: {error}") from error
        except httpx.HTTPError as error:
            raise ChatError(self._why_lost(error)) from error

    def _get(self, url: str) -> httpx.Response:
        try:
            return self._client.get(url)
        except httpx.HTTPError as error:
            raise ChatError(self._why_lost(error)) from error

    def _why_no_list(self, response: httpx.Response) -> str:
        status, message = response.status_code, error_message_from_body(response.content)
        match status:
            case 401:
                return (
                    f"the agent at {self._url} asks for an API key of its own ({message or 'HTTP 401'}): give it by "
                    f"--api-key-file or {KEYS.variable}"
                )
            case 503 if message:
                return f"the agent at {self._url} is not ready: {message}"
            case _ if message:
                return f"what answers at {self._url} lists no models ({status}: {message}): check --url"
        return f"what answers at {self._url} is no agent (HTTP {status}): check --url"

    def _why_lost(self, error: httpx.HTTPError) -> str:
        if (trouble := tls_trouble(error, self._url, "the agent", "--url", TRUST)) is not None:
            return trouble
        if isinstance(error, httpx.ConnectTimeout):
            return f"the agent at {self._url} does not answer within {CONNECT_TIMEOUT_S:g} s: check --url"
        if isinstance(error, httpx.TimeoutException):
            return f"nothing came from the agent at {self._url} for {TIMEOUT_S:g} s; try again"
        why = re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__
        if isinstance(error, httpx.ConnectError):
            return f"no agent at {self._url} ({why}); start one with: pipesd-agent start"
        return f"the connection to {self._url} broke ({why}); is an agent running there?"


def _pieces(response: httpx.Response) -> Iterator[str]:
    """The texts of a stream of events."""
    reader = EventReader()
    for part in response.iter_bytes():
        for data in reader.feed(part):
            if data == b"[DONE]":
                return
            chunk = msgspec.json.decode(data, type=_Chunk)
            if chunk.error is not None:
                raise ChatError(error_message_from_body({"error": chunk.error}) or "the answer was cut off")
            yield from (choice.delta.content or "" for choice in chunk.choices)
    raise ChatError("the answer was cut off")
