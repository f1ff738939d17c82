"""Acknowledgements: which messages of the gateway have come, and which payloads the client has taken."""

from __future__ import annotations

from collections import deque
from typing import Final

from pipesd_core.errors import ProtocolError
from pipesd_core.protocol.messages import MAX_UNACKED, MAX_UNACKED_BYTES

ACK_EVERY: Final = 16
"""Messages that one ack covers at least; far below the gateway's MAX_UNACKED, so that acks never hold it up."""
ACK_BYTES: Final = MAX_UNACKED_BYTES // 8
"""Payload bytes that one ack covers at least, where they come first."""


class Acknowledgements:
    """Numbers of one session's messages from the gateway.

    A gateway counts its messages from 1 on. After a handoff the next one counts anew, so payloads for the client have
    numbers of their own, which go on: `delivered` gives them, `taken` takes them back.

    Attributes:
        received: number of the last message of this gateway.
    """

    def __init__(self) -> None:
        self.received = 0
        self._offset = 0
        """What `Deliver.seq` is ahead of the gateway's number: messages of the gateways before this one."""
        self._untaken: deque[int] = deque()
        self._acked = 0
        self._again = False
        self._payload_sizes: deque[tuple[int, int]] = deque()
        self._ackable_bytes = 0

    def receive(self, seq: int) -> bool:
        """Note the next message. False: it has come before. Raises ProtocolError where one is missing."""
        if seq <= self.received:
            return False
        if seq != self.received + 1:
            raise ProtocolError(f"message {seq} of the session came after {self.received}")
        self.received = seq
        return True

    def payload(self, seq: int, size: int) -> None:
        """Note the size in bytes of the payload in message `seq`, whether the client gets it or not."""
        self._payload_sizes.append((seq, size))

    def delivered(self, seq: int) -> int:
        """Note that the payload of message `seq` goes to the client; returns its `Deliver.seq`."""
        self._untaken.append(self._offset + seq)
        return self._offset + seq

    def taken(self, seq: int) -> None:
        """Note that the client has the payload of `Deliver(seq)`, and all before it."""
        while self._untaken and self._untaken[0] <= seq:
            self._untaken.popleft()

    @property
    def held_up(self) -> bool:
        """Whether the client is so far behind that the gateway waits for it."""
        return self.received - self._ackable - 1 > MAX_UNACKED // 2

    def next_ack(self) -> int | None:
        """The number to acknowledge now, which counts as acknowledged then; None: it is too early for an ack."""
        ackable = self._ackable
        while self._payload_sizes and self._payload_sizes[0][0] <= ackable:
            self._ackable_bytes += self._payload_sizes.popleft()[1]
        if ackable - self._acked < ACK_EVERY and self._ackable_bytes < ACK_BYTES and not self._again:
            return None
        self._again = False
        self._ackable_bytes = 0
        self._acked = ackable
        return ackable

    def link_resumed(self) -> None:
        """Acknowledge again: the last ack may be lost, and a gateway that has stalled waits for it."""
        self._again = self._acked > 0

    def handed_off(self) -> None:
        """Begin anew with a gateway that has sent nothing yet."""
        self._offset += self.received
        self.received = self._acked = 0
        self._again = False
        self._payload_sizes.clear()
        self._ackable_bytes = 0

    @property
    def _ackable(self) -> int:
        """The gateway's last message up to which the client has taken everything."""
        first = next((seq for seq in self._untaken if seq > self._offset), None)
        return self.received if first is None else first - 1 - self._offset
