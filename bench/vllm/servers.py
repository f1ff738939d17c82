"""vLLM servers for bench/vllm, stock and with the plugin, and what their processes say of themselves (Linux)."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / ".venv-vllm" / "bin"
TARGET = ROOT / "examples" / "demo_pair" / "target"
MODEL: Final = "pipesd-demo-target"
KEY: Final = "sk-bench"
START_S: Final = 400.0
STOP_S: Final = 60.0

NGRAM = '{"method":"ngram","num_speculative_tokens":8,"prompt_lookup_min":2,"prompt_lookup_max":4}'
STOCK_COMMAND = (str(BIN / "python"), "-m", "vllm.entrypoints.openai.api_server", "--model", str(TARGET))
COMMANDS: dict[str, tuple[str, ...]] = {
    "plugin": (str(BIN / "pipesd-vllm"), "serve", str(TARGET)),
    "stock": STOCK_COMMAND,
    "ngram": (*STOCK_COMMAND, "--speculative-config", NGRAM),
}
SETTINGS = {
    "served-model-name": MODEL,
    "host": "127.0.0.1",
    "api-key": KEY,
    "dtype": "float32",
    "max-model-len": "1024",
    "max-num-seqs": "32",
    "block-size": "32",
}
ENVIRON = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    # Or the ngram server's forward runs on as many threads as there are cores: numba sets OpenMP's number.
    "NUMBA_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "PYTHONPATH": os.pathsep.join([str(ROOT / "bench" / "vllm_side"), str(ROOT / "tests" / "vllm" / "bed")]),
}
RUNNERS: dict[str, dict[str, str]] = {"v1": {}, "v2": {"PIPESD_V2_BED": "1"}}
"""vLLM's model runners, with what it takes to have them on a CPU: V2 runs on the test bed of tests/vllm/bed."""
CORE_FIELDS = ("start", "wall", "cpu", "waited", "waited_cpu", "schedule", "update", "post")
CORE = np.dtype(
    [(name, "<f8") for name in CORE_FIELDS] + [(n, "<i8") for n in ("requests", "tokens", "drafts", "calls")]
)
WORKER = np.dtype([("start", "<f8"), ("wall", "<f8"), ("cpu", "<f8"), ("which", "<i8")])
"""As vllm_side/sitecustomize.py packs them."""


@dataclass(frozen=True)
class Usage:
    """CPU seconds of a server's processes so far: the API server, the engine core, the worker, all with children."""

    api: float
    core: float
    worker: float

    def __sub__(self, other: Usage) -> Usage:
        return Usage(self.api - other.api, self.core - other.core, self.worker - other.worker)

    @property
    def total(self) -> float:
        return self.api + self.core + self.worker


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number: int = listener.getsockname()[1]
        return number


class ServerProcess:
    """A program that serves HTTP on a port of this machine; `ready` waits for it, `stop` ends it."""

    def __init__(self, kind: str, command: Sequence[str], environ: Mapping[str, str], port: int, folder: Path) -> None:
        self.kind = kind
        self.port = port
        self.root = f"http://127.0.0.1:{port}"
        self.log = folder / f"{kind}.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | dict(environ),
                start_new_session=True,
            )

    def ready(self, seconds: float = START_S) -> None:
        """Raises SystemExit when it does not start."""
        deadline = time.monotonic() + seconds
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                if httpx.get(f"{self.root}/health", timeout=5).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                time.sleep(0.5)
        raise SystemExit(f"the {self.kind} server did not start:\n{self.log.read_text(errors='replace')[-3000:]}")

    def stop(self, seconds: float = STOP_S) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)  # its own process group: the engine core too
            self._process.wait(STOP_S)


class Server(ServerProcess):
    """One vLLM server of bench/vllm, with clocks around its steps."""

    def __init__(self, kind: str, runner: str, port: int, folder: Path, profile: Path | None) -> None:
        self._steps = folder / kind
        flags = [part for name, value in SETTINGS.items() for part in (f"--{name}", value)]
        environ = ENVIRON | RUNNERS[runner] | {"PIPESD_BENCH_STEPS": str(self._steps)}
        if kind != "plugin":
            environ["VLLM_PLUGINS"] = ""  # nothing of ours, nor of anybody else
        if profile is not None:
            environ["PIPESD_BENCH_PROFILE"] = str(profile)
        command = [*COMMANDS[kind], "--enforce-eager", "--port", str(port), *flags]
        super().__init__(kind, command, environ, port, folder)

    def ready(self, seconds: float = START_S) -> None:
        """Raises SystemExit when it does not start, or has other processes than it should have."""
        super().ready(seconds)
        self.pids = self._find()

    def _find(self) -> dict[str, int]:
        """Process ids by what they are."""
        pids = {"api": self._process.pid}
        parents = [self._process.pid]
        while parents:
            parent = parents.pop()
            for task in Path(f"/proc/{parent}/task").iterdir():
                for child in map(int, (task / "children").read_text().split()):
                    parents.append(child)
                    title = Path(f"/proc/{child}/cmdline").read_bytes()
                    if title.startswith(b"VLLM::EngineCore"):
                        pids["core"] = child
                    elif title.startswith(b"VLLM::Worker"):
                        pids["worker"] = child
        missing = {"core", "worker"} - pids.keys()
        if missing:
            raise SystemExit(f"the {self.kind} server has no process of these: {', '.join(sorted(missing))}")
        return pids

    def usage(self) -> Usage:
        """In nanoseconds' resolution, where /proc/PID/stat has 10 ms."""
        return Usage(**{name: _cpu(pid) for name, pid in self.pids.items()})

    def steps(self, begin: float, end: float) -> NDArray[Any]:
        """The engine core's steps between two readings of the monotonic clock."""
        rows = _records(Path(f"{self._steps}.core"), CORE)
        inside: NDArray[Any] = rows[(rows["start"] >= begin) & (rows["start"] + rows["wall"] <= end)]
        return inside

    def calls(self, begin: float, end: float) -> NDArray[Any]:
        """Calls in the worker, likewise."""
        rows = _records(Path(f"{self._steps}.worker"), WORKER)
        inside: NDArray[Any] = rows[(rows["start"] >= begin) & (rows["start"] <= end)]
        return inside

    def signal(self, number: signal.Signals, names: Sequence[str] = ("api", "core", "worker")) -> None:
        """To some of its processes."""
        for name in names:
            os.kill(self.pids[name], number)


def _cpu(pid: int) -> float:
    ns = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            ns += int((task / "schedstat").read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue  # a thread that has ended meanwhile
    return 1e-9 * ns


def _records(path: Path, kind: np.dtype[Any]) -> NDArray[Any]:
    if not path.exists():
        return np.empty(0, kind)
    data = path.read_bytes()
    return np.frombuffer(data[: len(data) // kind.itemsize * kind.itemsize], kind)
