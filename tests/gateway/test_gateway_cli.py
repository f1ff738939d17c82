"""The command line; what needs a model is marked e2e and runs in a process of its own, as users run it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from repository import BUILD

from pipesd_gateway.cli import main

DEMO_TARGET = BUILD / "demo-target-F32.gguf"


@pytest.fixture(autouse=True)
def no_key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIPESD_GATEWAY_API_KEY", raising=False)


def test_help_fits_a_screen(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stop:
        main(["serve", "--help"])
    assert stop.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    assert all(len(line) <= 80 for line in lines)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["serve"], "no model"),
        (["serve", "--model", "m", "--port", "70000"], "port must lie between 0 and 65535, but is 70000"),
        (["serve", "--config", "/nowhere/g.toml"], "cannot read the configuration file /nowhere/g.toml"),
        (["serve", "--model", "m", "--api-key-file", "/nowhere/k"], "cannot read the API key file /nowhere/k"),
        (["serve", "--model", "m", "--chat-template", "/nowhere/t"], "cannot read the chat template /nowhere/t"),
    ],
)
def test_a_wrong_configuration_is_one_line_and_code_2(
    capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    assert main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_an_unknown_flag_is_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["serve", "--modle", "m"])
    assert stop.value.code == 2
    assert "--modle" in capsys.readouterr().err


def test_a_port_in_use_is_one_line_and_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--model", "m.gguf", "--port", str(port)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"cannot listen on 127.0.0.1:{port}" in line
    assert "in use" in line


def command(*flags: str) -> list[str]:
    return [sys.executable, "-m", "pipesd_gateway", "serve", "--port", "0", *flags]


@contextlib.contextmanager
def gateway(*flags: str, **environ: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running gateway process and the URL that it printed."""
    with subprocess.Popen(
        command(*flags), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environ
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("listening on http://127.0.0.1:"), line
            yield process, line.split()[-1]
        finally:
            process.terminate()
            try:
                process.wait(60)
            finally:
                process.kill()


@pytest.mark.e2e
@pytest.mark.parametrize("content", [None, b"not a model", b"GGUF" + bytes(64)])
def test_a_missing_or_broken_model_is_one_line_and_code_1(tmp_path: Path, content: bytes | None) -> None:
    model = tmp_path / "m.gguf"
    if content is not None:
        model.write_bytes(content)
    flags = ("--model", str(model), "--log-level", "error")
    done = subprocess.run(command(*flags), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("pipesd-gateway: ")
    assert "m.gguf" in last


@pytest.mark.e2e
def test_the_openai_client_over_the_real_thing() -> None:
    hello: Any = [{"role": "user", "content": "Write a function that adds two numbers."}]
    with gateway("--model", str(DEMO_TARGET), "--name", "demo", PIPESD_GATEWAY_API_KEY="secret") as (process, url):
        health = httpx.get(url.removesuffix("/v1") + "/health").json()
        assert health["status"] == "ok"
        load = {"sessions": 0, "resumable": 0, "requests": 0, "places_free": 4, "queued": 0}
        assert health["load"].items() >= load.items()
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=url, api_key="wrong").models.list()
        with openai.OpenAI(base_url=url, api_key="secret") as sdk:
            assert [model.id for model in sdk.models.list()] == ["demo"]
            for temperature in (0.0, 0.7):
                whole = sdk.chat.completions.create(
                    model="demo", messages=hello, max_tokens=24, temperature=temperature, seed=5
                )
                stream = sdk.chat.completions.create(
                    model="demo", messages=hello, max_tokens=24, temperature=temperature, seed=5, stream=True
                )
                text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
                assert text == whole.choices[0].message.content
                assert text
            assert whole.usage is not None
            assert 0 < whole.usage.completion_tokens <= 24
            answers = {
                sdk.completions.create(model="demo", prompt="def f(", max_tokens=12).choices[0].text for _ in range(3)
            }
            assert len(answers) > 1  # no seed given: each has its own
            with pytest.raises(openai.BadRequestError, match=r"tokens.*2048"):
                sdk.completions.create(model="demo", prompt="word " * 5000)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


@pytest.mark.e2e
def test_stopping_in_mid_answer_is_an_error_for_the_client() -> None:
    with (
        gateway("--model", str(DEMO_TARGET), "--name", "demo", "--step-floor-ms", "50") as (process, url),
        openai.OpenAI(base_url=url, api_key="x", max_retries=0) as sdk,
    ):
        stream = sdk.completions.create(model="demo", prompt="def", max_tokens=1000, stream=True)
        next(stream)
        process.send_signal(signal.SIGINT)
        with pytest.raises(openai.APIError, match="shutting down"):
            list(stream)
        assert process.wait(60) == 0
