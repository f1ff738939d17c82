"""Changes of a measured figure that are worth deciding anew what was decided by it."""

from __future__ import annotations

import math
from typing import Final

RELATIVE: Final = 0.2
SIGMAS: Final = 3.0


class Change:
    """A figure moves where it differs by more than a fifth from what was last noted, and beyond what noise explains.

    least: no smaller a difference counts, in the figure's unit.
    """

    def __init__(self, least: float = 0.0) -> None:
        self.noted: float | None = None
        """The figure that the last decision was made by; None: none has been."""
        self._least = least
        self._error = 0.0

    def moved(self, value: float, error: float) -> bool:
        """Compare, and take note of the value if it has moved, or is the first. error: its standard error."""
        if self.noted is not None:
            difference = abs(value - self.noted)
            sure = SIGMAS * math.hypot(error, self._error)
            if difference <= max(RELATIVE * self.noted, self._least, sure):
                if error < self._error and difference < sure:
                    self._error = error  # nothing but that has become clearer
                return False
        self.noted, self._error = value, error
        return True
