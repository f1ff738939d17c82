"""When the cloud is gone: an error, or the draft model alone, labelled; and when the drafter is, the target alone.

Real processes. What the draft model has to write is what it writes as a gateway's target.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from event_stream import data_of
from harness import (
    DRAFT,
    LONG,
    MODEL,
    TARGET,
    Process,
    agent_process,
    agent_thread,
    complete,
    free_port,
    gateway,
    openai_client,
    openai_error,
    prompts,
    slow_agent,
    wait_until,
)

from bench.faulty_drafter import WrongDrafter
from pipesd_agent.config import AgentConfig
from pipesd_agent.drafting.drafter import DraftToken, NoDraft
from pipesd_agent.drafting.llama import LlamaDrafter
from pipesd_core.llamacpp.binding import Model

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

FLOOR = ("--step-floor-ms", "30")
SAMPLING: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "seeded": {"temperature": 0.8, "top_p": 0.95, "seed": 7},
    "penalties": {"temperature": 1.0, "seed": -5, "frequency_penalty": 0.5, "repetition_penalty": 1.1},
}
streams = pytest.mark.parametrize("stream", [True, False])


class Answered:
    """A whole answer by plain HTTP, with its labels."""

    def __init__(self, url: str, body: dict[str, Any], *, path: str = "completions", **headers: str) -> None:
        self.texts: dict[int, str] = {}
        self.labels: list[Any] = []
        """Of each choice."""
        self.errors: list[str] = []
        self.first = threading.Event()
        self.headers = httpx.Headers()
        self.models: list[str] = []
        with (
            httpx.Client(timeout=120) as client,
            client.stream("POST", f"{url}/{path}", json=body, headers=headers) as response,
        ):
            self.headers = response.headers
            if not body.get("stream"):
                response.read()
                assert response.status_code == 200, response.text
                self._take(response.json())
                return
            for data in data_of(response):
                if data != "[DONE]":
                    self._take(json.loads(data))

    def _take(self, said: dict[str, Any]) -> None:
        if "error" in said:
            self.errors.append(said["error"]["message"])
            return
        self.models.append(said["model"])
        for choice in said["choices"]:
            part = choice["text"] if "text" in choice else choice.get("message", choice.get("delta", {})).get("content")
            self.texts[choice["index"]] = self.texts.get(choice["index"], "") + (part or "")
            if choice["finish_reason"] is not None:
                self.labels.append(said.get("pipesd"))

    @property
    def text(self) -> str:
        return self.texts[0]


class Asking:
    """The same on a thread."""

    def __init__(self, url: str, body: dict[str, Any], **headers: str) -> None:
        self.answered: Answered | None = None
        self._thread = threading.Thread(target=self._run, args=(url, body, headers), daemon=True)
        self._thread.start()

    def _run(self, url: str, body: dict[str, Any], headers: dict[str, str]) -> None:
        self.answered = Answered(url, body, **headers)

    def wait(self) -> Answered:
        self._thread.join(60)
        assert self.answered is not None, "no answer"
        return self.answered

    @property
    def running(self) -> bool:
        return self._thread.is_alive()


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """The draft model as a gateway's target: the reference."""
    log_dir = tmp_path_factory.mktemp("draft")
    with gateway(log_dir, "--name", MODEL, model=DRAFT) as process:
        yield process


@pytest.fixture(scope="module")
def name() -> str:
    """Of the draft model."""
    with Model(DRAFT) as model:
        return model.name


@pytest.fixture(scope="module")
def long_ids() -> list[int]:
    with Model(TARGET) as model:
        return model.tokenize(LONG, special=True)


@pytest.fixture(scope="module")
def without_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """An agent whose gateway is not there, and that falls back."""
    url = f"http://127.0.0.1:{free_port()}"
    with agent_process(tmp_path_factory.mktemp("agent"), url, "--fallback", "edge") as process:
        yield process


