"""Handoff: another gateway goes on with an answer that the client has the beginning of.

That gateway is asked the same again, with the same noise, and writes the answer from its beginning. What is committed
here goes up as drafts, so that it need not compute it token by token; what it decides has to be what is committed, and
what it tells the client what the client has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from pipesd_agent.session.cannot_splice import CannotSplice
from pipesd_agent.session.splice import DeliveredText, Splice
from pipesd_core.protocol.messages import MAX_DRAFTS_PER_MESSAGE, Open, Opened

CATCH_UP: Final = 1024
"""Committed ids on their way up at once after a handoff; far below what a gateway holds."""


class Handoff:
    """How far the gateway that has the session is with the answer.

    Attributes:
        position: of the gateway's next token; less than what is committed only after a handoff.
        replayed_upto: committed ids up to this position have gone up as drafts since the handoff, or need not.
        delivered: what the client has of the answer, or will have once it has taken every `Deliver`.
    """

    def __init__(self) -> None:
        self.position = 0
        self.replayed_upto = 0
        self.delivered = DeliveredText()
        self._splice: Splice | None = None

    def opened(self, prompt_length: int) -> None:
        """Begin at the first gateway, which has the prompt."""
        self.position = self.replayed_upto = prompt_length

    @property
    def possible(self) -> bool:
        """Whether another gateway can go on: with text alone it can be told that both answers are one."""
        return self.delivered.plain

    def begin(self, request: Open, opened: Opened) -> Open:
        """Begin anew at another gateway; returns what it is asked. Raises CannotSplice."""
        self._splice = Splice(self.delivered)
        self.position = self.replayed_upto = len(opened.prompt_ids)
        body = msgspec.json.decode(request.body)
        body["seed"] = opened.params.seed
        # Committed ids go up as drafts also where none of a drafter's will.
        fingerprint = request.fingerprint or b""
        return msgspec.structs.replace(request, body=msgspec.json.encode(body), fingerprint=fingerprint)

    def decided(self, tokens: Sequence[int], committed: Sequence[int]) -> Sequence[int]:
        """The tokens of a verdict that are new. Raises CannotSplice where the others are not what is committed."""
        known = committed[self.position : self.position + len(tokens)]
        if list(tokens[: len(known)]) != list(known):
            raise CannotSplice("its tokens are not the same")
        self.position += len(tokens)
        self.replayed_upto = max(self.replayed_upto, self.position)  # what the gateway has decided need not go up
        return tokens[len(known) :]

    def next_replay(self, committed: Sequence[int], last_draftable: int) -> tuple[int, tuple[int, ...]] | None:
        """Position and ids of the next drafts for a gateway that has not decided them yet; None: it needs none.

        They count as sent then. last_draftable: position of the last token that may be drafted.
        """
        end = min(len(committed), last_draftable + 1, self.position + CATCH_UP)
        start = max(self.replayed_upto, self.position)
        if start >= end:
            return None
        ids = tuple(committed[start : min(end, start + MAX_DRAFTS_PER_MESSAGE)])
        self.replayed_upto = start + len(ids)
        return start, ids

    def replay_again(self) -> None:
        """Send up again what the gateway has not decided: it may have lost what it was sent."""
        self.replayed_upto = self.position

    def deliver(self, payload: bytes) -> bytes | None:
        """What the client gets of a payload; None: it has all of that. Raises CannotSplice."""
        passed = payload if self._splice is None else self._splice.take(payload)
        if passed is not None:
            self.delivered.add(passed)
        return passed

    def caught_up(self, committed: Sequence[int]) -> bool:
        """Whether the gateway has decided and told all that is committed and delivered."""
        return self.position >= len(committed) and (self._splice is None or self._splice.caught_up)
