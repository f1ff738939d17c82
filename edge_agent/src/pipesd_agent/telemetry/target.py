"""Estimates how long the target takes for a step, by its rows, and how long a step waits for others."""

from __future__ import annotations

from typing import Final

from pipesd_agent.telemetry.faded_line import FadedLine

KEPT: Final = 0.98
"""Share of the past's weight that each step leaves it: about the last 50 count."""
PRIOR_ROW_S: Final = 3e-4
"""Seconds a row, before passes of several sizes have told; next to nothing."""
PRIOR_WEIGHT: Final = 4.0


class Verifying:
    """forward_s = base_s + row_s * rows; a verdict's rows are its drafts and one more.

    Steps of 0 us, as gateways that do not measure report them, are ignored.
    """

    def __init__(self) -> None:
        self._line = FadedLine(KEPT, PRIOR_ROW_S, PRIOR_WEIGHT)
        self._queue: float | None = None

    def stepped(self, rows: int, forward_us: int, queue_us: int) -> None:
        """Take a step of `rows` that took so long, after so long a wait."""
        queue = queue_us * 1e-6
        self._queue = queue if self._queue is None else KEPT * self._queue + (1 - KEPT) * queue
        if not forward_us:
            return
        seconds = forward_us * 1e-6
        if (usual := self.seconds(rows)) is not None:
            seconds = min(seconds, 5 * usual)  # one that others held up is no measure of the rest
        self._line.add(rows, seconds)

    @property
    def row_s(self) -> float:
        """Seconds that a further row costs."""
        each = self._line.ratio
        return self._line.slope if each is None else min(self._line.slope, each)

    @property
    def base_s(self) -> float | None:
        """Seconds that a step costs besides its rows. None: there was no step yet."""
        return self._line.intercept(self.row_s)

    def seconds(self, rows: int) -> float | None:
        """Seconds of a step of `rows`. None: there was no step yet."""
        base = self.base_s
        return None if base is None else base + self.row_s * rows

    @property
    def queue_s(self) -> float | None:
        """Seconds that steps waited for others, in the mean. None: there was no step yet."""
        return self._queue
