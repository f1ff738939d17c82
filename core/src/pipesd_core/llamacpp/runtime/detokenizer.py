"""Detokenizer: tokens to text, one token at a time, with incremental UTF-8 and stop strings.

What comes out is a function of the tokens alone, never of how they were cut into steps (architecture §2.1). So the
answer ends *at the token* that completes a stop string, whatever else its step brought. Text is held back while it
ends in an incomplete character or in what may be the beginning of a stop string.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Callable


class Detokenizer:
    """The text of one answer.

    Args:
        piece: bytes of a token; empty for special and control tokens. A token may be part of a character.
        stop: stop strings, none of them empty; the text ends before the first one that appears.

    Attributes:
        met: the stop string that ended the text; None: none did.
    """

    def __init__(self, piece: Callable[[int], bytes], stop: tuple[str, ...] = ()) -> None:
        self._piece = piece
        self._stop = stop
        self._longest = max((len(s) for s in stop), default=1)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._tokens = 0
        self._chars = 0  # decoded so far
        self._held = ""  # decoded, but perhaps the beginning of a stop string
        self._ready: list[str] = []
        self._ends: deque[tuple[int, int]] = deque()  # (tokens, characters needed to show them), not yet covered
        self._covered = 0
        self._over = False
        self.met: str | None = None

    def push(self, token: int) -> bool:
        """Take the next token. True: a stop string is complete, the answer ends with this token."""
        if self._over:
            raise RuntimeError("the text is over")
        new = self._decoder.decode(self._piece(token))
        self._tokens += 1
        self._chars += len(new)
        incomplete = bool(self._decoder.getstate()[0])
        self._ends.append((self._tokens, self._chars + incomplete))
        return self._scan(new)

    def finish(self) -> None:
        """End the answer: release the text that was held back. Harmless after a stop string."""
        if self._over or self._scan(self._decoder.decode(b"", final=True)):
            return
        self._over = True
        self._ready.append(self._held)
        self._held = ""

    def take(self) -> str:
        """The text that may be shown and was not taken before."""
        text = "".join(self._ready)
        self._ready.clear()
        return text

    @property
    def chars(self) -> int:
        """Number of characters of the tokens so far, those held back included."""
        return self._chars

    def covered(self, held: int = 0) -> int:
        """Number of tokens, from the first, that the text released so far shows in full.

        held: characters at its end that whoever took them holds back.
        """
        shown = self._chars - len(self._held) - held
        while self._ends and (self._over or self._ends[0][1] <= shown):
            self._covered = self._ends.popleft()[0]
        return self._covered

    def _scan(self, new: str) -> bool:
        """Release what cannot belong to a stop string. True: one is there, and the text is over.

        A match can only begin in `_held` or in `new`, since whatever could begin one was held.
        """
        text = self._held + new
        found = [(at, s) for s in self._stop if (at := text.find(s)) >= 0]
        if found:
            self._over = True
            end, self.met = min(found, key=lambda met: met[0])
            self._ready.append(text[:end])
            self._held = ""
            return True
        keep = self._beginning(text)
        self._ready.append(text[: len(text) - keep])
        self._held = text[len(text) - keep :]
        return False

    def _beginning(self, text: str) -> int:
        """Length of the longest end of `text` with which a stop string begins."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            if any(s.startswith(text[-length:]) for s in self._stop):
                return length
        return 0
