"""Free runs, from the edge's side: where the target goes on by itself, and where the drafter rests meanwhile.

A *run* is what the gateway was told (`Run.until`); a *rest* is what the mode asked for: the target runs through some
positions, and the drafter pauses until shortly before their end.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from msgspec import Struct

from pipesd_core.protocol.messages import FOREVER

STOP: Final = 0
"""`Run.until` that ends a free run: no position of an answer is less."""
NOT_RUNNING: Final = -1


class RunState(Enum):
    """Which free run the gateway is in, as far as it was told."""

    NONE = auto()
    START = auto()
    """The one that every session begins in; the first draft or run ends it."""
    EDGE = auto()
    """The last one that it was told of, through `FreeRun.until`."""
    STOPPED = auto()
    """None: it was told to stop, which it may not have received."""


class Rest(Struct, frozen=True):
    """The target runs through position `until`; nothing is drafted while no more than `paused_until` is committed."""

    until: int
    paused_until: int


class FreeRun:
    """The free run of one session: what the gateway was told, what it will be told, and the rest of the drafter.

    Attributes:
        state, until: the run under way, and its last position; NOT_RUNNING where there is none.
        pending: last position of the run that is to be told next; None: nothing is.
        after_drafts: the pending run comes after what is drafted, whose verification goes first.
        stop_first: the next draft has to end the run under way.
        rest: the last one that the mode asked for and has not taken back.
        resting: the drafter pauses.
    """

    def __init__(self) -> None:
        self.state = RunState.START
        self.until = FOREVER
        self.pending: int | None = None
        self.after_drafts = False
        self.stop_first = False
        self.rest: Rest | None = None
        self.resting = False

    def begin(self, prompt_length: int, free_start: int) -> None:
        """A gateway opens the session: the target writes `free_start` tokens, or until it is told otherwise."""
        self.state = RunState.START
        self.until = min(prompt_length + free_start - 1, FOREVER)

    def drafts_sent(self) -> None:
        """Drafts go up: they end the run that a session starts in."""
        if self.state is RunState.START:
            self.state, self.until = RunState.NONE, NOT_RUNNING

    def next_run(self, committed: int) -> int | None:
        """Take the pending run, if it goes beyond `committed` ids: it is told now. None: there is none."""
        until, self.pending = self.pending, None
        if until is None or until < committed:
            return None
        self.state, self.until = RunState.EDGE, until
        self.stop_first = self.stop_first and until > self._rest_until
        return until

    def next_stop(self) -> int | None:
        """STOP, if the run under way has to end before the next draft: it is told now. None: it has not."""
        if not self.stop_first:
            return None
        self.stop_first = False
        self.state, self.until = RunState.STOPPED, NOT_RUNNING
        return STOP

    def start_rest(self, start: int, tokens: int, committed: int, lead: int) -> None:
        """Let the target run through `tokens` >= 1 positions from `start` >= `committed` on.

        The drafter pauses until `lead` tokens before the end, where there is one.
        """
        until = min(start + tokens - 1, FOREVER)
        self.rest = Rest(until, until - (lead if until < FOREVER else 0))
        self.pending = until
        self.stop_first = False
        self.after_drafts = start > committed
        self.resting = self.resting or self.rest.paused_until >= committed

    def end_rest(self) -> None:
        """Take the rest back: its run goes on until the first draft is on its way."""
        self.rest = None

    def wakes(self, committed: int) -> bool:
        """Whether the pause is over with so many ids committed."""
        return self.resting and (self.rest is None or committed > self.rest.paused_until)

    def wake(self, committed: int) -> None:
        """End the pause: drafts are on their way soon."""
        self.resting = False
        if self.rest is None:
            self.pending = None
        # The run under way may go further than the rest, if it was not replaced in time. (The first ends by itself.)
        further = self.until > max(self._rest_until, committed - 1)
        self.stop_first = self.state is not RunState.START and further

    def link_resumed(self, committed: int) -> None:
        """Tell again what the gateway may not have received."""
        self.stop_first = self.stop_first or self.state is RunState.STOPPED
        if self.state is not RunState.START and self.until >= committed:
            self.pending = max(self.until, self.pending or 0)

    def handed_off(self, prompt_length: int, free_start: int, *, drafting: bool) -> None:
        """Begin anew at another gateway. drafting: there is a drafter."""
        self.begin(prompt_length, free_start)
        self.stop_first = False
        if not drafting:
            self.pending = FOREVER
        else:
            self.pending = self.rest.until if self.resting and self.rest is not None else None

    def drafting_ended(self) -> None:
        """There is no drafter any more: neither rests nor drafts will come."""
        self.resting = self.stop_first = False

    @property
    def _rest_until(self) -> int:
        return NOT_RUNNING if self.rest is None else self.rest.until
