"""What real processes write to their logs: which request was which session; and never a key, a prompt or an answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import Asking, Process, agent_process, gateway, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

MARK = "Zanzibar"
"""In every prompt and parameter."""
CLOUD_KEY, LOCAL_KEY, WRONG_KEY = "cloud-Qwertz-1", "local-Qwertz-2", "wrong-Qwertz-3"
SECRET = "Qwertz"


def lines(process: Process) -> list[dict[str, Any]]:
    return [json.loads(line) for line in process.log.read_text("utf-8").split("\n") if line]


def test_no_keys_and_no_prompts_at_any_level(tmp_path: Path) -> None:
    env = {"PIPESD_GATEWAY_API_KEY": CLOUD_KEY, "PIPESD_AGENT_API_KEY": LOCAL_KEY}
    keys = tmp_path / "local.keys"
    keys.write_text(LOCAL_KEY)
    sent = tmp_path / "sent.key"
    sent.write_text(CLOUD_KEY)
    config = tmp_path / "agent.toml"
    config.write_text("[session]\ngrace_s = 1.0\n")  # the gateway does not come back
    right, wrong = {"authorization": f"Bearer {LOCAL_KEY}"}, {"authorization": f"Bearer {WRONG_KEY}"}
    chat = {"messages": [{"role": "user", "content": MARK}], "max_tokens": 4}
    with (
        gateway(tmp_path, "--log-level", "debug", "--step-floor-ms", "20", env=env) as target,
        agent_process(
            tmp_path, target.root, "--log-level", "debug", "--api-key-file", str(keys),
            "--gateway-api-key-file", str(sent), "--config", str(config),
        ) as agent,
    ):  # fmt: skip
        bodies: list[bytes] = [
            *(json.dumps(body).encode() for body in (
                {"prompt": MARK, "max_tokens": 4},
                {"prompt": MARK, "max_tokens": 4, "stream": True},
                {"prompt": [MARK, MARK], "max_tokens": 4},
                {"prompt": MARK, "n": 2},
                {"prompt": MARK, "temperature": MARK},
                {"prompt": MARK, MARK: 1},
                {"prompt": MARK, "model": MARK},
                {"prompt": MARK, "stop": [MARK] * 99},
                {"prompt": MARK * 4000},
            )),
            f'{{"prompt": "{MARK}'.encode(),
            MARK.encode() + b"\xff",
            b'{"prompt": ' + b"[" * 5000,
        ]  # fmt: skip
        for root, good in ((agent.root, right), (target.root, {"authorization": f"Bearer {CLOUD_KEY}"})):
            for body in bodies:
                for headers in (good, wrong):
                    httpx.post(f"{root}/v1/completions", content=body, headers=headers, timeout=60)
            httpx.post(f"{root}/v1/chat/completions", json=chat, headers=good, timeout=60)
            httpx.post(f"{root}/v1/pipesd/verify", content=bodies[4], headers=good, timeout=60)
            httpx.get(f"{root}/v1/models?api_key={WRONG_KEY}&prompt={MARK}", headers=wrong)
            httpx.get(f"{root}/v1/models", headers={"authorization": f"Basic {WRONG_KEY}"})
        leaving = Asking(agent.url, MARK, headers=right, max_tokens=500)
        leaving.first.wait(30)
        target.kill()
        leaving.wait(30)
        httpx.post(f"{agent.url}/completions", content=bodies[0], headers=right, timeout=30)
    for process in (target, agent):
        said = process.log.read_text()
        assert "POST /v1/completions: " in said  # it is a log
        assert "Traceback" not in said
        for secret in (SECRET, MARK, MARK.encode().hex()):
            assert secret not in said, [line for line in said.splitlines() if secret in line][:3]


def test_a_request_is_found_on_both_ends_by_one_id(tmp_path: Path) -> None:
    with (
        gateway(tmp_path, "--log-format", "json") as target,
        agent_process(tmp_path, target.root, "--log-format", "json") as agent,
    ):
        for path, body in (
            ("completions", {"prompt": "def", "max_tokens": 4}),
            ("completions", {"prompt": "def", "max_tokens": 4, "nonsense": 1}),
            ("completions", {"prompt": ["a", "b"], "max_tokens": 4}),
        ):
            rid = f"mine-{len(json.dumps(body))}"
            answer = httpx.post(f"{agent.url}/{path}", json=body, headers={"x-request-id": rid}, timeout=30)
            assert answer.headers["x-request-id"] == rid
            for process in (agent, target):
                wait_until(lambda: any(line.get("request_id") == rid for line in lines(process)))  # noqa: B023
        (here,) = (line for line in lines(agent) if "session" in line)
        (there,) = (line for line in lines(target) if "session" in line)
        assert here["request_id"] == there["request_id"]
        assert here["session"] == there["session"]
        assert any("refused: 400" in line["message"] for line in lines(target))
    for process in (agent, target):
        assert all({"time", "level", "logger", "message"} <= set(line) for line in lines(process))
