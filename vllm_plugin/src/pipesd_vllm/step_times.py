"""How long the steps of this server's sessions waited and took, between the engine's outputs and who asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class StepTimes:
    """Times by park key, of the sessions that are watched."""

    def __init__(self) -> None:
        self._times: dict[str, tuple[int, int]] = {}

    def watch(self, key: str) -> None:
        """Begin to keep a session's times. Whoever does so calls `forget` in the end."""
        self._times[key] = (0, 0)

    def add(self, times: Mapping[str, Sequence[int]]) -> None:
        """Take what came with an output of the engine: (waited, took) in microseconds, by park key."""
        for key, (waited, took) in times.items():
            if (kept := self._times.get(key)) is not None:
                self._times[key] = (kept[0] + waited, kept[1] + took)

    def take(self, key: str) -> tuple[int, int]:
        """What has come of a watched session since the last call: (waited, took) in microseconds."""
        times, self._times[key] = self._times[key], (0, 0)
        return times

    def forget(self, key: str) -> None:
        """Keep nothing more of a session."""
        self._times.pop(key, None)

    def __len__(self) -> int:
        return len(self._times)
