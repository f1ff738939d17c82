"""Sixteen clients of every kind, for minutes: right answers to the end, and nothing that grows.

One gateway, an agent that drafts and one that does not. Every complete answer is what the gateway itself answered
before, choice by choice, with its logprobs. After a warm-up neither memory nor descriptors nor threads of any of the
three programs grow, and when all is quiet nothing is held: a drain has nothing to wait for.
"""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from answers import Answer, ask
from event_stream import data_of
from footprint import WORKER_FDS, footprint, watch
from harness import LONG, MODEL, Process, agent_process, gateway, openai_client, openai_error, prompts, wait_until

pytestmark = pytest.mark.e2e

CI, FULL = 120.0, 900.0
WARM_UP_S = 30.0
RSS_KIB = 4 * 1024
"""Tolerance of the last third's median over the first third's. Measured: 0.5 to 1.2 MiB for the gateway and 0.3 to 0.8
for an agent in 2 minutes, 2.4 and 0.8 in 7: malloc's arenas fill up. 8,500 short sessions cost 0.2 MiB, 14,500 refusals
0.7, in the end none; 2,500 answers by a schema 2.4 with one arena (MALLOC_ARENA_MAX=1), ever more slowly."""
DESCRIPTORS = 4
"""The same. Each client has one or none at a time, by chance."""
LEARNT = {"drafting agent": WORKER_FDS}
"""More of them, of those that learn; and one thread, in which what was learnt is written to a file."""
REQUEST_S = 60.0
"""No request takes longer."""
DRAIN_S = 20.0
"""A program that nobody uses ends sooner than that after SIGTERM; its drain timeout is 30."""

Body = dict[str, Any]
GREEDY: Body = {"temperature": 0}
SEEDED: Body = {"temperature": 0.9, "seed": 2**40 + 3}
SCHEMA: Body = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "line": {"type": "integer"}},
    "required": ["name", "line"],
}
JSON: Body = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}
PENALTIES: Body = {"presence_penalty": 0.4, "repetition_penalty": 1.1, "logit_bias": {"12": 2}, "min_p": 0.05}
TEXTS = prompts(6)


def chat(text: str) -> Body:
    return {"messages": [{"role": "system", "content": "You write code."}, {"role": "user", "content": text}]}


KINDS: dict[str, list[Body]] = {
    "completions": [{"prompt": text, "max_tokens": 48} | how for text in TEXTS[:3] for how in (GREEDY, SEEDED)],
    "chats": [chat(text) | {"max_tokens": 40} | how for text in TEXTS[3:5] for how in (GREEDY, SEEDED)],
    "choices": [
        {"prompt": TEXTS[0], "n": 2, "max_tokens": 24} | SEEDED,
        chat("hi") | {"n": 2, "max_tokens": 16} | SEEDED,
    ],
    "logprobs": [
        {"prompt": TEXTS[1], "logprobs": 3, "max_tokens": 24} | SEEDED,
        chat(TEXTS[2]) | {"logprobs": True, "top_logprobs": 5, "max_tokens": 24} | GREEDY,
    ],
    "json": [{"prompt": TEXTS[4], "max_tokens": 40} | JSON | how for how in (GREEDY, SEEDED)],
    "lists": [{"prompt": TEXTS[2:5], "max_tokens": 12} | SEEDED, {"prompt": [[5, 6], [7]], "max_tokens": 12} | GREEDY],
    "long": [{"prompt": "\n".join(TEXTS) * 2 + str(i), "max_tokens": 8} | GREEDY for i in range(3)],
    "penalties": [
        {"prompt": TEXTS[5], "max_tokens": 32, "stop": ["\n\n\n"]} | PENALTIES | how for how in (GREEDY, SEEDED)
    ],
}
"""The requests whose answers are known, by their kind."""

