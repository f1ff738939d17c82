"""Clients that ask all the time, and what becomes of each request: judged by a text that is known to be right."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

import httpx
import openai
from event_stream import data_as_it_comes
from harness import LONG, MODEL, prompts, shaped
from openai import AsyncOpenAI

HUNG_S: Final = 90.0
"""Whoever waits for longer waits for ever."""
AFTER_AN_ERROR_S: Final = 1.0
REFUSALS: Final = (429, 503)
"""All that a fault may be answered with: the client may ask again."""
ANSWER: Final[dict[str, Any]] = {"max_tokens": 64, "ignore_eos": True}
SAMPLINGS: Final[tuple[dict[str, Any], ...]] = (
    {"temperature": 0},
    {"temperature": 0.8, "seed": 7},
    {"temperature": 1.0, "seed": 2**40 + 1, "top_p": 0.9, "presence_penalty": 0.5},
)


class Way(StrEnum):
    """How a client asks."""

    HTTPX = "httpx"
    OPENAI = "openai"


class End(StrEnum):
    """How a request may end."""

    RIGHT = "right"
    ERROR = "error"
    FALLBACK = "fallback"
    """Labelled: the draft model went on alone."""
    BROKEN = "broken"
    """With its agent, which was killed."""
    LEFT = "left"
    """By its client."""


@dataclass(frozen=True)
class Case:
    """A question. text, reason: what the target alone answers."""

    path: str
    body: dict[str, Any]
    text: str = ""
    reason: str = ""


def questions() -> list[Case]:
    """Prompts and chats, greedy and sampled; without their answers."""
    asked: list[tuple[str, dict[str, Any]]] = [("completions", {"prompt": text}) for text in (LONG, *prompts(3))]
    asked += [("chat/completions", {"messages": [{"role": "user", "content": text}]}) for text in ("def add", "x = 1")]
    return [
        Case(path, {"model": MODEL, **question, **ANSWER, **sampling})
        for path, question in asked
        for sampling in SAMPLINGS
    ]


def answered_by(url: str, case: Case, headers: dict[str, str] | None = None, **extra: Any) -> Case:
    """The question with the answer of a target that nothing happens to."""
    response = httpx.post(f"{url}/{case.path}", json=case.body | extra, headers=headers, timeout=120)
    assert response.status_code == 200, response.text
    choice = response.json()["choices"][0]
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    return replace(case, text=text, reason=choice["finish_reason"])


@dataclass
class Request:
    """One request and its end. Times are clock readings.

    text: that of the target's chunks; others: there was text of another model. label: what an answer says that is not
    the target's. pause_s: longest silence between two pieces of a stream. idle_s: for how long its client did not read.
    """

    agent: int
    way: Way
    case: Case
    stream: bool
    began: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    text: str = ""
    others: bool = False
    label: dict[str, Any] | None = None
    reason: str | None = None
    complete: bool = False
    error: dict[str, Any] | None = None
    status: int = 0
    broken: str = ""
    hung: bool = False
    left: bool = False
    pause_s: float = 0.0
    idle_s: float = 0.0
    heard: float = 0.0

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    def take(self, answer: dict[str, Any]) -> None:
        """A chunk of a stream, or the whole answer."""
        self.label = answer.get("pipesd") or self.label
        for choice in answer.get("choices", ()):
            said = choice.get("delta") or choice.get("message")
            text = (said.get("content") if said else choice.get("text")) or ""
            self._piece(text, choice["finish_reason"], answer["model"])

    def _piece(self, text: str, reason: str | None, model: str) -> None:
        now = time.monotonic()
        if self.heard:
            self.pause_s = max(self.pause_s, now - self.heard)
        self.heard = now
        if model == MODEL:
            assert not self.others, "the target goes on after the draft model"
            self.text += text
        self.others = self.others or model != MODEL
        self.reason = reason or self.reason

    def judge(self, killed: Callable[[int, float, float], bool]) -> End:
        """How it ended; raises AssertionError for an end that must not be.

        killed: was the process of this agent dead at some time between these?
        """
        assert not self.hung, f"no end within {HUNG_S:g} s"
        assert self.case.text.startswith(self.text), "shows what the target does not write"
        if self.left:
            return End.LEFT
        if self.complete and (self.others or self.label):
            assert self.error is None
            assert self.label is not None, "another model's answer, and nobody says so"
            assert self.label["mode"] == "edge"
            assert self.reason is not None
            assert not self.text or self.label["from_token"] > 0
            return End.FALLBACK
        if self.complete:
            assert (self.text, self.reason) == (self.case.text, self.case.reason), "a wrong answer that looks whole"
            assert self.error is None
            return End.RIGHT
        if self.error is not None:
            shaped(self.error)
            assert self.status in (200, *REFUSALS), f"status {self.status}"
            return End.ERROR
        assert self.broken, "cut off, and nobody says so"
        assert killed(self.agent, self.began - 1.0, self.ended), f"the connection broke: {self.broken}"
        return End.BROKEN


class Client:
    """Asks one agent, in one way.

    Args:
        patience: seconds to sleep after the n-th piece of a stream; for slow readers.
    """

    def __init__(self, agent: int, url: str, way: Way, *, slow: bool = False) -> None:
        self.agent = agent
        self._way = way
        self._slow = slow
        options = [(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048), (socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)]
        self._http = httpx.AsyncClient(
            base_url=f"{url}/",
            timeout=HUNG_S + 10,
            transport=httpx.AsyncHTTPTransport(socket_options=options) if slow else None,
        )
        self._sdk = AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=HUNG_S + 10)

    async def aclose(self) -> None:
        await self._http.aclose()
        await self._sdk.close()

    async def ask(self, case: Case, *, stream: bool, leave_after: float | None = None) -> Request:
        """One request to its end, or until the client leaves; never raises for what a server does."""
        request = Request(self.agent, self._way, case, stream)
        try:
            async with asyncio.timeout(HUNG_S if leave_after is None else leave_after):
                await (self._by_httpx if self._way is Way.HTTPX else self._by_openai)(request)
        except TimeoutError:
            request.hung, request.left = leave_after is None, leave_after is not None
        except openai.APIStatusError as error:
            request.status, request.error = error.status_code, _body_of(error)
        except (httpx.TransportError, openai.APIConnectionError) as error:
            request.broken = repr(error)
        except openai.APIError as error:
            request.error = _body_of(error)
        request.ended = time.monotonic()
        return request

    async def _by_httpx(self, request: Request) -> None:
        body = request.case.body | {"stream": request.stream}
        async with self._http.stream("POST", request.case.path, json=body) as response:
            request.status = response.status_code
            if not response.headers["content-type"].startswith("text/event-stream"):
                answer = json.loads(await response.aread())
                request.error = answer.get("error")
                request.take(answer)
                request.complete = request.error is None
                return
            async for line in _events(response):
                if line == "[DONE]":
                    request.complete = request.error is None
                    continue
                event = json.loads(line)
                request.error = event.get("error")
                request.take(event)
                if self._slow:
                    pause = 3.0 if request.idle_s == 0.0 else 0.02
                    request.idle_s += pause
                    await asyncio.sleep(pause)

    async def _by_openai(self, request: Request) -> None:
        request.status = 200
        known = {name: value for name, value in request.case.body.items() if name != "ignore_eos"}
        asked = known | {"extra_body": {"ignore_eos": True}, "stream": request.stream}
        api: Any = self._sdk.chat.completions if "messages" in known else self._sdk.completions
        answer = await api.create(**asked)
        if not request.stream:
            request.take(answer.model_dump())
            request.complete = True
            return
        async with answer:
            async for chunk in answer:
                request.take(chunk.model_dump())
        # The SDK takes a stream that just ends for a whole one: so the reason is what tells.
        request.complete = True


def _body_of(error: openai.APIError) -> dict[str, Any]:
    assert isinstance(error.body, dict), f"not OpenAI-shaped: {error!r}"
    return error.body


async def _events(response: httpx.Response) -> AsyncIterator[str]:
    async for data in data_as_it_comes(response):
        yield data


class Crowd:
    """Clients of all kinds at some agents; `requests` are those that are over."""

    def __init__(self, seed: int, cases: list[Case]) -> None:
        self.requests: list[Request] = []
        self._seed = seed
        self._cases = cases
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    def join(self, agent: int, url: str, count: int) -> None:
        """More clients that ask until `leave`: by every way, streams and not."""
        for number in range(count):
            way = (Way.HTTPX, Way.OPENAI)[number % 2]
            self._start(self._ask_on(Client(agent, url, way), number // 2 % 2 == 0, number))

    def vanish(self, agent: int, url: str, number: int) -> None:
        """A client that asks, and leaves soon."""
        source = random.Random(f"{self._seed} vanish {number}")
        client = Client(agent, url, source.choice(list(Way)))
        leave_after = source.uniform(0.02, 1.0)
        self._start(self._once(client, source, stream=number % 2 == 0, leave_after=leave_after))

    def slow(self, agent: int, url: str, number: int) -> None:
        """A client that reads nothing for 3 s, and little after that."""
        source = random.Random(f"{self._seed} slow {number}")
        self._start(self._once(Client(agent, url, Way.HTTPX, slow=True), source, stream=True))

    async def leave(self) -> None:
        """Wait for the requests that are under way."""
        self._closing = True
        await asyncio.gather(*self._tasks)

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask_on(self, client: Client, stream: bool, number: int) -> None:
        source = random.Random(f"{self._seed} {client.agent} {number}")
        try:
            while not self._closing:
                request = await client.ask(source.choice(self._cases), stream=stream)
                self.requests.append(request)
                if not request.complete:
                    await asyncio.sleep(AFTER_AN_ERROR_S)
        finally:
            await client.aclose()

    async def _once(
        self, client: Client, source: random.Random, *, stream: bool, leave_after: float | None = None
    ) -> None:
        try:
            request = await client.ask(source.choice(self._cases), stream=stream, leave_after=leave_after)
            self.requests.append(request)
        finally:
            await client.aclose()
