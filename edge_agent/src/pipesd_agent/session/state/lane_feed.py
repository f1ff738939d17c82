"""The drafter's lane, as a session feeds it: which committed ids it has been told of, and which reports count."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from enum import Enum, auto
from typing import Final

from pipesd_agent.session.actions import Action, Commit, StartDrafting, StopDrafting
from pipesd_core.protocol.messages import Opened

FEED_EVERY: Final = 64
"""Committed ids that a resting lane is told of at once: in a batch they cost the device a fraction, and going back to
drafting has no more than these to catch up with."""


class LaneState(Enum):
    """Whether there is a drafter for the session."""

    NONE = auto()
    CLOSED = auto()
    """There may be, but its lane is not open: nothing is drafted yet."""
    OPEN = auto()


class LaneFeed:
    """Actions for the lane go to `actions`.

    Attributes:
        state: see `LaneState`.
        untold: committed ids that the lane has not been told of.
    """

    def __init__(self, actions: list[Action]) -> None:
        self.state = LaneState.NONE
        self.untold: list[int] = []
        self._actions = actions
        self._commits = 0
        self._commit_ends: list[int] = []
        """How much was committed after each of them."""
        self._valid_from = 0
        """Reports after fewer commits are of a path that the target has contradicted."""

    @property
    def drafting(self) -> bool:
        return self.state is not LaneState.NONE

    def open(self, opened: Opened, committed: Sequence[int]) -> None:
        """Open the lane with all that is committed."""
        self.state = LaneState.OPEN
        self.untold.clear()
        self._actions.append(StartDrafting(tuple(committed), opened.params, frozenset(opened.eos_ids)))

    def commit(self, base: int, limit: int) -> None:
        """Tell the lane what it has not been told, and where it has to stop. base: ids committed."""
        tokens = tuple(self.untold)
        self.untold.clear()
        if self.state is LaneState.OPEN:
            self._commits += 1
            self._commit_ends.append(base)
            self._actions.append(Commit(tokens, limit))

    def close(self) -> None:
        """Nothing more is drafted."""
        if self.state is LaneState.OPEN:
            self._actions.append(StopDrafting())
        self.state = LaneState.NONE

    def is_valid(self, commit: int) -> bool:
        """Whether a report of the lane after `commit` commits counts."""
        return self.drafting and commit >= self._valid_from

    def contradicted(self) -> None:
        """The path was thrown away with the last commit: reports count that come after it."""
        self._valid_from = self._commits

    def contradicted_at(self, position: int) -> None:
        """The path differs from what is committed there: the lane learns of it from the commit that decided it."""
        self._valid_from = 1 + bisect_right(self._commit_ends, position)
