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
import v2_bed
from harness import MODEL, ROOT, complete, free_port

PROGRAM = ROOT / ".venv-vllm" / "bin" / "pipesd-vllm"
TARGET = ROOT / "examples" / "demo_pair" / "target"
START_S = 300.0
STOP_S = 60.0
KEY = "sk-vllm-test"
HEADERS = {"Authorization": f"Bearer {KEY}"}
RUNNER = os.environ.get("TEST_RUNNER", "v1")
"""vLLM's model runner in all of these tests: "v1", "v2" on the test bed, or "v2-async" with its asynchronous loop."""
NOISE: dict[str, Any] = {"vllm_xargs": {"pipesd_noise": 1}}
"""Makes a request that comes without an agent draw the sessions' noise: the target-only reference."""


def runner_environ() -> dict[str, str]:
    """What gives a process of vLLM's the model runner that is tested."""
    if RUNNER == "v1":
        return {}
    assert RUNNER in ("v2", "v2-async"), f"TEST_RUNNER is {RUNNER}"
    return v2_bed.environ(asynchronous=RUNNER == "v2-async")


class VllmServer:
    """Runs until the `with` block ends. target: a Hugging Face folder."""

    def __init__(self, log_dir: Path, *flags: str, target: Path = TARGET) -> None:
        self.log = log_dir / "vllm.log"
        self._port = free_port()
        self.root = f"http://127.0.0.1:{self._port}"
        self.url = f"{self.root}/v1"
        self._flags = flags
        self._target = target

    def __enter__(self) -> Self:
        assert PROGRAM.exists(), "there is no .venv-vllm: run `make vllm-env` first"
        environ = {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
        } | runner_environ()
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
                    *(str(PROGRAM), "serve", str(self._target), "--enforce-eager", "--enable-auto-tool-choice"),
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
        """SIGTERM, unless it has ended, and the exit code."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)  # its own process group: the engine core too
            return self._process.wait(STOP_S)

    @property
    def engine_core(self) -> int:
        """The process id of the engine core."""
        return next(pid for pid in children(self._process.pid) if "EngineCore" in command(pid))

    def terminate(self) -> None:
        """SIGTERM; does not wait for what it does."""
        self._process.send_signal(signal.SIGTERM)

    def kill_engine_core(self) -> None:
        """kill -9 of the engine core alone."""
        os.kill(self.engine_core, signal.SIGKILL)

    def kill(self) -> None:
        """kill -9 of the API server alone."""
        self._process.kill()

    def wait_gone(self) -> None:
        """Raises AssertionError if a process of the server has not ended by itself soon."""
        self._process.wait(STOP_S)
        deadline = time.monotonic() + START_S  # a worker takes CPU seconds to end
        while left := [pid for pid in in_session(self._process.pid) if "VLLM" in command(pid)]:
            assert time.monotonic() < deadline, f"left behind: {[command(pid) for pid in left]}"
            time.sleep(0.1)

    def engine(self) -> dict[str, int]:
        """The parking scheduler's figures."""
        answer = httpx.get(f"{self.url}/pipesd/info", headers=HEADERS, timeout=30)
        figures: dict[str, int] = answer.json()["engine"]
        return figures


def command(pid: int) -> str:
    """The command line of a process; empty: it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def children(pid: int) -> list[int]:
    """The processes that a process's main thread has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def in_session(leader: int) -> list[int]:
    """The processes of a session, whoever their parents are by now."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def post(url: str, path: str, body: dict[str, Any]) -> httpx.Response:
    """A request to a server or an agent; its body names the model."""
    return httpx.post(f"{url}/{path}", json={"model": MODEL, **body}, headers=HEADERS, timeout=300)


def target_only(url: str, prompt: str, **parameters: Any) -> tuple[str, str]:
    """(text, finish_reason) of what the target writes by itself, drawing the sessions' noise."""
    return complete(url, prompt, headers=HEADERS, **parameters, **NOISE)[:2]
