"""Arrival times of a session's messages at the gateway, from the stamps in verdicts (docs/protocol.md, `Verdict`)."""

from __future__ import annotations

from collections import deque
from typing import Final

from pipesd_agent.telemetry.uplink import Uplink
from pipesd_core.protocol.messages import STAMP_PERIOD_US, EdgeMessage, Open, Resume, Verdict

MOST_UNREPORTED: Final = 1024
"""Messages that no verdict has reported; a gateway that reports nothing must not fill the memory."""
PERIOD_S: Final = STAMP_PERIOD_US / 1e6


class Arrivals:
    """Matches the stamps of one session's verdicts with its messages.

    The gateway counts its messages as they were sent, anew on each link.

    Attributes:
        received: messages on this link that are known to have arrived. sent_upto: messages sent on it.
        answer: when the message that was asked for arrived, in seconds by the gateway's clock; None: not known yet.
    """

    def __init__(self, uplink: Uplink) -> None:
        self.received = 0
        self.sent_upto = 0
        self._uplink = uplink
        self._unreported: deque[int] = deque(maxlen=MOST_UNREPORTED)
        """Numbers in the uplink, of the session's messages `sent_upto` - length + 1 to `sent_upto`."""
        self._linked = False
        self._asked = 0
        self.answer: float | None = None

    def sent(self, message: EdgeMessage, size: int, now: float) -> None:
        """Note a message that was handed to the socket."""
        if isinstance(message, Open | Resume):
            if self._linked:
                self._uplink.restart()
            self._linked = True
            self.received = self.sent_upto = 0
            self._unreported.clear()
        self.sent_upto += 1
        self._unreported.append(self._uplink.sent(size, now))

    def ask(self, number: int) -> None:
        """Keep the `answer` for this message of the session, the first being 1."""
        self._asked, self.answer = number, None

    def reported(self, verdict: Verdict) -> bool:
        """Take what a verdict reports. Returns whether it reported any arrival.

        What it says of messages that were never sent is ignored.
        """
        if not self.received < verdict.heard <= self.sent_upto:
            return False
        first = verdict.heard - len(verdict.stamps) + 1
        at = 0
        for number, stamp in enumerate(verdict.stamps, first):
            at += stamp
            while self._unreported and self.sent_upto - len(self._unreported) + 1 < number:
                self._unreported.popleft()
            if self._unreported and self.sent_upto - len(self._unreported) + 1 == number:
                arrival = self._uplink.arrived(self._unreported.popleft(), at / 1e6, PERIOD_S)
                if number == self._asked:
                    self.answer = arrival
        self.received = verdict.heard
        return bool(verdict.stamps)
