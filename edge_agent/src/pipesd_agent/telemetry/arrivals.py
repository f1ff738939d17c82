"""Which message of a session is it that a verdict's stamp is of? (docs/protocol.md, `Verdict`)"""

from __future__ import annotations

from collections import deque
from typing import Final

from pipesd_agent.telemetry.uplink import Uplink
from pipesd_core.protocol.messages import STAMP_PERIOD_US, EdgeMessage, Open, Resume, Verdict

MOST_UNTOLD: Final = 1024
"""Messages that no verdict has told of; a gateway that tells nothing must not fill the memory."""
PERIOD_S: Final = STAMP_PERIOD_US / 1e6


class Arrivals:
    """Of one session. The gateway counts its messages as they were sent, anew on each link."""

    def __init__(self, uplink: Uplink) -> None:
        self.heard = 0
        """Of the messages on this link, those that have arrived for all that is known."""
        self.sent_upto = 0
        self._uplink = uplink
        self._untold: deque[int] = deque(maxlen=MOST_UNTOLD)
        """Numbers in the uplink, of the session's messages `sent_upto` - length + 1 to `sent_upto`."""
        self._linked = False
        self._asked = 0
        self.answer: float | None = None
        """When the message that was asked for arrived, by the gateway's clock."""

    def sent(self, message: EdgeMessage, size: int, now: float) -> None:
        """The message was handed to the socket."""
        if isinstance(message, Open | Resume):
            if self._linked:
                self._uplink.restart()
            self._linked = True
            self.heard = self.sent_upto = 0
            self._untold.clear()
        self.sent_upto += 1
        self._untold.append(self._uplink.sent(size, now))

    def ask(self, number: int) -> None:
        """Keep the `answer` for this message of the session, the first being 1."""
        self._asked, self.answer = number, None

    def told(self, verdict: Verdict) -> bool:
        """A verdict came. What it says of messages that were never sent is ignored. Did it tell of any other?"""
        if not self.heard < verdict.heard <= self.sent_upto:
            return False
        first = verdict.heard - len(verdict.stamps) + 1
        at = 0
        for number, stamp in enumerate(verdict.stamps, first):
            at += stamp
            while self._untold and self.sent_upto - len(self._untold) + 1 < number:
                self._untold.popleft()
            if self._untold and self.sent_upto - len(self._untold) + 1 == number:
                arrival = self._uplink.arrived(self._untold.popleft(), at / 1e6, PERIOD_S)
                if number == self._asked:
                    self.answer = arrival
        self.heard = verdict.heard
        return bool(verdict.stamps)