def assert_label(answered: Answered, name: str, from_token: int = 0, *, choices: int = 1, header: bool = True) -> None:
    """Never an unlabelled answer of another model."""
    assert answered.labels == [{"mode": "edge", "model": name, "from_token": from_token}] * choices
    if header:
        assert answered.headers["x-pipesd-mode"] == "edge"


@streams
@pytest.mark.parametrize("sampling", SAMPLING)
def test_no_cloud_at_the_start(
    without_cloud: Process, draft: Process, name: str, sampling: str, *, stream: bool
) -> None:
    body = {"prompt": prompts(1)[0], "max_tokens": 40, "stream": stream, **SAMPLING[sampling]}
    answered = Answered(without_cloud.url, {"model": MODEL, **body})
    assert answered.text == Answered(draft.url, body).text
    assert set(answered.models) == {name}
    assert_label(answered, name)
    record = httpx.get(f"{without_cloud.url}/pipesd/requests/{answered.headers['x-request-id']}").json()
    assert record["pipesd"]["model"] == name
    assert "cannot reach the gateway" in record["pipesd"]["reason"]
    log = without_cloud.log.read_text()
    assert "answered by the draft model alone: cannot reach the gateway" in log
    assert prompts(1)[0].splitlines()[-3] not in log


@streams
def test_chats_and_several_choices_too(without_cloud: Process, draft: Process, name: str, *, stream: bool) -> None:
    chat = {"messages": [{"role": "user", "content": "def f"}], "max_tokens": 20, "temperature": 0, "stream": stream}
    answered = Answered(without_cloud.url, chat, path="chat/completions")
    assert answered.text == Answered(draft.url, chat, path="chat/completions").text
    assert_label(answered, name)
    several = {"prompt": ["def f", "class A"], "n": 2, "max_tokens": 20, "seed": 3, "stream": stream}
    answered = Answered(without_cloud.url, several)
    assert answered.texts == Answered(draft.url, several).texts
    assert_label(answered, name, choices=4)


def test_the_policy_is_the_requests_own(without_cloud: Process, name: str) -> None:
    for stream in (True, False):
        body = {"prompt": "x", "max_tokens": 5, "stream": stream}
        response = httpx.post(f"{without_cloud.url}/completions", json=body, headers={"x-pipesd-fallback": "error"})
        assert "cannot reach" in openai_error(response, 503)["message"]
        assert response.headers["retry-after"]
    client = openai_client(without_cloud.url)
    with pytest.raises(openai.APIStatusError) as refused:
        client.completions.create(model=MODEL, prompt="x", extra_headers={"x-pipesd-fallback": "error"})
    assert refused.value.status_code == 503
    answer = client.chat.completions.with_raw_response.create(model=MODEL, messages=[{"role": "user", "content": "x"}])
    assert answer.headers["x-pipesd-mode"] == "edge"
    whole = answer.parse()
    assert whole.model == name
    assert whole.model_extra is not None
    assert whole.model_extra["pipesd"]["from_token"] == 0
    *_, last = client.completions.create(model=MODEL, prompt="x", max_tokens=5, stream=True)
    assert last.model_extra is not None
    assert last.model_extra["pipesd"] == {"mode": "edge", "model": name, "from_token": 0}


def test_an_error_is_the_default(tmp_path: Path, name: str) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with agent_process(tmp_path, url) as agent:
        openai_error(httpx.post(f"{agent.url}/completions", json={"prompt": "x"}), 503)
        openai_error(httpx.post(f"{agent.url}/completions", json={"prompt": "x", "n": 2}), 503)
        body = {"prompt": "x", "max_tokens": 5}
        assert_label(Answered(agent.url, body, **{"x-pipesd-fallback": "edge"}), name)
        response = httpx.post(f"{agent.url}/completions", json=body, headers={"x-pipesd-fallback": "maybe"})
        assert "must be error or edge, but is 'maybe'" in openai_error(response, 400)["message"]
    with agent_process(tmp_path, url, draft=None) as agent:
        response = httpx.post(f"{agent.url}/completions", json=body, headers={"x-pipesd-fallback": "edge"})
        assert "has no draft model" in openai_error(response, 400)["message"]


