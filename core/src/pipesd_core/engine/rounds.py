"""One round: a session's drafts, and how far the engine has got with them.

Endpoint and scheduler walk the same tokens by the same rule, so nothing needs to be sent to say that a round is over:
its drafts are decided by the first token that is not the next draft, and it ends as many tokens later as were ordered
ahead. One engine step decides a round unless the engine could not take all its drafts at once (KV pressure, token
budget, a prompt that has to be computed again).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct


class Decided(Struct, frozen=True):
    """The outcome of one step of a session: its tokens, accepted drafts first."""

    tokens: tuple[int, ...]
    verified: int
    accepted: int


class Round:
    """The rest of a round: its drafts, then `ahead` steps of one token each. Without drafts the first step is one token
    too."""

    def __init__(self, drafts: Sequence[int] = (), ahead: int = 0) -> None:
        self._drafts = tuple(drafts)
        self._pending: list[int] = []
        self._steps_left = 1 + ahead

    @property
    def steps_left(self) -> int:
        """Steps that are not decided yet: the one of the drafts, then those ahead."""
        return self._steps_left

    @property
    def over(self) -> bool:
        """Whether nothing of the round is left."""
        return not self._steps_left

    @property
    def left(self) -> tuple[int, ...]:
        """Drafts that no engine step has decided yet."""
        return self._drafts[len(self._pending) :]

    def take(self, tokens: Iterable[int]) -> list[Decided]:
        """Take tokens that the target decided. Returns the steps that they complete."""
        steps = []
        for token in tokens:
            right = self.left[:1] == (token,)
            self._pending.append(token)
            if not right:
                steps.append(Decided(tuple(self._pending), len(self._drafts), len(self._pending) - 1))
                self._drafts, self._pending = (), []
                self._steps_left -= 1
        return steps

    def cut(self) -> list[Decided]:
        """End the round with the answer: the step that the answer ended in the middle of, if it did."""
        pending = tuple(self._pending)
        return [Decided(pending, len(self._drafts), len(pending))] if pending else []


def fault(drafts: Any, most: int, n_vocab: int) -> str | None:
    """The fault of drafts that came from another process; None: there is none.

    A single id outside the vocabulary kills an unprotected engine for everybody, so each engine checks again.
    """
    if not isinstance(drafts, list | tuple):
        return "drafts must be a list"
    if len(drafts) > most:
        return f"{len(drafts)} drafts; the limit of one step is {most}"
    for token in drafts:
        if type(token) is not int or not 0 <= token < n_vocab:
            return f"draft {token!r} is not a token id below {n_vocab}"
    return None
