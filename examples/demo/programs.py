"""The programs of the demo, gateway and agent, as processes of this machine."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

ROOT: Final = Path(__file__).resolve().parents[2]
READY_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 8.0
RECORD_TIMEOUT_S: Final = 30.0
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LOG_LINES: Final = 30
"""Last lines of a log that are shown when its program did not start."""


@contextmanager
def running(name: str, folder: str, *arguments: str, log_name: str | None = None) -> Iterator[tuple[str, int]]:
    """Run a program of ours; gives its URL (…/v1) and process id when it is ready, and ends it in every case."""
    log = Path(folder) / f"{log_name or name}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            (sys.executable, "-m", name, *arguments),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for this script, which then stops all in order
        )
    try:
        yield wait_until_ready(name, process, log), process.pid
    finally:
        handlers = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}  # nothing may interrupt this
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def wait_until_ready(name: str, process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        if found := re.search(r"^listening on (\S+)$", log.read_text(errors="replace"), re.MULTILINE):
            return found[1]
        if process.poll() is not None:
            break
        time.sleep(0.05)
    why = f"is not ready after {READY_TIMEOUT_S:g} s" if process.poll() is None else f"ended with {process.returncode}"
    lines = log.read_text("utf-8", errors="replace").rstrip("\n").split("\n")[-LOG_LINES:]
    raise SystemExit("\n".join([f"{name} {why}. The end of its log:", *lines]))


def port(wanted: int) -> str:
    """The wanted port if it is free, else 0: any other."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            return "0"
    return str(wanted)


def record_of(agent_url: str, request_id: str) -> dict[str, Any]:
    """What the agent says that a finished request did; it is there a moment after the answer."""
    for _ in range(100):
        response = httpx.get(f"{agent_url}/pipesd/requests/{request_id}", timeout=RECORD_TIMEOUT_S)
        if response.status_code != httpx.codes.NOT_FOUND and response.json().get("finished", True):
            break
        time.sleep(0.02)
    record: dict[str, Any] = response.raise_for_status().json()
    return record