def test_a_gateway_that_dies_in_mid_answer_and_comes_back(
    draft: Process, name: str, long_ids: list[int], tmp_path: Path
) -> None:
    """The target's text up to the loss, to the byte, then the draft model's own from there."""
    port = free_port()
    cases = [(stream, sampling) for sampling in SAMPLING for stream in (True, False)][:4]
    total = 400
    with slow_agent(tmp_path, f"http://127.0.0.1:{port}", "--fallback", "edge", grace_s=1) as agent:
        with gateway(tmp_path, "--port", str(port), *FLOOR) as target:
            bodies = [
                {"prompt": long_ids, "max_tokens": total, "stream": stream, **SAMPLING[sampling]}
                for stream, sampling in cases
            ]
            askings = [
                Asking(agent.url, body, **{"x-request-id": f"case-{number}"}) for number, body in enumerate(bodies)
            ]
            wait_until(lambda: agent.log.read_text().count(" is session ") == len(cases))
            threading.Event().wait(1.5)
            assert all(asking.running for asking in askings)
            target.kill()
            answers = [asking.wait() for asking in askings]
        with gateway(tmp_path, "--port", str(port)) as target:
            for number, (body, answered) in enumerate(zip(bodies, answers, strict=True)):
                record = httpx.get(f"{agent.url}/pipesd/requests/case-{number}").json()
                committed = [token for token, _ in record["tokens"]]
                assert 0 < len(committed) < total
                assert answered.errors == []
                assert_label(answered, name, len(committed), header=not body["stream"])
                assert record["pipesd"]["from_token"] == len(committed)
                assert answered.models[-1] == name
                sampled = {key: value for key, value in body.items() if key not in ("prompt", "max_tokens", "stream")}
                whole = {"prompt": long_ids, "max_tokens": len(committed), **sampled}
                rest = {"prompt": [*long_ids, *committed], "max_tokens": total - len(committed), **sampled}
                before = Answered(target.url, whole).text
                assert answered.text[: len(before)] == before
                if "frequency_penalty" not in sampled:  # what is a prompt counts otherwise
                    assert answered.text == before + Answered(draft.url, rest).text
            text, _, _ = complete(target.url, LONG, max_tokens=30, temperature=0)
            wait_until(lambda: httpx.get(f"{agent.root}/health").json()["gateway"] == "connected", 20)
            again = Answered(agent.url, {"prompt": LONG, "max_tokens": 30, "temperature": 0})
            assert again.text == text
            assert again.labels == [None]
            assert "x-pipesd-mode" not in again.headers
        assert agent.log.read_text().count("the draft model goes on alone after") == len(cases)
        assert "Traceback" not in agent.log.read_text()


@pytest.mark.parametrize(
    ("flags", "extra", "why"),
    [
        (("--mode", "cloud"), {}, "it was opened cloud-only"),
        ((), {"logprobs": 1}, "more in it than text"),
        (("--context", "256"), {}, "but the context of"),
    ],
)
def test_what_cannot_be_gone_on_with_is_an_error_that_says_why(
    flags: tuple[str, ...], extra: dict[str, Any], why: str, tmp_path: Path
) -> None:
    with (
        gateway(tmp_path, *FLOOR) as target,
        slow_agent(tmp_path, target.root, "--fallback", "edge", *flags) as agent,
    ):
        asking = Asking(agent.url, {"prompt": LONG, "max_tokens": 400, "stream": True, "temperature": 0, **extra})
        wait_until(lambda: " is session " in agent.log.read_text())
        threading.Event().wait(1.0)
        target.kill()
        answered = asking.wait()
        assert len(answered.errors) == 1
        assert "the draft model cannot go on with the answer: " in answered.errors[0]
        assert why in answered.errors[0]
        assert answered.text
        assert answered.labels == []


