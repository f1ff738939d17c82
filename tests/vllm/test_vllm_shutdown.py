"""The end of a server, by SIGTERM, by the death of its engine core and by that of its API server: the answers of its
agents go on at another server, behind a load balancer and in the agent's list; what cannot is told so, and how."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from balancer import balancer, needs_haproxy
from event_stream import data_of
from harness import DRAFT, LONG, MODEL, AgentThread, agent_thread, shaped, wait_until
from vllm_server import HEADERS, KEY, NOISE, START_S, VllmServer

from pipesd_agent.config import AgentConfig
from pipesd_agent.control.triggers import FixedSettings
from pipesd_agent.drafting.llama import LlamaDrafter
from pipesd_agent.session.settings import SessionSettings

pytest_plugins = ("vllm_fixture",)
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1200)]

GRACE_S = 30.0
TOKENS = 240
TOOL = {
    "type": "function",
    "function": {
        "name": "note",
        "description": "Note a text.",
        "parameters": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    },
}
USUAL: dict[str, Any] = {"model": MODEL, "max_tokens": TOKENS, "temperature": 0}
PROMPT = USUAL | {"prompt": LONG, "ignore_eos": True}
CHAT = USUAL | {"messages": [{"role": "user", "content": LONG}], "ignore_eos": True}
CALL = USUAL | {"messages": CHAT["messages"], "tools": [TOOL], "tool_choice": "required"}


@dataclass(frozen=True)
class Question:
    """A request. moves: another server can go on with its answer."""

    path: str
    body: dict[str, Any]
    stream: bool
    moves: bool = True


QUESTIONS = (
    Question("completions", PROMPT, stream=True),
    Question("completions", PROMPT | {"temperature": 0.8, "seed": 7}, stream=False),
    Question("chat/completions", CHAT | {"temperature": 0.8, "seed": 8}, stream=True),
    Question("chat/completions", CHAT, stream=False),
    Question("chat/completions", CHAT | {"tools": [TOOL], "tool_choice": "auto"}, stream=True),
    Question("chat/completions", CALL, stream=False),
    # There is more than text in what their clients have.
    Question("chat/completions", CALL, stream=True, moves=False),
    Question("completions", PROMPT | {"logprobs": 1}, stream=True, moves=False),
)
BY_HTTP = (
    Question("completions", PROMPT | {"n": 2, "temperature": 0.8, "seed": 9}, stream=True, moves=False),
    Question("completions", PROMPT | {"n": 2, "temperature": 0.8, "seed": 9}, stream=False),
)
"""They go past the link."""
LONG_ONES = tuple(Question("completions", PROMPT | {"max_tokens": 900}, stream=stream) for stream in (True, False))
"""They still run when the others have all begun."""


@dataclass
class Answer:
    """What has come of a question. texts: what a model wrote, by choice."""

    question: Question
    texts: dict[int, str] = field(default_factory=dict)
    status: int = 0
    error: dict[str, Any] | None = None
    complete: bool = False
    broken: str = ""
    raw: str = ""
    begun: threading.Event = field(default_factory=threading.Event)


class Asked:
    """A question that is being answered, on a thread of its own."""

    def __init__(self, url: str, question: Question, **more: Any) -> None:
        self.answer = Answer(question)
        self._url = f"{url}/{question.path}"
        self._body = question.body | {"stream": question.stream} | more
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def wait(self, seconds: float = START_S) -> Answer:
        """Raises AssertionError for an answer that does not end."""
        self._thread.join(seconds)
        assert not self._thread.is_alive(), f"no end within {seconds:g} s; so far: {self.answer}"
        return self.answer

    def _run(self) -> None:
        answer = self.answer
        try:
            with (
                httpx.Client(timeout=START_S, headers=HEADERS) as client,
                client.stream("POST", self._url, json=self._body) as response,
            ):
                answer.status = response.status_code
                if response.headers["content-type"].startswith("text/event-stream"):
                    for data in data_of(response):
                        self._event(data)
                else:
                    answer.raw = response.read().decode()
                    whole = json.loads(answer.raw)
                    answer.error = shaped(whole["error"]) if "error" in whole else None
                    self._take(whole)
                    answer.complete = answer.error is None
        except Exception as error:
            answer.broken = repr(error)
        finally:
            answer.begun.set()

    def _event(self, data: str) -> None:
        answer = self.answer
        answer.raw += data + "\n"
        if data == "[DONE]":
            answer.complete = answer.error is None
        else:
            event = json.loads(data)
            if "error" in event:
                answer.error = shaped(event["error"])
            self._take(event)

    def _take(self, event: dict[str, Any]) -> None:
        """Take what a model wrote of an event or a whole answer; not the ids of tool calls, which are random."""
        for choice in event.get("choices", ()):
            message = choice.get("delta") or choice.get("message") or {}
            text = choice.get("text") or message.get("content") or ""
            for call in message.get("tool_calls") or ():
                text += (call["function"].get("name") or "") + (call["function"].get("arguments") or "")
            if text:
                self.answer.texts[choice["index"]] = self.answer.texts.get(choice["index"], "") + text
                self.answer.begun.set()


def run_to(url: str, question: Question) -> dict[int, str]:
    """What the target alone writes."""
    answer = Asked(url, question, **NOISE).wait()
    assert answer.complete, answer
    return answer.texts


def settings(*gateways: str, grace_s: float = GRACE_S) -> AgentConfig:
    """One draft a time, and nothing by the target alone, so that answers last."""
    return AgentConfig(
        gateway=gateways,
        gateway_api_keys=frozenset({KEY}),
        trigger=FixedSettings(length=1),
        mode="collaborative",
        session=SessionSettings(grace_s=grace_s, free_start=1),
    )


@contextlib.contextmanager
def agent(*gateways: str, grace_s: float = GRACE_S) -> Iterator[AgentThread]:
    with agent_thread(settings(*gateways, grace_s=grace_s), LlamaDrafter(DRAFT, capacity=10)) as running:
        yield running


def linked_to(running: AgentThread) -> str | None:
    assert running.agent is not None
    current = running.agent.link.gateways.current
    return None if current is None else current.address.http


def check(answers: list[Answer], truth: dict[str, dict[int, str]]) -> int:
    """All that can move are right, the others right or told so; returns how many were told."""
    told = 0
    for answer in answers:
        question = answer.question
        assert not answer.broken, answer
        assert "stack trace" not in answer.raw, answer
        assert "EngineCore" not in answer.raw, answer
        if answer.error is None:
            assert answer.complete, answer
            assert answer.texts == truth[repr(question)], answer
            continue
        told += 1
        assert not question.moves, answer
        assert not answer.complete
        assert all(truth[repr(question)][index].startswith(text) for index, text in answer.texts.items()), answer
        assert answer.error["code"] in ("unavailable", 503), answer
        assert "try again" in answer.error["message"], answer
    return told


@dataclass(frozen=True)
class End:
    """How a server ends. flags: of its start. drains: what cannot move ends there."""

    how: Callable[[VllmServer], None]
    flags: tuple[str, ...] = ()
    drains: bool = False


SIGTERM = End(VllmServer.terminate)
ENDS = (SIGTERM, End(VllmServer.kill_engine_core), End(VllmServer.kill))
DRAIN = End(VllmServer.terminate, ("--shutdown-timeout", str(int(START_S))), drains=True)


def ends(
    end: End,
    victim: VllmServer,
    survivor: VllmServer,
    truth: dict[str, dict[int, str]],
    directory: Path,
    over: Callable[[], None],
) -> None:
    """One server ends while 8 answers run through each of two agents, and some more. over: called as it ends."""
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(balancer(directory, victim.root, survivor.root))
        agents = [stack.enter_context(agent(*urls)) for urls in ((root,), (victim.root, survivor.root))]
        alone = stack.enter_context(agent(victim.root, grace_s=3.0)) if end is SIGTERM else None
        wait_until(lambda: all(linked_to(one) for one in [*agents, *([alone] if alone else [])]))
        assert linked_to(agents[1]) == victim.root
        asked = [Asked(one.url, question) for one in agents for question in (*QUESTIONS, *BY_HTTP)]
        lonely = [Asked(alone.url, question) for question in LONG_ONES] if alone else []
        for asking in (*asked, *lonely):
            if asking.answer.question.stream:
                assert asking.answer.begun.wait(START_S)
        ran = sum(one.running for one in asked)
        end.how(victim)
        over()
        # Those that come while it ends: they have not begun anywhere, and are nobody's loss.
        late: list[Asked] = []
        for _ in range(3):
            late += [Asked(one.url, QUESTIONS[1]) for one in agents] + [Asked(one.url, BY_HTTP[1]) for one in agents]
            time.sleep(0.2)
        told = check([one.wait() for one in asked], truth)
        assert not check([one.wait() for one in late], truth)
        assert ran > len(asked) / 2, "this proves little"
        assert bool(told) is not end.drains, "else this proves little"
        assert linked_to(agents[1]) == survivor.root
        assert all(one.agent is not None and one.agent.link.connected for one in agents)
        for asking in lonely:
            answer = asking.wait()
            assert answer.error is not None, answer
            assert answer.error["code"] == "unavailable"
            assert answer.status == (200 if answer.question.stream else 503)
        victim.wait_gone()


@pytest.mark.parametrize("rounds", [1, pytest.param(5, marks=[pytest.mark.full, pytest.mark.timeout(7200)])])
def test_answers_survive_the_end_of_a_server(
    rounds: int, server: VllmServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    needs_haproxy()
    plan = list(ENDS) if rounds == 1 else [*ENDS, DRAIN] * rounds
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(1) as pool:

        def start(end: End) -> VllmServer:
            return stack.enter_context(VllmServer(tmp_path_factory.mktemp("vllm"), *end.flags))

        # The next one starts while the answers of the last one are looked at.
        coming: deque[Future[VllmServer]] = deque()
        left = iter(plan)

        def start_next() -> None:
            if (end := next(left, None)) is not None:
                coming.append(pool.submit(start, end))

        start_next()
        truth = {repr(question): run_to(server.url, question) for question in (*QUESTIONS, *BY_HTTP)}
        for end in plan:
            ends(end, coming.popleft().result(), server, truth, tmp_path_factory.mktemp("end"), start_next)
