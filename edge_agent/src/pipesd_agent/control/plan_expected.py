"""Upload schedule by expectation: minimises the expected time until a round's last token has arrived.

The paper plans for a round of exactly N-hat tokens (`plan_dp`). Where rounds really end is random, with a heavy tail:
what is on its way at that moment delays the rest, which goes at once, since a verification takes every unsent draft. A
round of `l` tokens, which has probability p[l], costs after its last token is drafted: what the link still has to do,
then alpha + beta · unsent. That is a Markov decision process over (tokens drafted, of those unsent, the link's
backlog): after each token the decision is whether to send, from one table that is made by backward induction.

The backlog is continuous. It is kept at `LEVELS` levels, the expected costs interpolated between them, and looked up at
the nearest one: an approximation, whose schedules tests compare with all that there are.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
LEVELS: Final = 64
"""Levels of the backlog in the table."""


def costs_nothing(unsent: int, backlog: float, alpha: int, beta: int, gamma: int) -> bool:
    """Whether `unsent` tokens, sent now, would be gone before the next one is drafted, so that it is best to. In µs."""
    return backlog + alpha + beta * unsent <= gamma


class Timing:
    """The schedule for one distribution of draft lengths. Rounds longer than n begin anew.

    Args:
        chances: probability of each length of a round, 0..n; shape (n + 1,). alpha: µs per message. beta: µs per token
            sent. gamma: µs per token drafted.

    Raises ValueError.
    """

    def __init__(self, chances: FloatArray, alpha: int, beta: int, gamma: int) -> None:
        self.n = len(chances) - 1
        if self.n < 1 or min(alpha, beta, gamma) < 0:
            raise ValueError(
                f"need one length at least and no negative cost, but got {self.n}, alpha {alpha}, beta {beta}, "
                f"gamma {gamma}"
            )
        self._alpha, self._beta, self._gamma = alpha, beta, gamma
        most = 2 * (alpha + beta * self.n) + gamma
        self._step = max(most / (LEVELS - 1), 1.0)
        self._send = self._table(chances)

    def due(self, sent: int, unsent: int, backlog: float) -> bool:
        """Whether to send `unsent` >= 1 tokens now, the last one just drafted, after `sent` ones of the round.

        backlog: µs that the link is still busy with what was sent before.
        """
        if costs_nothing(unsent, backlog, self._alpha, self._beta, self._gamma):
            return True  # the table may take its tie with waiting for a loss
        level = min(int(backlog / self._step + 0.5), LEVELS - 1)
        return bool(self._send[(sent + unsent) % self.n, min(unsent, self.n), level])

    def plan(self, backlog: float = 0.0) -> tuple[int, ...]:
        """Batch sizes of a round that goes on to the end, `backlog` µs of the link left from the one before it."""
        sizes = []
        sent = 0
        free_at = backlog
        for drafted in range(1, self.n + 1):
            now = drafted * self._gamma
            unsent = drafted - sent
            if drafted == self.n or self.due(sent, unsent, max(0.0, free_at - now)):
                sizes.append(unsent)
                free_at = max(free_at, now) + self._alpha + self._beta * unsent
                sent = drafted
        return tuple(sizes)

    def _table(self, chances: FloatArray) -> NDArray[np.bool_]:
        """Whether to send; shape (drafted, unsent, level of the backlog)."""
        n, gamma = self.n, self._gamma
        unsent = np.arange(n + 1)[:, None]
        backlog = np.arange(LEVELS) * self._step
        message = self._alpha + self._beta * unsent
        top = backlog[-1]
        # The backlog one token later, in steps; of one that was sent, it may lie beyond the levels.
        waited = np.maximum(backlog - gamma, 0.0) / self._step
        low = np.minimum(waited.astype(int), LEVELS - 2)
        share = waited - low
        sent = np.maximum(backlog + message - gamma, 0.0)
        beyond = np.maximum(sent - top, 0.0)
        send = np.zeros((n + 1, n + 1, LEVELS), np.bool_)
        later = np.zeros((n + 1, LEVELS))
        """Expected cost from one token later on, times the chance of getting there."""
        left = 0.0
        for drafted in range(n - 1, -1, -1):
            left += chances[drafted + 1]
            after = chances[drafted + 1] * (backlog + message) + later
            wait = after[:, low] * (1 - share) + after[:, low + 1] * share
            wait = np.concatenate((wait[1:], wait[-1:]))
            go = np.interp(sent, backlog, after[1]) + left * beyond
            send[drafted] = go <= wait
            later = np.where(send[drafted], go, wait)
            later[0] = wait[0]  # nothing to send
        return send
