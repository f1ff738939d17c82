"""A straight line through measurements, the older of which count less and less."""

from __future__ import annotations


class FadedLine:
    """y = intercept + slope * x, by weighted least squares.

    Args:
        kept: share of the past's weight that each measurement leaves it, 0..1.
        slope: what it is believed to be before measurements at several x have told.
        weight: of that belief, in units of x².
    """

    def __init__(self, kept: float, slope: float, weight: float) -> None:
        self._kept = kept
        self._prior_slope = slope
        self._prior_weight = weight
        self._weight = self._x = self._y = self._xx = self._xy = 0.0

    def add(self, x: float, y: float) -> None:
        """Take a measurement."""
        kept = self._kept
        self._weight = kept * self._weight + 1
        self._x = kept * self._x + x
        self._y = kept * self._y + y
        self._xx = kept * self._xx + x * x
        self._xy = kept * self._xy + x * y

    @property
    def slope(self) -> float:
        """0 or more."""
        if not self._weight:
            return self._prior_slope
        spread = self._xx - self._x * self._x / self._weight
        together = self._xy - self._x * self._y / self._weight
        return max(0.0, (together + self._prior_weight * self._prior_slope) / (spread + self._prior_weight))

    @property
    def ratio(self) -> float | None:
        """y for each x, in the mean. None: nothing was measured."""
        return self._y / self._x if self._weight else None

    def intercept(self, slope: float) -> float | None:
        """0 or more, of a line with this slope. None: nothing was measured."""
        return max(0.0, (self._y - slope * self._x) / self._weight) if self._weight else None
