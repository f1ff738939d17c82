"""schemathesis against both HTTP APIs, with real programs behind them.

It makes requests from what /openapi.json says: every boundary of every field (coverage), and combinations of them
(fuzzing), half of them wrong. Whatever comes: an answer in time, as described; what the description allows is served,
what it forbids is refused, and no 5xx but, where the cloud is down, the 503 that says when to come back.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import LONG, Process, agent_process, complete, free_port, gateway

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

KEY = "the-key"
HEADERS = {"authorization": f"Bearer {KEY}"}
ALLOWED = "chat.example"
"""A host name that both answer to."""
KNOWN = "known"
"""The id of a request that the agent remembers."""
ANSWER_S = 10.0
"""Longest time for an answer: of at most 128 choices of 4 tokens, on a busy machine."""
CI, FULL = (200, 240.0), (4000, 3000.0)
"""Requests of the fuzzing phase for each route, and longest time for all. The coverage phase has some 400 for each."""
SIZES = [pytest.param(CI, id="ci"), pytest.param(FULL, id="full", marks=[pytest.mark.full, pytest.mark.timeout(3300)])]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(KEY)
    return file


@pytest.fixture(scope="module")
def target(keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    flags = ("--api-key-file", str(keys), "--allowed-host", ALLOWED)
    with gateway(tmp_path_factory.mktemp("gateway"), *flags) as process:
        yield process


@pytest.fixture(scope="module")
def agent(target: Process, keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    flags = ("--api-key-file", str(keys), "--gateway-api-key-file", str(keys), "--allowed-host", ALLOWED)
    with agent_process(tmp_path_factory.mktemp("agent"), target.root, *flags) as process:
        yield process


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("side", ["gateway", "agent"])
def test_all_is_as_described(
    side: str, size: tuple[int, float], target: Process, agent: Process, tmp_path: Path
) -> None:
    server = target if side == "gateway" else agent
    before = normal_answer(server)
    run_schemathesis(server, tmp_path, *size)
    assert normal_answer(server) == before
    served = statuses(server)
    print(f"{side}: {dict(sorted(served.items()))}")
    assert set(served) <= {200, 400, 401, 404, 405}
    assert served[200] > 0.2 * served.total(), "nearly all were refused: these requests test little"
    for process in (target, agent):
        assert "Traceback" not in process.log.read_text()


def test_an_agent_without_its_cloud(keys: Path, tmp_path: Path) -> None:
    flags = ("--api-key-file", str(keys))
    with agent_process(tmp_path, f"http://127.0.0.1:{free_port()}", *flags) as alone:
        run_schemathesis(alone, tmp_path, 10, CI[1], down=True)
        served = statuses(alone)
        print(f"agent without its cloud: {dict(sorted(served.items()))}")
        assert set(served) <= {200, 400, 401, 404, 405, 503}
        assert served[503] > 100
        assert "Traceback" not in alone.log.read_text()


def normal_answer(server: Process) -> str:
    parameters: dict[str, Any] = {"max_tokens": 24, "temperature": 0.8, "seed": 5}
    return complete(server.url, LONG, headers=HEADERS | {"x-request-id": KNOWN}, **parameters)[0]


def statuses(server: Process) -> Counter[int]:
    """How many of each status the server's log tells of."""
    lines = re.findall(r"(?:GET|POST) /v1/\S+: (\d+) in ", server.log.read_text())
    return Counter(map(int, lines))


def run_schemathesis(server: Process, directory: Path, examples: int, seconds: float, *, down: bool = False) -> None:
    """Raises AssertionError with what it found. Deterministic: the same requests in every run."""
    (directory / "schemathesis.toml").write_text("max-stream-events = 100000\n")  # else long streams are not read
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        *("--no-color", "run", f"{server.root}/openapi.json", "--header", f"Authorization: Bearer {KEY}"),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", str(examples), "--generation-deterministic"),
        *("--continue-on-failure", "--checks", "all"),
        *("--request-timeout", str(2 * ANSWER_S), "--max-response-time", str(ANSWER_S)),
        # `unavailable_and_nothing_worse` takes its place there.
        *(("--exclude-checks", "not_a_server_error") if down else ()),
    ]
    environ = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(Path(__file__).parent),
        "SCHEMATHESIS_HOOKS": "schemathesis_hooks",
        "PIPESD_RECORD": KNOWN,
        **({"PIPESD_DOWN": "1"} if down else {}),
    }
    done = subprocess.run(
        command,
        cwd=directory,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) generated, \1 passed", done.stdout)
    assert passed is not None, done.stdout[-2000:]
    assert int(passed[1]) > 800
    print(passed[0], done.stdout.splitlines()[-1].strip("= "))


def test_the_description_is_open_to_all(target: Process, agent: Process) -> None:
    for server in (target, agent):
        assert httpx.get(f"{server.root}/openapi.json").json()["openapi"] == "3.1.0"
        assert httpx.get(f"{server.url}/models").status_code == 401


def test_both_answer_to_this_machine_and_what_is_allowed(target: Process, agent: Process) -> None:
    """By the flag of their command lines; each rule is in tests/protocol/test_http_semantics.py."""
    for server in (target, agent):
        for host, status in ((ALLOWED, 200), ("localhost:1", 200), ("evil.example", 421)):
            answer = httpx.get(f"{server.root}/health", headers={"host": host})
            assert answer.status_code == status, answer.text


def test_an_answer_with_several_choices_leaves_a_record(agent: Process) -> None:
    body = {"prompt": LONG, "n": 2, "max_tokens": 3, "temperature": 0}
    with httpx.Client(base_url=agent.url, headers=HEADERS, timeout=20) as client:
        answer = client.post("/completions", json=body)
        record = client.get(f"/pipesd/requests/{answer.headers['x-request-id']}").json()
    assert (record["choices"], record["output_tokens"]) == (2, answer.json()["usage"]["completion_tokens"])
    assert record["prompt_tokens"] == answer.json()["usage"]["prompt_tokens"]
