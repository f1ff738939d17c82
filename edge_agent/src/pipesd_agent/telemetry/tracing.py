"""Traces of live requests, `--trace DIR` (docs/operation.md): what was drafted, sent and decided, and when.

A request notes its rows in memory; when it is over they are written to a file of its own, by a thread. Token ids of
the answer are in it, which is as good as its text; the prompt and the request are not. Read
by `bench.proving.traces.live`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from pipesd_agent.drafting.drafter import DraftToken
from pipesd_agent.session.observer import Decision, NullObserver
from pipesd_core.errors import ConfigError
from pipesd_core.protocol.messages import Draft, EdgeMessage, Opened, Reason
from pipesd_core.service.logs import Changes

log = logging.getLogger(__name__)

MAX_ROWS: Final = 20_000
"""Rows of one request, about 2 MB of file; what comes later is left out."""
MAX_FILES: Final = 1000
"""In the folder; from there on nothing is recorded."""
MAX_WAITING: Final = 16
"""Requests whose files are not written yet; more at once are dropped."""
CLOSE_S: Final = 10.0
SUFFIX: Final = ".trace.json"


class Drafted(Struct, frozen=True, array_like=True):
    """A token that went into the session's window. after: verdicts that had come before. Times in seconds from the
    request's beginning; figures as in `DraftToken`."""

    at: float
    after: int
    position: int
    token: int
    confidence: float
    margin: float
    entropy: float


class SentDrafts(Struct, frozen=True, array_like=True):
    """`count` ids from `start` on left in a message of `size` bytes, with the wish to verify through a position."""

    at: float
    start: int
    count: int
    wish: int | None
    size: int


class Decided(Struct, frozen=True, array_like=True):
    """A verdict arrived: `count` ids from `start` on; the rest as in `Verdict`."""

    at: float
    start: int
    count: int
    verified: int
    accepted: int
    reason: Reason
    queue_us: int
    forward_us: int


class LiveTrace(Struct, frozen=True):
    """One file. tokens: output ids. whole: no row was left out. Positions count from the beginning of the prompt."""

    version: int
    request: str
    prompt_length: int
    temperature: float
    seed: int
    eos: tuple[int, ...]
    tokens: tuple[int, ...]
    drafted: tuple[Drafted, ...]
    sent: tuple[SentDrafts, ...]
    decided: tuple[Decided, ...]
    whole: bool


VERSION: Final = 1


class Tracer(NullObserver):
    """An observer that notes what one request does."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._drafted: list[Drafted] = []
        self._sent: list[SentDrafts] = []
        self._decided: list[Decided] = []
        self._room = MAX_ROWS

    def drafted(self, token: DraftToken, now: float) -> None:  # noqa: ARG002
        if self._take_room():
            figures = (token.drafter_confidence, token.margin, token.entropy)
            self._drafted.append(Drafted(self._now(), len(self._decided), token.position, token.token, *figures))

    def sent(self, message: EdgeMessage, size: int, now: float) -> None:  # noqa: ARG002
        if isinstance(message, Draft) and self._take_room():
            draft = message
            self._sent.append(SentDrafts(self._now(), draft.start, len(draft.ids), draft.verify_through, size))

    def decided(self, decision: Decision, now: float) -> None:  # noqa: ARG002
        if self._take_room():
            v = decision.verdict
            figures = (v.verified, v.accepted, v.reason, v.queue_us, v.forward_us)
            self._decided.append(Decided(self._now(), v.start, len(v.tokens), *figures))

    def trace(self, request_id: str, opened: Opened | None, committed: Sequence[int]) -> LiveTrace | None:
        """What there is so far of a request with these ids, the prompt's included; None: nothing was drafted."""
        if opened is None or not self._drafted:
            return None
        params, prompt = opened.params, len(opened.prompt_ids)
        return LiveTrace(
            version=VERSION,
            request=request_id,
            prompt_length=prompt,
            temperature=params.temperature,
            seed=params.seed,
            eos=opened.eos_ids,
            tokens=tuple(committed[prompt:]),
            drafted=tuple(self._drafted),
            sent=tuple(self._sent),
            decided=tuple(self._decided),
            whole=self._room >= 0,
        )

    def _now(self) -> float:
        return round(time.monotonic() - self._began, 6)

    def _take_room(self) -> bool:
        """Once a row was left out, so are all that follow: a gap would make them say something else."""
        self._room -= self._room >= 0
        return self._room >= 0


class TraceFiles:
    """The folder of traces, readable by its owner only. Raises ConfigError where it cannot be made."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            count = sum(1 for _ in folder.glob(f"*{SUFFIX}"))
        except OSError as error:
            raise ConfigError(f"trace must be a folder to write to, but {folder} cannot be: {error}") from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ConfigError(f"trace must be a folder to write to, but {folder} cannot be written to")
        self._left = MAX_FILES - count
        self._number = 0
        self._waiting = threading.Semaphore(MAX_WAITING)
        self._thread = ThreadPoolExecutor(1, "traces")
        self._closed = False
        self._failures = Changes()

    def begin(self) -> Tracer | None:
        """For a new request; None: the folder is full."""
        return Tracer() if self._left > 0 else None

    def add(self, trace: LiveTrace | None) -> None:
        """A request is over: write its trace, if it has one."""
        if trace is None or self._left <= 0 or self._closed:
            return
        if not self._waiting.acquire(blocking=False):
            log.warning("request %s is not traced: %d traces wait for the disk", trace.request, MAX_WAITING)
            return
        self._left -= 1
        self._number += 1
        if not self._left:
            log.warning("%s holds %d traces: no more are written; move them away, restart", self._folder, MAX_FILES)
        name = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}-{self._number:04d}{SUFFIX}"
        self._thread.submit(self._write, trace, self._folder / name)

    async def aclose(self) -> None:
        """Waits, `CLOSE_S` at most, for what is to be written. Harmless when repeated."""
        self._closed = True
        try:
            async with asyncio.timeout(CLOSE_S):
                await asyncio.to_thread(self._thread.shutdown)
        except TimeoutError:
            log.error("traces could not be written to %s within %g s", self._folder, CLOSE_S)

    def _write(self, trace: LiveTrace, path: Path) -> None:
        part = path.with_suffix(".part")
        try:
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(msgspec.json.encode(trace))
            part.rename(path)
            self._failures.new("")
        except Exception as error:  # whatever it is: nobody asks for the result of this
            if self._failures.new(f"{type(error).__name__} {getattr(error, 'errno', '')}"):
                log.error("the trace of request %s could not be written to %s: %s", trace.request, path, error)
            with contextlib.suppress(OSError):
                part.unlink()
        finally:
            self._waiting.release()
