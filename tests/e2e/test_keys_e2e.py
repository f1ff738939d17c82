"""API keys of real processes: on both APIs, and changed while they run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import LONG, MODEL, Asking, agent_process, gateway, openai_error, slow_agent, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

LASTING: dict[str, Any] = {"max_tokens": 150, "temperature": 0}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def status(url: str, key: str | None) -> int:
    return httpx.get(f"{url}/models", headers=bearer(key) if key else {}).status_code


def replace(file: Path, text: str) -> None:
    """As an operator should: nobody reads half a file."""
    (file.parent / "next").write_text(text)
    os.replace(file.parent / "next", file)


def test_keys_come_and_go_while_both_ends_run(tmp_path: Path) -> None:
    of_gateway, of_agent, sent = tmp_path / "gateway.keys", tmp_path / "agent.keys", tmp_path / "sent.key"
    of_gateway.write_text("cloud-1\n")
    sent.write_text("cloud-1\n")
    of_agent.write_text("# clients\nlocal-1\nlocal-2\n")
    with (
        gateway(tmp_path, "--api-key-file", str(of_gateway), "--step-floor-ms", "30") as target,
        slow_agent(
            tmp_path, target.root, "--api-key-file", str(of_agent), "--gateway-api-key-file", str(sent)
        ) as agent,
    ):
        assert [status(agent.url, key) for key in ("local-1", "local-2", "cloud-1", None)] == [200, 200, 401, 401]
        assert [status(target.url, key) for key in ("cloud-1", "local-1", None)] == [200, 401, 401]
        assert httpx.get(f"{agent.root}/health").status_code == 200
        running = [Asking(agent.url, LONG, headers=bearer("local-1"), **LASTING) for _ in range(2)]
        for asking in running:
            assert asking.first.wait(30)

        replace(of_agent, "local-2\nlocal-3\n")  # local-1 is removed, local-3 added
        wait_until(lambda: status(agent.url, "local-3") == 200)
        assert [status(agent.url, key) for key in ("local-1", "local-2")] == [401, 200]
        replace(of_gateway, "cloud-2\n")
        wait_until(lambda: status(target.url, "cloud-2") == 200)
        assert status(target.url, "cloud-1") == 401

        # What runs goes on to its end; nothing new is opened for the key, not even on the agent's open connection.
        refused = httpx.post(
            f"{agent.url}/completions", json={"prompt": "x", "max_tokens": 4}, headers=bearer("local-2"), timeout=30
        )
        assert openai_error(refused, 401)["code"] == "invalid_api_key"
        for asking in running:
            assert asking.wait(60).complete
        replace(of_gateway, "cloud-1\ncloud-2\n")
        wait_until(lambda: status(target.url, "cloud-1") == 200)
        answer = httpx.post(
            f"{agent.url}/completions", json={"prompt": "x", "max_tokens": 4}, headers=bearer("local-3"), timeout=30
        )
        assert answer.status_code == 200, answer.text
        for process in (target, agent):
            said = process.log.read_text()
            assert "API keys reloaded: 1 new, 1 removed" in said
            assert not [key for key in ("cloud-1", "cloud-2", "local-1", "local-2", "local-3") if key in said]


def test_a_person_s_chat_has_a_key_too(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("mine\n")
    with gateway(tmp_path) as target, agent_process(tmp_path, target.root, "--api-key-file", str(keys)) as agent:
        wait_until(lambda: bool(httpx.get(f"{agent.url}/models", headers=bearer("mine")).json()["data"]))

        def chat(*flags: str, **environ: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "pipesd_agent", "chat", "--url", agent.url, "--max-tokens", "4", *flags]
            env = {**os.environ, **environ}
            return subprocess.run(
                command, input="hi\n", capture_output=True, text=True, timeout=60, check=False, env=env
            )

        for done in (chat("--api-key-file", str(keys)), chat(PIPESD_AGENT_API_KEY="mine")):
            assert (done.returncode, done.stderr) == (0, "")
            assert MODEL in done.stdout
        assert "no API key" in chat().stderr
