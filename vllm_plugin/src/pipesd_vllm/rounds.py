"""One round: a session's drafts, and how far the engine has got with them.

Endpoint and scheduler walk the same tokens by the same rule, so nothing needs to be sent to say that a round is over:
it ends with the first token that is not the next draft. One engine step decides a round unless the engine could not
take all its drafts at once (KV pressure, token budget, a prompt that has to be computed again).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


class Round:
    """What is left of a round. A round without drafts is one token."""

    def __init__(self, drafts: Sequence[int] = ()) -> None:
        self.drafts = tuple(drafts)
        self.accepted = 0
        self.over = False

    def take(self, tokens: Iterable[int]) -> None:
        """Tokens that the target decided."""
        for token in tokens:
            if not self.over and self.accepted < len(self.drafts) and token == self.drafts[self.accepted]:
                self.accepted += 1
            else:
                self.over = True

    @property
    def left(self) -> tuple[int, ...]:
        """Drafts that no step has decided yet."""
        return self.drafts[self.accepted :]


def fault(drafts: Any, most: int, n_vocab: int) -> str | None:
    """What is wrong with drafts that came from another process. A single id outside the vocabulary kills an
    unprotected engine for everybody, so this is checked again where it would."""
    if not isinstance(drafts, list | tuple):
        return "drafts must be a list"
    if len(drafts) > most:
        return f"{len(drafts)} drafts; the limit of one step is {most}"
    for token in drafts:
        if type(token) is not int or not 0 <= token < n_vocab:
            return f"draft {token!r} is not a token id below {n_vocab}"
    return None
