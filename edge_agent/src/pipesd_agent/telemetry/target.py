"""How long the target takes, by rows, and how long it has others to serve first."""

from __future__ import annotations

from typing import Final

KEPT: Final = 0.98
"""Share of the past's weight that each step leaves it: about the last 50 count."""
PRIOR_ROW_S: Final = 3e-4
"""Seconds a row, before passes of several sizes have told; next to nothing."""
PRIOR_WEIGHT: Final = 4.0


class Verifying:
    """forward_s = base + row * rows, by weighted least squares; a verdict's rows are its drafts and one more.

    Steps of 0 us, as gateways that do not measure report them, are ignored.
    """

    def __init__(self) -> None:
        self._weight = self._rows = self._seconds = self._rows_rows = self._rows_seconds = 0.0
        self._queue: float | None = None

    def stepped(self, rows: int, forward_us: int, queue_us: int) -> None:
        """A step of `rows` took so long, after so long a wait."""
        queue = queue_us * 1e-6
        self._queue = queue if self._queue is None else KEPT * self._queue + (1 - KEPT) * queue
        if not forward_us:
            return
        seconds = forward_us * 1e-6
        if (usual := self.seconds(rows)) is not None:
            seconds = min(seconds, 5 * usual)  # one that others held up is no measure of the rest
        self._weight = KEPT * self._weight + 1
        self._rows = KEPT * self._rows + rows
        self._seconds = KEPT * self._seconds + seconds
        self._rows_rows = KEPT * self._rows_rows + rows * rows
        self._rows_seconds = KEPT * self._rows_seconds + rows * seconds

    @property
    def row_s(self) -> float:
        """Seconds that a further row costs."""
        if not self._weight:
            return PRIOR_ROW_S
        spread = self._rows_rows - self._rows * self._rows / self._weight
        together = self._rows_seconds - self._rows * self._seconds / self._weight
        slope = (together + PRIOR_WEIGHT * PRIOR_ROW_S) / (spread + PRIOR_WEIGHT)
        return min(max(0.0, slope), self._seconds / self._rows)

    @property
    def base_s(self) -> float | None:
        """Seconds that a step costs besides its rows. None: there was no step yet."""
        return max(0.0, (self._seconds - self.row_s * self._rows) / self._weight) if self._weight else None

    def seconds(self, rows: int) -> float | None:
        """Of a step of `rows`. None: there was no step yet."""
        base = self.base_s
        return None if base is None else base + self.row_s * rows

    @property
    def queue_s(self) -> float | None:
        """What steps waited for others, in the mean. None: there was no step yet."""
        return self._queue
