"""Loaded by every Python process of a vLLM server that bench/vllm starts (PYTHONPATH): a clock around engine steps.

The server's flags stay as they are, so stock vLLM is stock. Each step of the engine core and each call in its worker
is one record, appended to the file that PIPESD_BENCH_STEPS names, with `.core` or `.worker` behind it. A record costs
a few readings of clocks and one `write`. SIGUSR1 starts a cProfile of the main thread where PIPESD_BENCH_PROFILE names
a folder, SIGUSR2 ends it and writes it there.

vLLM's processes wait for each other in a busy loop: CPU time in `MessageQueue.dequeue` is waiting, and counted apart.
"""

from __future__ import annotations

import cProfile
import importlib.abc
import importlib.machinery
import os
import signal
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STEPS = os.environ.get("PIPESD_BENCH_STEPS", "")
PROFILE = os.environ.get("PIPESD_BENCH_PROFILE", "")
CORE = struct.Struct("<8d4q")
"""start, wall, cpu, waited, waited_cpu, schedule, update, post; requests, tokens, drafts, calls (seconds; CPU of the
main thread)."""
WORKER = struct.Struct("<3dq")
"""start, wall, cpu; which of CALLS, or its length."""
CALLS = ("execute_model", "sample_tokens", "take_draft_token_ids")


class _Waited:
    """What this process has waited for the other."""

    wall = 0.0
    cpu = 0.0
    calls = 0


def _file(suffix: str) -> int:
    return os.open(STEPS + suffix, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)


def _timed(owner: Any, name: str, spent: dict[str, float]) -> None:
    original = getattr(owner, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        result = original(*args, **kwargs)
        spent[name] = time.perf_counter() - began
        if name == "schedule":
            spent["requests"] = len(result.num_scheduled_tokens)
            spent["tokens"] = result.total_num_scheduled_tokens
            spent["drafts"] = sum(map(len, result.scheduled_spec_decode_tokens.values()))
        return result

    setattr(owner, name, timed)


def _core(module: Any) -> None:
    original = module.EngineCoreProc._process_engine_step
    spent: dict[str, float] = {}
    file = -1

    def _process_engine_step(self: Any) -> Any:
        nonlocal file
        if file < 0:
            file = _file(".core")
            _timed(self.scheduler, "schedule", spent)
            _timed(self.scheduler, "update_from_output", spent)
            _timed(self, "post_step", spent)
        spent.clear()
        _Waited.wall = _Waited.cpu = 0.0
        _Waited.calls = 0
        start, cpu = time.monotonic(), time.thread_time()
        executed = original(self)
        if executed:
            taken = time.monotonic() - start, time.thread_time() - cpu, _Waited.wall, _Waited.cpu
            parts = (spent.get(name, 0.0) for name in ("schedule", "update_from_output", "post_step"))
            counts = (int(spent.get(name, 0)) for name in ("requests", "tokens", "drafts"))
            os.write(file, CORE.pack(start, *taken, *parts, *counts, _Waited.calls))
        return executed

    module.EngineCoreProc._process_engine_step = _process_engine_step


def _queue(module: Any) -> None:
    original = module.MessageQueue.dequeue

    def dequeue(self: Any, *args: Any, **kwargs: Any) -> Any:
        began, cpu = time.perf_counter(), time.thread_time()
        try:
            return original(self, *args, **kwargs)
        finally:
            _Waited.wall += time.perf_counter() - began
            _Waited.cpu += time.thread_time() - cpu
            _Waited.calls += 1

    module.MessageQueue.dequeue = dequeue


def _worker(module: Any) -> None:
    original = module.WorkerProc._execute_worker_rpc
    file = -1

    def _execute_worker_rpc(self: Any, request: Any) -> None:
        nonlocal file
        if file < 0:
            file = _file(".worker")
        start, cpu = time.monotonic(), time.thread_time()
        original(self, request)
        which = CALLS.index(request[0]) if request[0] in CALLS else len(CALLS)
        os.write(file, WORKER.pack(start, time.monotonic() - start, time.thread_time() - cpu, which))

    module.WorkerProc._execute_worker_rpc = _execute_worker_rpc


PATCHES: dict[str, Callable[[Any], None]] = {
    "vllm.v1.engine.core": _core,
    "vllm.distributed.device_communicators.shm_broadcast": _queue,
    "vllm.v1.executor.multiproc_executor": _worker,
}


class _Finder(importlib.abc.MetaPathFinder):
    """Patches a module once it has been imported."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name not in PATCHES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            execute(module)
            PATCHES[name](module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _profile_on_signals() -> None:
    profile: cProfile.Profile | None = None

    def start(*_: Any) -> None:
        nonlocal profile
        profile = cProfile.Profile()
        profile.enable()

    def stop(*_: Any) -> None:
        nonlocal profile
        if profile is not None:
            profile.disable()
            profile.dump_stats(Path(PROFILE) / f"{os.getpid()}.prof")
            profile = None

    signal.signal(signal.SIGUSR1, start)
    signal.signal(signal.SIGUSR2, stop)


if os.environ.get("PIPESD_V2_BED"):  # of two modules of this name Python loads the first, and this is it
    import v2_bed

    v2_bed.install()
if STEPS:
    sys.meta_path.insert(0, _Finder())
if PROFILE:
    _profile_on_signals()