@streams
def test_mode_edge_is_the_draft_model_alone(draft: Process, name: str, tmp_path: Path, *, stream: bool) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as nobody,
        agent_process(tmp_path, f"http://127.0.0.1:{nobody.getsockname()[1]}", "--mode", "edge") as agent,
    ):
        assert httpx.get(f"{agent.root}/ready").status_code == 200
        health = httpx.get(f"{agent.root}/health").json()
        assert (health["mode"], health["gateway"]) == ("edge", None)
        (listed,) = httpx.get(f"{agent.url}/models").json()["data"]
        assert listed["id"] == name
        for sampling in SAMPLING.values():
            for prompt in prompts(3):
                body = {"prompt": prompt, "max_tokens": 40, "stream": stream, **sampling}
                answered = Answered(agent.url, {"model": name, **body})
                assert answered.text == Answered(draft.url, body).text
                assert_label(answered, name)
        several = {"prompt": prompts(2), "n": 2, "max_tokens": 10, "seed": 1, "stream": stream}
        answered = Answered(agent.url, several)
        assert answered.texts == Answered(draft.url, several).texts
        assert_label(answered, name, choices=4)
        chat = {"messages": [{"role": "user", "content": "def f"}], "max_tokens": 20, "seed": 5, "stream": stream}
        assert Answered(agent.url, chat, path="chat/completions").texts == (
            Answered(draft.url, chat, path="chat/completions").texts
        )
        openai_error(httpx.post(f"{agent.url}/completions", json={"prompt": "x", "model": MODEL}), 404)
        nobody.settimeout(0.1)
        with pytest.raises(TimeoutError):
            nobody.accept()


class Breaking(WrongDrafter):
    """Breaks with the k-th call of one of its methods."""

    def __init__(self, method: str, calls: int, error: Exception) -> None:
        super().__init__(LlamaDrafter(DRAFT), 0.3)
        self._method, self._left, self._error = method, calls, error

    def _called(self, method: str) -> None:
        if method == self._method:
            self._left -= 1
            if self._left < 0:
                raise self._error

    def open(self, lane: int, prompt_ids: Sequence[int], params: Any) -> None:
        self._called("open")
        super().open(lane, prompt_ids, params)

    def extend(self, lane: int, ids: Sequence[int]) -> None:
        self._called("extend")
        super().extend(lane, ids)

    def truncate(self, lane: int, length: int) -> None:
        self._called("truncate")
        super().truncate(lane, length)

    def draft(self, lanes: Sequence[int], feed: Sequence[int] = ()) -> list[DraftToken | NoDraft]:
        self._called("draft")
        return super().draft(lanes, feed)

    def stop(self) -> None:
        self._called("stop")
        super().stop()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with gateway(tmp_path_factory.mktemp("target")) as process:
        yield process


@pytest.fixture(scope="module")
def expected(target: Process) -> list[tuple[str, str]]:
    return [complete(target.url, prompts(1)[0], max_tokens=60, **sampling)[:2] for sampling in SAMPLING.values()]


@pytest.mark.parametrize(
    ("method", "calls", "error"),
    [
        ("open", 0, MemoryError()),
        ("draft", 0, RuntimeError("llama_decode failed")),
        ("draft", 25, MemoryError()),
        ("extend", 3, MemoryError()),
        ("truncate", 4, RuntimeError("llama_memory_seq_rm failed")),
        ("stop", 0, RuntimeError("gone")),
    ],
)
def test_a_drafter_that_breaks_costs_the_client_nothing(
    target: Process, expected: list[tuple[str, str]], method: str, calls: int, error: Exception
) -> None:
    with agent_thread(AgentConfig(gateway=target.root), Breaking(method, calls, error)) as thread:
        for stream in (True, False):
            for sampling, right in zip(SAMPLING.values(), expected, strict=True):
                assert complete(thread.url, prompts(1)[0], stream=stream, max_tokens=60, **sampling)[:2] == right
        health = httpx.get(thread.url.replace("/v1", "/health")).json()
        assert type(error).__name__ in health["drafter"]["broken"]
        answered = Answered(thread.url, {"prompt": prompts(1)[0], "max_tokens": 20})
        record = httpx.get(f"{thread.url}/pipesd/requests/{answered.headers['x-request-id']}").json()
        assert record["counts"]["drafted"] == 0
        assert answered.labels == [None]
