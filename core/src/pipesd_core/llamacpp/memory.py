"""Memory and cores: what a context of a model takes, and what this machine, or the container, has left for it.

A KV cache is written over when it is made, so one that does not fit is the end of the process by SIGKILL, without a
word. Hence the estimate before it is made. All numbers are bytes.
"""

from __future__ import annotations

import logging
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from msgspec import Struct

from pipesd_core.errors import ModelLoadError

log = logging.getLogger(__name__)

MAX_SHARE: Final = 0.9
"""Most of the available memory that one context may take: the rest of the program needs some as well."""
_PADDING: Final = 256
"""llama.cpp rounds the tokens of a sequence up to a multiple of this."""
_KV_BYTES: Final = 2
"""f16, the type of all our KV caches; of the attention mask as well."""
_LOGIT_BYTES: Final = 4
_PROC: Final = Path("/proc")
_CGROUPS: Final = Path("/sys/fs/cgroup")


class ContextShape(Struct, frozen=True):
    """The sizes of a model that the memory of its contexts depends on.

    layers: those that cache on this machine's memory, not on a GPU's. key_size, value_size: of one head, in numbers.
    """

    layers: int
    kv_heads: int
    key_size: int
    value_size: int
    n_vocab: int

    @property
    def token_bytes(self) -> int:
        """Bytes of the KV cache for one token."""
        return self.layers * self.kv_heads * (self.key_size + self.value_size) * _KV_BYTES

    def context_bytes(self, n_ctx_seq: int, n_seq: int, n_batch: int) -> int:
        """Bytes of a context: the KV cache, and for each row of a batch its attention mask and twice its logits."""
        padded = -(-n_ctx_seq // _PADDING) * _PADDING
        rows = n_batch * (padded * _KV_BYTES + 2 * self.n_vocab * _LOGIT_BYTES)
        return n_seq * padded * self.token_bytes + rows

    def largest_context(self, memory: int, n_seq: int, n_batch: int) -> int:
        """The most tokens of a sequence with which a context fits into `memory`; 0: none does."""
        block = self.context_bytes(_PADDING, n_seq, n_batch) - self.context_bytes(0, n_seq, n_batch)
        return max(0, (memory - self.context_bytes(0, n_seq, n_batch)) // max(1, block)) * _PADDING


def check_fits(name: str, shape: ContextShape, n_ctx_seq: int, n_seq: int, n_batch: int, weights: int) -> None:
    """Refuse a context that this machine has no memory for, before any of it is allocated.

    name: of the model's file. weights: its size. Raises ModelLoadError that gives the largest context that fits.
    """
    available = available_memory()
    if available is None:
        return
    needed, most = shape.context_bytes(n_ctx_seq, n_seq, n_batch), int(MAX_SHARE * available)
    if needed > most:
        fits = shape.largest_context(most, n_seq, n_batch)
        remedy = f"the largest that fits is a context of {fits}" if fits else "no context fits with so many sequences"
        raise ModelLoadError(
            f"a context of {n_ctx_seq} tokens for each of {n_seq} sequences of {name} takes {size(needed)} of memory "
            f"(the KV cache has {shape.layers} layers of {shape.kv_heads} heads of "
            f"{shape.key_size} + {shape.value_size} numbers of {_KV_BYTES} bytes), but {size(available)} are available "
            f"here, of which it may have {size(most)}: {remedy}; choose a smaller context, or fewer sequences (n_seq "
            "of a gateway, capacity of an agent)"
        )
    if needed + weights > available:
        log.warning(
            "%s and its context take %s + %s, but %s of memory are available: parts of the model will be read from "
            "the disk again and again, which is very slow",
            *(name, size(weights), size(needed), size(available)),
        )


def fitted_context(name: str, context: int, trained: int) -> int:
    """The tokens of a sequence that are used where `context` is asked for: no more than the model was trained for.

    trained: 0 where the file does not say. What is cut is logged.
    """
    if not trained or context <= trained:
        return context
    log.warning("context is %d, but %s was trained for at most %d tokens: %d are used", context, name, trained, trained)
    return trained


def fitted_threads(threads: int) -> int:
    """The threads of llama.cpp that are used where `threads` is asked for: no more than there are cores for us.

    They wait for each other at every operation, so that one without a core makes all of them many times slower. What
    is cut is logged.
    """
    cores = available_cores()
    if threads <= cores:
        return threads
    log.warning("threads is %d, but this program may use %d cores: %d threads are used", threads, cores, cores)
    return cores


def available_memory() -> int | None:
    """Memory that can be had without swapping, in bytes: of the machine, of the container; None: not known here."""
    found = [*_of_machine(), *_of_containers()]
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        found.append(max(0, limit - _address_space()))
    return min(found, default=None)


def available_cores() -> int:
    """Cores that this process may use, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _cgroups():
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        if quota.isdecimal() and period.strip().isdecimal():
            cores = min(cores, -(-int(quota) // int(period)))
    return max(1, cores)


def size(count: int) -> str:
    """A number of bytes for people: "1.5 GiB"."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{-(-count // 1024)} KiB"


def _of_machine() -> Iterator[int]:
    for line in _lines(_PROC / "meminfo"):
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            yield int(value.split()[0]) * 1024


def _of_containers() -> Iterator[int]:
    """What the limit of each control group that this process is in leaves. Cached files count as free."""
    for folder in _cgroups():
        for limit, used, files in (
            ("memory.max", "memory.current", ("inactive_file", "active_file")),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
        ):
            most = _read(folder / limit).strip()
            now = _read(folder / used).strip()
            if most.isdecimal() and now.isdecimal():
                stat = dict(line.split(maxsplit=1) for line in _lines(folder / "memory.stat"))
                yield max(0, int(most) - int(now) + sum(int(stat.get(name, 0)) for name in files))


def _cgroups() -> Iterator[Path]:
    """The folders of the control groups of this process and of those above them, as far as they can be seen."""
    for line in _lines(_PROC / "self" / "cgroup"):
        _, controllers, path = line.split(":", 2)
        names = controllers.split(",")
        if controllers and "memory" not in names and "cpu" not in names:
            continue
        root = _CGROUPS / ("memory" if "memory" in names else controllers) if controllers else _CGROUPS
        folder = root / path.lstrip("/")
        yield from (one for one in (folder, *folder.parents) if one.is_relative_to(root))


def _address_space() -> int:
    pages = _read(_PROC / "self" / "statm").split()[:1]
    return int(pages[0]) * resource.getpagesize() if pages else 0


def _lines(path: Path) -> list[str]:
    return [line for line in _read(path).split("\n") if line]


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8", "replace")
    except OSError:
        return ""
