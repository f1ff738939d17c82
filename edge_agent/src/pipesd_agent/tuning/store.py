"""The last accepted thresholds, on disk so that the next start begins with them (architecture §6, tuner).

A small JSON file in ${XDG_STATE_HOME:-~/.local/state}/pipesd, replaced as a whole. A file that cannot be read or
written is a warning in the log: the agent then begins with its defaults.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from pipesd_agent.tuning.replay import Pair
from pipesd_core.text_encoding import without_mark

log = logging.getLogger(__name__)

FILE: Final = "thresholds.json"
STORED_PAIRS: Final = 64
"""Pairs that are kept: the ones stored last."""
LARGEST_FILE_BYTES: Final = 64 * 1024
"""A larger file is not ours."""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    pairs: dict[str, Pair]


def state_file(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The path of the file; None: this user has no home, as in some containers, which is a warning in the log."""
    try:
        base = environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    except RuntimeError as error:
        log.warning("tuned thresholds are not kept for the next start: %s Set HOME or XDG_STATE_HOME.", error)
        return None
    return Path(base) / "pipesd" / FILE


class ThresholdStore:
    """Persists the last accepted thresholds per drafter, gateway and objective, see `store_key`.

    Reads the file when it is made, and writes it with every `put` of something new.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pairs = self._read()

    def get(self, key: str) -> Pair | None:
        """The pair stored last for `key`; None: there is none."""
        return self._pairs.get(key)

    def put(self, key: str, pair: Pair) -> None:
        """Store a pair. Blocks for a write of a few kilobytes, unless this pair is stored already."""
        if self._pairs.get(key) == pair:
            return
        self._pairs.pop(key, None)
        self._pairs[key] = pair
        while len(self._pairs) > STORED_PAIRS:
            del self._pairs[next(iter(self._pairs))]
        part = self._path.with_suffix(f".{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(msgspec.json.encode(_File(1, self._pairs)) + b"\n")
            part.replace(self._path)
        except OSError as error:
            log.warning("cannot keep the tuned thresholds in %s: %s", self._path, error)

    def _read(self) -> dict[str, Pair]:
        try:
            with self._path.open("rb") as file:
                data = file.read(LARGEST_FILE_BYTES + 1)
            if len(data) > LARGEST_FILE_BYTES:
                raise ValueError(f"it has more than {LARGEST_FILE_BYTES} bytes")
            found = msgspec.json.decode(without_mark(data), type=_File)
            if found.version != 1:
                raise ValueError(f"it is of version {found.version}")
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
            log.warning("ignoring the tuned thresholds in %s: %s", self._path, error)
            return {}
        return {key: pair for key, pair in found.pairs.items() if 0 <= pair.r1 <= 1 and 0 <= pair.r2 <= 1}


def store_key(draft: str, gateway: str, verification_cost_ms: float, *, sampled: bool) -> str:
    """The key of a pair. draft: identifies the drafter, such as its name and its fingerprint in hexadecimal."""
    return f"{draft} {gateway} {verification_cost_ms:g} {'sampled' if sampled else 'greedy'}"
