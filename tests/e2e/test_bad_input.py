"""Whatever is wrong with a request, a key, a file or a flag: an error that names it and says what to do about it.

Requests go to the gateway itself and through an agent, with the same result. Programs that cannot run end with one
line on stderr: exit code 1, or 2 for a wrong configuration.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import (
    DRAFT,
    MODEL,
    ROOT,
    TARGET,
    AgentThread,
    Process,
    agent_process,
    agent_thread,
    complete,
    gateway,
    openai_error,
    run_to_end,
)

from pipesd_agent.config import AgentConfig

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

KEY = "the-key"
SIDES = ["gateway", "agent"]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A gateway with a key."""
    directory = tmp_path_factory.mktemp("gateway")
    (directory / "keys").write_text(f"# of the tests\n{KEY}\n")
    with gateway(directory, "--api-key-file", str(directory / "keys")) as process:
        yield process


def config_for(target: Process, *keys: str) -> AgentConfig:
    return AgentConfig(gateway=target.root, draft_model=DRAFT, gateway_api_keys=frozenset(keys))


@pytest.fixture(scope="module")
def agent(target: Process) -> Iterator[AgentThread]:
    with agent_thread(config_for(target, KEY)) as running:
        yield running


@pytest.fixture
def client(request: pytest.FixtureRequest, target: Process, agent: AgentThread) -> Iterator[httpx.Client]:
    """Of one side: the gateway, with its key, or the agent, which needs none."""
    url = target.url if request.param == "gateway" else agent.url
    headers = {"authorization": f"Bearer {KEY}"} if request.param == "gateway" else {}
    with httpx.Client(base_url=url, headers=headers, timeout=20) as side:
        yield side


CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
PROMPT: dict[str, Any] = {"prompt": "hi"}
LOOP: dict[str, Any] = {"response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": "#"}}}}
LOOP_AT = "response_format.json_schema.schema"


@pytest.mark.parametrize("client", SIDES, indirect=True)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("path", "body", "status", "code", "param", "message"),
    [
        ("/completions", PROMPT | {"model": "gpt-4"}, 404, "model_not_found", "model", f"'gpt-4'.*'{MODEL}'"),
        ("/chat/completions", CHAT | {"frobnicate": 1}, 400, None, "frobnicate", "'frobnicate' is no parameter"),
        ("/completions", PROMPT | {"n": 0}, 400, None, "n", "n must be at least 1, but is 0"),
        ("/completions", PROMPT | {"n": 999}, 400, None, "n", "128 choices at most"),
        ("/chat/completions", CHAT | {"top_logprobs": 1}, 400, None, "top_logprobs", "with logprobs: true"),
        ("/completions", PROMPT | {"logit_bias": {"5000": 1}}, 400, None, "logit_bias", "5000.* below 4096"),
        (
            "/chat/completions",
            CHAT | {"response_format": {"type": "json"}},
            400,
            None,
            "response_format.type",
            "json_sc",
        ),
        ("/completions", PROMPT | LOOP, 400, None, LOOP_AT, "nothing but a reference to itself"),
        ("/completions", PROMPT | {"temperature": 3}, 400, None, "temperature", "temperature.* 2.* 3"),
        ("/completions", PROMPT | {"max_tokens": 0}, 400, None, "max_tokens", "at least 1 .*but is 0"),
        ("/chat/completions", {}, 400, None, "messages", "messages must be a list .*but is missing"),
        ("/completions", PROMPT | {"max_tokens": 3000}, 400, "context_length_exceeded", "max_tokens", "3000.*2048"),
    ],
)
def test_bad_requests(
    client: httpx.Client,
    stream: bool,
    path: str,
    body: dict[str, Any],
    status: int,
    code: str | None,
    param: str,
    message: str,
) -> None:
    error = openai_error(client.post(path, json=body | {"stream": stream}), status)
    assert (error["code"], error["param"], error["type"]) == (code, param, "invalid_request_error")
    assert re.search(message, error["message"])


