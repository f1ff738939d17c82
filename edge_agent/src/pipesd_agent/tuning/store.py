"""The last good thresholds, kept on disk so that the next start begins with them (architecture §6, tuner).

A small JSON file in ${XDG_STATE_HOME:-~/.local/state}/pipesd, replaced as a whole. What cannot be read or written is a
warning: the agent begins with its defaults then.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from pipesd_agent.tuning.replay import Pair

log = logging.getLogger(__name__)

FILE: Final = "thresholds.json"
MOST: Final = 64
"""Pairs that are kept, the ones put last."""
LARGEST: Final = 64 * 1024
"""Bytes; a larger file is not ours."""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    pairs: dict[str, Pair]


def state_file(environ: Mapping[str, str] = os.environ) -> Path:
    """Where it is kept."""
    base = environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "pipesd" / FILE


class GoodPairs:
    """By key, see `key`. Reads the file when it is made, and writes it with every `put` of something new."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pairs = self._read()

    def get(self, key: str) -> Pair | None:
        return self._pairs.get(key)

    def put(self, key: str, pair: Pair) -> None:
        """Blocks for a write of a few kilobytes, unless this is what is kept already."""
        if self._pairs.get(key) == pair:
            return
        self._pairs.pop(key, None)
        self._pairs[key] = pair
        while len(self._pairs) > MOST:
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
                data = file.read(LARGEST + 1)
            if len(data) > LARGEST:
                raise ValueError(f"it has more than {LARGEST} bytes")
            found = msgspec.json.decode(data, type=_File)
            if found.version != 1:
                raise ValueError(f"it is of version {found.version}")
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
            log.warning("ignoring the tuned thresholds in %s: %s", self._path, error)
            return {}
        return {key: pair for key, pair in found.pairs.items() if 0 <= pair.r1 <= 1 and 0 <= pair.r2 <= 1}


def key(draft: str, gateway: str, price_ms: float, *, sampled: bool) -> str:
    """draft: of the drafter, its fingerprint in hexadecimal, say."""
    return f"{draft} {gateway} {price_ms:g} {'sampled' if sampled else 'greedy'}"
