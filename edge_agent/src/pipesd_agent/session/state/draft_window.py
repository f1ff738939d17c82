"""The draft window: drafted tokens after the committed ones, and what of them was sent and is being verified."""

from __future__ import annotations

from collections import deque

from pipesd_agent.drafting.drafter import DraftToken
from pipesd_agent.session.counts import Counts
from pipesd_core.protocol.messages import MAX_DRAFTS_PER_MESSAGE


class DraftWindow:
    """Drafts of one session. Positions count from the beginning of the prompt; `base` is the first undecided one.

    Attributes:
        base: committed ids.
        epoch: how often drafts were discarded or sent anew; the gateway tells old drafts from new ones by it.
        exhausted: the drafter has nothing to propose at the end of its path.
        wanted: last position of a verification that is to be asked for; None: none is.
        pending: last position of the one that was asked for; None: none was, or it is decided. pending_since: when,
            in seconds.
    """

    def __init__(self, counts: Counts, now: float) -> None:
        self.base = 0
        self.epoch = 0
        self.exhausted = False
        self.wanted: int | None = None
        self.pending: int | None = None
        self.pending_since = now
        self._counts = counts
        self._drafts: deque[DraftToken] = deque()
        self._sent_upto = 0
        self._counted_upto = 0
        """Drafts before it were counted as sent; they may be sent again."""
        self._measured_upto = 0
        """Where the last draft ended whose length was told: at a verification, or a discard."""

    def opened(self, prompt_length: int) -> None:
        """Begin after the prompt."""
        self.base = self._sent_upto = self._counted_upto = self._measured_upto = prompt_length

    def __len__(self) -> int:
        return len(self._drafts)

    @property
    def end(self) -> int:
        """Position of the next draft."""
        return self.base + len(self._drafts)

    @property
    def unsent(self) -> int:
        """Drafts that were not sent in this epoch."""
        return self.end - self._sent_upto

    def add(self, token: DraftToken) -> None:
        """Append a draft at `end`."""
        self._drafts.append(token)
        self._counts.drafted += 1

    def commit(self, token: int, *, compare: bool) -> tuple[DraftToken | None, bool]:
        """The target decided `token` for the position `base`. compare: no draft before it was wrong.

        Returns the draft of that position, if it is compared, and whether it was sent and right: accepted.
        """
        draft = self._drafts.popleft() if compare and self._drafts else None
        accepted = draft is not None and draft.token == token and self.base < self._sent_upto
        self._counts.accepted += accepted
        self._counts.tokens += 1
        self.exhausted = self.exhausted and draft is not None
        self.base += 1
        return draft, accepted

    def committed(self) -> None:
        """The tokens of a verdict are committed: what it verified is not pending any more."""
        self._sent_upto = max(self._sent_upto, self.base)
        self._counted_upto = max(self._counted_upto, self.base)
        self._measured_upto = max(self._measured_upto, self.base)
        if self.wanted is not None and self.base > self.wanted:
            self.wanted = None

    def discard(self) -> None:
        """The target contradicted the drafts: throw them away, and begin a new epoch."""
        self.epoch += 1
        self._counts.discards += 1
        self._drafts.clear()
        self.exhausted = False
        self.wanted = self.pending = None
        self._sent_upto = self._counted_upto = self._measured_upto = self.base

    def send_again(self) -> bool:
        """Begin a new epoch with the same drafts, none of them sent. Returns whether there are any."""
        self.epoch += 1
        self._sent_upto = self.base
        self.pending = None
        return bool(self._drafts)

    def stop(self) -> None:
        """Nothing more is drafted: keep what was sent, which may still be accepted."""
        for _ in range(self.unsent):
            self._drafts.pop()
        self.wanted = self.pending = None

    def want_verification(self) -> None:
        """Ask for a verification of all drafts with the next message."""
        self.wanted = self.end - 1

    def take(self, now: float) -> tuple[int, tuple[int, ...], int | None, int]:
        """The next drafts to send, which count as sent then: position, ids, and through where a verification is asked
        for (None: not with this message); last, how many drafts longer than ever that one is (0: none, or it repeats).
        """
        start = self._sent_upto
        count = min(self.unsent, MAX_DRAFTS_PER_MESSAGE)
        offset = start - self.base
        ids = tuple(self._drafts[index].token for index in range(offset, offset + count))
        self._sent_upto += count
        self._counts.sent += max(0, self._sent_upto - max(start, self._counted_upto))
        self._counted_upto = max(self._counted_upto, self._sent_upto)
        if self.unsent or self.wanted is None:
            return start, ids, None, 0
        through, self.wanted = self.wanted, None
        self.pending, self.pending_since = through, now
        self._counts.requests += 1
        length = max(0, through + 1 - self._measured_upto)
        self._measured_upto += length
        return start, ids, through, length