BAD: list[tuple[str, Body | bytes, int]] = [
    ("completions", b"{", 400),
    ("completions", {"prompt": "a", "temperature": 9}, 400),
    ("completions", {"prompt": [5] * 3000}, 400),
    ("completions", {"prompt": ["a", ""], "max_tokens": 2}, 400),
    ("completions", {"prompt": "a", "n": 1000}, 400),
    ("chat/completions", chat("a") | {"frobnicate": 1}, 400),
    ("chat/completions", chat("a") | {"model": "gpt-4"}, 404),
    (
        "chat/completions",
        chat("a") | {"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}},
        400,
    ),
    ("embeddings", {"input": "a"}, 404),
]


def http_client() -> httpx.Client:
    """With a connection for each request."""
    return httpx.Client(timeout=REQUEST_S, limits=httpx.Limits(max_keepalive_connections=0))


class Soak:
    """What all clients share.

    known: the gateway's own answers, by the text of the request. wrong: what no client should have seen.
    """

    def __init__(self, known: dict[str, Answer]) -> None:
        self.known = known
        self.wrong: list[str] = []
        self.counts: Counter[str] = Counter()
        self._ended = threading.Event()
        self._lock = threading.Lock()

    def count(self, **counts: int) -> None:
        with self._lock:
            self.counts.update(counts)

    def end(self) -> None:
        self._ended.set()

    def run(self, client: Callable[[], None], number: int) -> None:
        """One client, again and again. Any exception is a fault of the programs."""
        pauses = random.Random(number)
        while not self._ended.wait(pauses.uniform(0, 0.1)):
            try:
                client()
            except Exception as error:
                self.wrong.append(f"client {number}: {error!r:.2000}")
                return

    def judge(self, body: Body, answer: Answer) -> None:
        own = self.known[json.dumps(body)]
        assert answer.choices == own.choices, (body, answer, own)
        if answer.usage:
            assert answer.tokens == own.tokens, (body, answer.usage, own.usage)
            self.count(tokens=answer.tokens, drafted=answer.accepted)
        self.count(answers=1)


def asking(soak: Soak, url: str, kinds: list[str]) -> Callable[[], None]:
    """Whole answers and streams in turn, a connection for each."""
    bodies = itertools.cycle([body for kind in kinds for body in KINDS[kind]])
    streams = itertools.cycle([True, False, False, True])
    http = http_client()

    def client() -> None:
        body = next(bodies)
        soak.judge(body, ask(url, stream=next(streams), client=http, **body))

    return client


def by_openai(soak: Soak, url: str) -> Callable[[], None]:
    """OpenAI's client, which keeps its connections."""
    sdk = openai_client(url)
    bodies = itertools.cycle([body for body in KINDS["completions"] if "seed" in body])
    streams = itertools.cycle([True, False])

    def client() -> None:
        body, answer = next(bodies), Answer()
        if next(streams):
            for chunk in sdk.completions.create(model=MODEL, stream=True, **body):
                answer.add(chunk.model_dump())
        else:
            answer.add(sdk.completions.create(model=MODEL, **body).model_dump())
        soak.judge(body, answer)

    return client


def reading_slowly(soak: Soak, url: str) -> Callable[[], None]:
    """Takes an event now and then."""
    bodies = itertools.cycle(KINDS["completions"] + KINDS["choices"][:1])
    http = http_client()

    def client() -> None:
        body, answer = next(bodies), Answer()
        request = {"model": MODEL, "stream": True} | body
        ended = False
        with http.stream("POST", f"{url}/completions", json=request) as response:
            assert response.status_code == 200, response.read()
            for data in data_of(response):
                time.sleep(0.08)
                if data == "[DONE]":
                    ended = True
                else:
                    answer.add(json.loads(data))
        assert ended, "cut"
        soak.judge(body, answer)

    return client


def vanishing(soak: Soak, url: str, number: int) -> Callable[[], None]:
    """Goes away after some events of a long answer, or before it has any."""
    chance = random.Random(number)
    http = http_client()

    def client() -> None:
        body: Body = {"model": MODEL, "prompt": LONG, "max_tokens": 1000, "temperature": chance.choice([0, 1])}
        body["n"] = chance.choice([1, 1, 2])
        body["stream"] = chance.random() < 0.7
        patience = httpx.Timeout(REQUEST_S, read=None if body["stream"] else chance.uniform(0.01, 0.6))
        try:
            with http.stream("POST", f"{url}/completions", json=body, timeout=patience) as response:
                assert response.status_code == 200, response.read()
                events = data_of(response)
                for _ in range(chance.randrange(15)):
                    next(events, None)
        except httpx.ReadTimeout:
            pass
        soak.count(vanished=1)

    return client


def asking_badly(soak: Soak, url: str) -> Callable[[], None]:
    faults = itertools.cycle(BAD)
    http = http_client()

    def client() -> None:
        path, body, status = next(faults)
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        openai_error(http.post(f"{url}/{path}", content=content), status)
        soak.count(refused=1)

    return client


def clients(soak: Soak, drafted: str, cloud: str) -> Iterator[Callable[[], None]]:
    yield asking(soak, drafted, ["completions"])
    yield asking(soak, cloud, ["completions"])
    yield asking(soak, drafted, ["chats"])
    yield asking(soak, cloud, ["chats", "penalties"])
    yield asking(soak, drafted, ["choices", "penalties"])
    yield asking(soak, drafted, ["logprobs", "json"])
    yield asking(soak, cloud, ["json", "logprobs"])
    yield asking(soak, drafted, ["lists"])
    yield asking(soak, drafted, ["long"])
    yield by_openai(soak, drafted)
    yield by_openai(soak, cloud)
    yield reading_slowly(soak, drafted)
    yield reading_slowly(soak, cloud)
    yield vanishing(soak, drafted, 1)
    yield vanishing(soak, cloud, 2)
    yield asking_badly(soak, drafted)


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(CI, id="ci", marks=pytest.mark.timeout(300)),
        pytest.param(FULL, id="full", marks=[pytest.mark.full, pytest.mark.timeout(FULL + 180)]),
    ],
)
def test_sixteen_clients(seconds: float, tmp_path: Path) -> None:
    for name in ("drafted", "cloud"):
        (tmp_path / name).mkdir()
    patient = ("--drain-timeout", "30", "--keep-alive", "5")
    with (
        gateway(tmp_path, "--max-queue", "64", *patient) as target,
        agent_process(tmp_path / "drafted", target.root, *patient) as drafted,
        agent_process(tmp_path / "cloud", target.root, "--mode", "cloud", *patient, draft=None) as cloud,
    ):
        programs = {"gateway": target, "drafting agent": drafted, "cloud-only agent": cloud}
        known = {json.dumps(body): ask(target.url, stream=False, **body) for body in itertools.chain(*KINDS.values())}
        pids = {name: program.pid for name, program in programs.items()}
        before = {name: footprint(pid) for name, pid in pids.items()}
        soak = Soak(known)
        threads = [
            threading.Thread(target=soak.run, args=(client, number), daemon=True)
            for number, client in enumerate(clients(soak, drafted.url, cloud.url))
        ]
        for thread in threads:
            thread.start()
        watch(pids, WARM_UP_S, lambda: not soak.wrong)
        warm = soak.counts.copy()
        courses = watch(pids, seconds - WARM_UP_S, lambda: not soak.wrong)
        soak.end()
        for thread in threads:
            thread.join(2 * REQUEST_S)
            assert not thread.is_alive(), "a request hangs"
        assert not soak.wrong, "\n".join(soak.wrong)

        print(f"{len(threads)} clients, {seconds:g} s: {dict(soak.counts)}, {dict(warm)} of it in the warm-up")
        for name, course in courses.items():
            print(f"{name}: {course.line()}; before {before[name]}")
        assert soak.counts["drafted"] > 0.05 * soak.counts["tokens"], "hardly anything was drafted"
        openai_client(drafted.url).close()
        openai_client(cloud.url).close()
        openai_client.cache_clear()
        for name, course in courses.items():
            first, last = course.thirds("rss_kib")
            assert last - first <= RSS_KIB, f"{name}: memory grows, {course.line()}"
            first, last = course.thirds("fds")
            assert last - first <= DESCRIPTORS, f"{name}: descriptors grow, {course.line()}"
            first, last = course.thirds("threads")
            assert last <= first + (name in LEARNT), f"{name}: threads grow, {course.line()}"
        wait_until(lambda: all(footprint(pids[name]).fds <= before[name].fds + LEARNT.get(name, 0) for name in pids))
        for program in programs.values():  # the gateway first, its agents at its door
            nothing_is_left(program)


def nothing_is_left(program: Process) -> None:
    load = httpx.get(f"{program.root}/health").json().get("load", {})
    # "resumable" is not among them: the last session of each channel is kept for as long as its connection lives.
    assert not any(load.get(name) for name in ("sessions", "requests", "queued")), load
    began = time.monotonic()
    assert program.stop() == 0
    seconds = time.monotonic() - began
    assert seconds < DRAIN_S, f"something was left to drain for {seconds:.1f} s: {program.log.read_text()[-2000:]}"
    assert "Traceback" not in program.log.read_text()
