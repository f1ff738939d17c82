"""A `pipesd-vllm serve` process over the demo target, and what tests ask it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from harness import MODEL, ROOT, complete, free_port

PROGRAM = ROOT / ".venv-vllm" / "bin" / "pipesd-vllm"
TARGET = ROOT / "examples" / "demo_pair" / "target"
START_S = 300.0
STOP_S = 60.0
KEY = "sk-vllm-test"
HEADERS = {"Authorization": f"Bearer {KEY}"}
NOISE: dict[str, Any] = {"vllm_xargs": {"pipesd_noise": 1}}
"""Makes a request that comes without an agent draw the sessions' noise: the target-only reference."""


class VllmServer:
    """Runs until the `with` block ends."""

    def __init__(self, log_dir: Path, *flags: str) -> None:
        self.log = log_dir / "vllm.log"
        self._port = free_port()
        self.root = f"http://127.0.0.1:{self._port}"
        self.url = f"{self.root}/v1"
        self._flags = flags

    def __enter__(self) -> Self:
        assert PROGRAM.exists(), "there is no .venv-vllm: run `make vllm-env` first"
        environ = {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
        }
        settings = {
            "served-model-name": MODEL,
            "host": "127.0.0.1",
            "port": str(self._port),
            "api-key": KEY,
            "dtype": "float32",
            "max-model-len": "1024",
            "max-num-seqs": "32",
            "block-size": "32",
            "tool-call-parser": "hermes",
        }
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(str(PROGRAM), "serve", str(TARGET), "--enforce-eager", "--enable-auto-tool-choice"),
                    *(part for name, value in settings.items() for part in (f"--{name}", value)),
                    *self._flags,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | environ,
                start_new_session=True,
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.stop()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_S
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                if httpx.get(f"{self.root}/health", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.5)
        raise AssertionError(f"vLLM did not start: {self.log.read_text()[-4000:]}")

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)  # its own process group: the engine core too
            return self._process.wait(STOP_S)

    def engine(self) -> dict[str, int]:
        """The parking scheduler's figures."""
        answer = httpx.get(f"{self.url}/pipesd/info", headers=HEADERS, timeout=30)
        figures: dict[str, int] = answer.json()["engine"]
        return figures


def post(url: str, path: str, body: dict[str, Any]) -> httpx.Response:
    """A request to a server or an agent; its body names the model."""
    return httpx.post(f"{url}/{path}", json={"model": MODEL, **body}, headers=HEADERS, timeout=300)


def target_only(url: str, prompt: str, **parameters: Any) -> tuple[str, str]:
    """(text, finish_reason) of what the target writes by itself, drawing the sessions' noise."""
    return complete(url, prompt, headers=HEADERS, **parameters, **NOISE)[:2]
