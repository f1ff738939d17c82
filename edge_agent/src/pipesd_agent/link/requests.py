"""All requests of an agent's clients: they outlive the connections that carry them.

A link that is lost suspends them, the next one resumes them, and their clocks run all the time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from pipesd_agent.drafting.worker import DraftWorker
from pipesd_agent.session.policies import MakePolicies
from pipesd_agent.session.session import EdgeSession, SessionSettings
from pipesd_agent.session.stream import RequestStream
from pipesd_core.errors import ApiError, Overloaded
from pipesd_core.protocol.messages import VERSION, Endpoint, Open

MAX_OPEN_REQUESTS: Final = 64
"""Requests of one agent at a time, as many as a gateway takes on one connection."""


class LinkSettings(Struct, frozen=True):
    """The key for the gateways, and how sessions behave. room_at: when the link can take the next message
    (`Planner.room_at`; time.monotonic's clock)."""

    api_key: str | None
    policies: MakePolicies
    session: SessionSettings
    room_at: Callable[[], float] = lambda: 0.0


class RequestTable:
    """By channel; a channel is free when its session has ended.

    Attributes:
        sendable: set whenever a session may have something to send.
    """

    def __init__(self, settings: LinkSettings, worker: DraftWorker | None) -> None:
        self.sendable = asyncio.Event()
        self._settings = settings
        self._worker = worker
        self._streams: dict[int, RequestStream] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._lost: ApiError | None = None

    def __len__(self) -> int:
        return len(self._streams)

    def all(self) -> list[RequestStream]:
        return list(self._streams.values())

    def carried(self, by: object | None) -> list[RequestStream]:
        """Those that a connection which is being left has kept; None: those that go with the link."""
        return [stream for stream in self._streams.values() if stream.kept_by is by]

    def get(self, channel: int) -> RequestStream | None:
        return self._streams.get(channel)

    def request(self, endpoint: Endpoint, body: bytes, request_id: str, *, collaborative: bool) -> RequestStream:
        """A new session. Raises ApiError."""
        if self._lost is not None:
            raise self._lost
        channel = next((c for c in range(MAX_OPEN_REQUESTS) if c not in self._streams), None)
        if channel is None:
            limit = f"{MAX_OPEN_REQUESTS} requests are open at this agent, its limit; try again"
            raise Overloaded(limit, retry_after_s=1)
        worker = self._worker if collaborative else None
        fingerprint = None if worker is None else worker.fingerprint or b""
        session = EdgeSession(
            Open(channel, VERSION, endpoint, body, fingerprint, request_id),
            self._settings.policies(),
            self._settings.session,
            max_context=worker.max_context if worker else 0,
            now=time.monotonic(),
        )
        self._streams[channel] = RequestStream(request_id, session, worker, self.changed)
        self.changed()
        return self._streams[channel]

    def lost(self, error: ApiError, *, for_good: bool = False) -> None:
        """There is no link. error: what clients are told if none comes back in time (for_good: at once), and new ones
        now."""
        self._lost = error
        self._each(lambda s: s.link_lost(error) if for_good else s.suspended(error), self.carried(None))

    def back(self) -> None:
        """There is a link again."""
        self._lost = None
        self._each(lambda stream: stream.resumed(), self.carried(None))
        self.changed()

    def move(self, before: object) -> set[int]:
        """The link is up to another gateway; what that cannot go on with stays on the connection `before`.

        Returns the channels of the others.
        """
        moved = set()
        for stream in self.carried(None):
            if stream.session.movable:
                moved.add(stream.session.channel)
                stream.relocated()
            else:
                stream.kept_by = before
        self.sweep()
        self.changed()
        return moved

    def join(self, before: object, error: ApiError) -> None:
        """The connection `before` is gone too: what it had kept goes with the link, if there is one."""
        kept = self.carried(before)
        for stream in kept:
            stream.kept_by = None
            stream.suspended(error)
            if self._lost is None:
                stream.resumed()
        self.sweep()
        self.changed()

    def refuse(self) -> None:
        """No other gateway takes what this one has refused to begin."""
        self._each(lambda stream: stream.refused(), self.carried(None))

    def over(self, error: ApiError) -> None:
        """There will be no link."""
        self._lost = error
        self._each(lambda stream: stream.link_lost(error), self.all())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def changed(self) -> None:
        """A session may have something to send, or its deadline moved."""
        self.sendable.set()
        self.rearm()

    def sweep(self) -> None:
        """Free the channels of sessions that have ended."""
        for channel, stream in list(self._streams.items()):
            if stream.session.ended:
                stream.session.watch.ended(time.monotonic())
                del self._streams[channel]

    def rearm(self) -> None:
        """Have `_tick` called by the time the first session is due. It may come early, and arms itself again: deadlines
        move on with every message, and a new timer each time would cost more than the rare needless tick."""
        due = min((d for s in self._streams.values() if (d := s.session.deadline()) is not None), default=None)
        if due is None or (self._timer is not None and self._timer_due <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = due
        self._timer = asyncio.get_running_loop().call_later(max(0.0, due - time.monotonic()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._each(lambda stream: stream.tick(time.monotonic()), self.all())
        self.rearm()

    def _each(self, do: Callable[[RequestStream], None], streams: list[RequestStream]) -> None:
        for stream in streams:
            do(stream)
        self.sweep()
