"""Which message of a session is it that a verdict's stamp is of? (docs/protocol.md, `Verdict`)"""

from __future__ import annotations

from collections import deque
from typing import Final

from pipesd_agent.measure.uplink import Uplink
from pipesd_gateway.protocol import STAMP_PERIOD_US, EdgeMessage, Open, Resume, Verdict

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

    def told(self, verdict: Verdict) -> None:
        """A verdict came. What it says of messages that were never sent is ignored."""
        if not self.heard < verdict.heard <= self.sent_upto:
            return
        first = verdict.heard - len(verdict.stamps) + 1
        at = 0
        for number, stamp in enumerate(verdict.stamps, first):
            at += stamp
            while self._untold and self.sent_upto - len(self._untold) + 1 < number:
                self._untold.popleft()
            if self._untold and self.sent_upto - len(self._untold) + 1 == number:
                self._uplink.arrived(self._untold.popleft(), at / 1e6, PERIOD_S)
        self.heard = verdict.heard