@pytest.mark.parametrize("client", SIDES, indirect=True)
def test_too_long_a_prompt_names_both_counts(client: httpx.Client) -> None:
    ids = [5] * 2100
    error = openai_error(client.post("/completions", json={"prompt": ids}), 400)
    assert error["code"] == "context_length_exceeded"
    assert "2100 tokens" in error["message"]
    assert "2048 tokens" in error["message"]
    assert "shorten the prompt" in error["message"]
    for words, found in ((20_000, r"the prompt has \d{5} tokens.* 2048"), (400_000, r"has \d{7} characters.* 2048")):
        messages = [{"role": "user", "content": "word " * words}]
        error = openai_error(client.post("/chat/completions", json={"messages": messages}), 400)
        assert error["code"] == "context_length_exceeded"
        assert re.search(found, error["message"])


@pytest.mark.parametrize("client", SIDES, indirect=True)
@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"prompt": "\xff"}'])
def test_a_body_that_is_no_json_object(client: httpx.Client, body: bytes) -> None:
    error = openai_error(client.post("/completions", content=body), 400)
    assert "JSON" in error["message"]


@pytest.mark.parametrize("client", SIDES, indirect=True)
def test_a_body_that_is_too_large(client: httpx.Client) -> None:
    error = openai_error(client.post("/completions", content=b" " * (5 * 2**20)), 413)
    assert "limit of 4193280 bytes" in error["message"]


@pytest.mark.parametrize("client", SIDES, indirect=True)
def test_unknown_routes_and_methods(client: httpx.Client) -> None:
    assert "POST /v1/chat/completions" in openai_error(client.post("/embeddings"), 404)["message"]
    assert "use POST" in openai_error(client.get("/completions"), 405)["message"]


def test_the_largest_body_goes_through(agent: AgentThread) -> None:
    """4 MB in many fragments, and the link still lives."""
    body = b'{"prompt": [1], "max_tokens": 1, "user": "' + b"u" * (4 * 2**20 - 1200) + b'"}'
    response = httpx.post(f"{agent.url}/completions", content=body, timeout=60)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("keys", "message"), [(["wrong"], "not one of this server's"), ([], "no API key")], ids=["wrong", "missing"]
)
def test_an_agent_whose_key_the_gateway_refuses(target: Process, keys: list[str], message: str) -> None:
    with agent_thread(config_for(target, *keys)) as locked:
        for stream in (True, False):
            response = httpx.post(f"{locked.url}/completions", json=PROMPT | {"stream": stream}, timeout=15)
            error = openai_error(response, 401)
            assert error["code"] == "invalid_api_key"
            assert message in error["message"]
            assert "gateway_api_key_file" in error["message"]
        assert message in httpx.get(locked.url.removesuffix("/v1") + "/health").json()["gateway"]


def test_a_client_of_the_gateway_without_its_key(target: Process) -> None:
    for headers in ({}, {"authorization": "Bearer wrong"}):
        error = openai_error(httpx.post(f"{target.url}/completions", json=PROMPT, headers=headers), 401)
        assert error["code"] == "invalid_api_key"


def test_an_agent_that_was_pointed_at_something_else(agent: AgentThread) -> None:
    """At an agent, say: an HTTP server, but no gateway."""
    other = AgentConfig(gateway=agent.url, mode="cloud")
    with agent_thread(other) as lost:
        error = openai_error(httpx.post(f"{lost.url}/completions", json=PROMPT, timeout=15), 503)
        assert "no PipeSD gateway" in error["message"]
        assert "setting gateway" in error["message"]


