"""One part of the checks: a program with a time limit of its own, and what became of it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

PASSED: Final = "PASSED"
FAILED: Final = "FAILED"
SKIPPED: Final = "SKIPPED"
OUT_OF_TIME: Final = "OUT OF TIME"
ENDING_S: Final = 20.0
"""What a part whose time is up has to stop what it has started."""
SKIPPED_CODE: Final = 77
"""The exit code of a program that finds out for itself that it cannot be run here; its last line says why."""
_TAIL: Final = 1500
_running: set[subprocess.Popen[bytes]] = set()


class Part(Struct, frozen=True):
    """A program to be run.

    Args:
        command: it writes what it found, a JSON object, to the file that FIGURES names, as often as it likes.
        alone: it measures times: nothing else may run beside it.
        lacks: why it cannot run here, or None.
    """

    name: str
    what: str
    command: list[str]
    environ: Mapping[str, str]
    limit_s: float
    alone: bool = False
    lacks: str | None = None


FIGURES: Final = "PIPESD_GPU_FIGURES"
"""The environment variable with the path of a part's file."""
SECONDS: Final = "PIPESD_GPU_SECONDS"
"""The one with the seconds after which a part is told to end."""


class Outcome(Struct, frozen=True):
    """What became of a part. said: its last line, or the reason for its state; figures: what it has written."""

    name: str
    what: str
    state: str
    seconds: float
    said: str
    figures: dict[str, Any]


def write_figures(figures: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> None:
    """Of a part's program: put what it has found so far into its file."""
    path = Path(environ[FIGURES])
    beside = path.with_suffix(".new")
    beside.write_bytes(msgspec.json.encode(dict(figures)))
    beside.replace(path)


def run(part: Part, folder: Path, left_s: float) -> Outcome:
    """Run a part to its end or to the end of its time, whatever it does. Its output is in the folder, by its name.

    Args:
        left_s: of the time of all parts.
    """
    limit = min(part.limit_s, left_s)
    if part.lacks is not None:
        return Outcome(part.name, part.what, SKIPPED, 0.0, part.lacks, {})
    if limit <= ENDING_S:
        return Outcome(part.name, part.what, SKIPPED, 0.0, "no time is left for it (--limit)", {})
    log, figures = folder / f"{part.name}.log", folder / f"{part.name}.json"
    figures.unlink(missing_ok=True)
    began = time.monotonic()
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(
                part.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | dict(part.environ) | {FIGURES: str(figures), SECONDS: f"{limit - ENDING_S:.1f}"},
                start_new_session=True,
            )
        except OSError as error:
            return Outcome(part.name, part.what, FAILED, 0.0, f"cannot be started: {error}", {})
        _running.add(process)
        try:
            code = _wait(process, limit - ENDING_S)
        finally:
            _running.discard(process)
    seconds = time.monotonic() - began
    text = log.read_text(errors="replace").strip()
    found = _read(figures)
    if code is None:
        return Outcome(part.name, part.what, OUT_OF_TIME, seconds, f"stopped after {seconds:.0f} s: see {log}", found)
    if code in (0, SKIPPED_CODE):
        state = PASSED if code == 0 else SKIPPED
        return Outcome(part.name, part.what, state, seconds, text.rpartition("\n")[2], found)
    said = f"exit code {code}: {text[-_TAIL:]}"
    return Outcome(part.name, part.what, FAILED, seconds, said, found)


def stop_running() -> None:
    """Tell all parts that run to end."""
    for process in list(_running):
        _kill(process, signal.SIGTERM)


def _wait(process: subprocess.Popen[bytes], limit: float) -> int | None:
    """The exit code; None: its time was up, and it was ended with all of its process group."""
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        _kill(process, signal.SIGTERM)
    try:
        process.wait(ENDING_S)
    except subprocess.TimeoutExpired:
        _kill(process, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):  # one that hangs in the GPU's driver outlives even that
            process.wait(ENDING_S)
    return None


def _kill(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError):
        return {}
    return found