# Vocabularies.


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A draft model that is like the demo's, but for two tokens that have changed places."""
    model = tmp_path_factory.mktemp("stranger") / "draft"
    shutil.copytree(ROOT / "examples" / "demo_pair" / "draft", model)
    tokenizer = json.loads((model / "tokenizer.json").read_text("utf-8"))
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    one, other = sorted(vocabulary, key=len)[-2:]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    (model / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    out = model.parent / "stranger.gguf"
    script = ROOT / "examples" / "demo_pair" / "to_gguf.py"
    subprocess.run([sys.executable, str(script), str(model), str(out), "--type", "F16"], check=True, timeout=60)
    return out


def test_another_vocabulary_is_refused(target: Process, stranger: Path) -> None:
    config = AgentConfig(gateway=target.root, draft_model=stranger, gateway_api_keys=frozenset({KEY}))
    with agent_thread(config) as agent:
        for stream in (True, False):
            response = httpx.post(f"{agent.url}/completions", json=PROMPT | {"stream": stream}, timeout=15)
            error = openai_error(response, 409)
            assert error["code"] == "vocabulary_mismatch"
            assert "draft model of the same family" in error["message"]
            assert "--mode cloud" in error["message"]


@pytest.mark.parametrize("mode", ["auto", "cloud"])
def test_another_vocabulary_is_served_cloud_only_where_the_user_allows_it(
    target: Process, stranger: Path, tmp_path: Path, mode: str
) -> None:
    (tmp_path / "key").write_text(KEY)
    flags = ("--mode", mode, "--gateway-api-key-file", str(tmp_path / "key"))
    parameters: dict[str, Any] = {"max_tokens": 24, "temperature": 0.9, "seed": 4}
    ask = {"prompt": "def f(", **parameters}
    target_only = httpx.post(
        f"{target.url}/completions", json=ask, headers={"authorization": f"Bearer {KEY}"}, timeout=20
    )
    with agent_process(tmp_path, target.root, *flags, draft=stranger) as agent:
        for stream in (True, False):
            text, _, usage = complete(agent.url, "def f(", stream=stream, **parameters)
            assert text == target_only.json()["choices"][0]["text"]
            assert usage["pipesd"]["accepted"] == 0
        agent.stop()
        assert ("served cloud-only" in agent.log.read_text()) is (mode == "auto")


# Programs that cannot run.

AGENT, GATEWAY = "pipesd_agent", "pipesd_gateway"
COMMANDS = {AGENT: "start", GATEWAY: "serve"}
MODEL_FLAGS = {AGENT: "--draft-model", GATEWAY: "--model"}
GOOD = {AGENT: DRAFT, GATEWAY: TARGET}


def said(program: str, code: int, *flags: str, **environ: str) -> str:
    """The one line that a program ends with, besides what its log says of what it did."""
    done = run_to_end(program, COMMANDS[program], *flags, **environ)
    assert done.stdout == ""
    assert done.returncode == code, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if " INFO " not in line)
    name = program.replace("_", "-") + ": "
    assert line.startswith(name)
    return line.removeprefix(name)


@pytest.mark.parametrize("program", [AGENT, GATEWAY])
def test_a_port_in_use(program: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = said(program, 1, MODEL_FLAGS[program], str(GOOD[program]), "--port", port)
    assert f"cannot listen on 127.0.0.1:{port}" in line
    assert "in use; choose another --host or --port" in line


@pytest.mark.parametrize("program", [AGENT, GATEWAY])
def test_a_host_that_is_not_here(program: str) -> None:
    for host in ("203.0.113.7", "no.such.host.invalid", "x" * 80):
        line = said(program, 1, MODEL_FLAGS[program], str(GOOD[program]), "--host", host)
        assert f"cannot listen on {host}" in line


@pytest.mark.parametrize("program", [AGENT, GATEWAY])
@pytest.mark.parametrize("kind", ["missing", "directory", "text", "magic only", "header cut", "half", "end cut"])
def test_a_model_file_that_cannot_be_used(program: str, kind: str, tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    whole = GOOD[program].read_bytes()
    content = {
        "text": b"not a model",
        "magic only": b"GGUF" + bytes(64),
        "header cut": whole[:5000],
        "half": whole[: len(whole) // 2],
        "end cut": whole[:-1000],
    }
    if kind == "directory":
        model.mkdir()
    elif kind != "missing":
        model.write_bytes(content[kind])
    line = said(program, 1, MODEL_FLAGS[program], str(model), "--port", "0")
    assert str(model) in line
    if kind == "missing":
        assert "there is no model file" in line


@pytest.mark.parametrize("program", [AGENT, GATEWAY])
def test_a_configuration_that_is_wrong(program: str, tmp_path: Path) -> None:
    """The many ways are in test_agent_cli, test_agent_config, test_gateway_cli and test_gateway_config."""
    (tmp_path / "c.toml").write_text("modle = 'x'")
    assert "unknown key 'modle'; the nearest known one is 'mode" in said(
        program, 2, "--config", str(tmp_path / "c.toml")
    )
    assert "port must lie between 0 and 65535, but is -1" in said(program, 2, MODEL_FLAGS[program], "m", "--port", "-1")


def test_keys_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "two").write_text("a\nb\n")
    assert "one key" in said(AGENT, 2, "--gateway-api-key-file", str(tmp_path / "two"))
    assert "printable ASCII" in said(AGENT, 2, PIPESD_AGENT_GATEWAY_API_KEY="schlüssel")
    assert "holds no API key" in said(AGENT, 2, PIPESD_AGENT_GATEWAY_API_KEY="")
