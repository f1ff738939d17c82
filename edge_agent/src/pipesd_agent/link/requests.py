"""The open requests of an agent's clients, which outlive the connections that carry them.

A lost link suspends them, the next one resumes them; their timeouts count all the time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from msgspec import Struct

from pipesd_agent.drafting.status import DraftingOff
from pipesd_agent.drafting.worker import DraftWorker
from pipesd_agent.session.observer import Observers, SessionObserver
from pipesd_agent.session.policies import MakePolicies
from pipesd_agent.session.session import EdgeSession
from pipesd_agent.session.settings import SessionSettings
from pipesd_agent.session.stream import RequestStream
from pipesd_core.errors import ApiError, Overloaded, Unavailable
from pipesd_core.occupancy import Occupancy
from pipesd_core.openai_body import response_format
from pipesd_core.protocol.messages import VERSION, Endpoint, Open

log = logging.getLogger(__name__)

MAX_OPEN_REQUESTS: Final = 64
"""Open requests of one agent; a gateway takes as many on one connection."""


class LinkSettings(Struct, frozen=True):
    """Settings of a link.

    api_key: sent to the gateways. policies: makes those of a session. session: settings of sessions. room_at: when the
    link can take the next message (`Planner.room_at`), a reading of time.monotonic.
    """

    api_key: str | None
    policies: MakePolicies
    session: SessionSettings
    room_at: Callable[[], float] = lambda: 0.0


class RequestTable:
    """The open requests by channel; a channel is free when its session has ended.

    Attributes:
        sendable: set whenever a session may have something to send.
    """

    def __init__(self, settings: LinkSettings, worker: DraftWorker | None) -> None:
        self.sendable = asyncio.Event()
        self._settings = settings
        self._worker = worker
        self._requests: dict[int, RequestStream] = {}
        self._channels = Occupancy()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._lost: ApiError | None = None
        self._given_up: set[RequestStream] = set()
        """Requests that failed inside the agent, and have not ended yet."""
        self._dropped: set[int] = set()
        """Channels of this link whose requests could not be ended: the gateway has not been told."""

    def __len__(self) -> int:
        return len(self._requests)

    def all(self) -> list[RequestStream]:
        """All open requests."""
        return list(self._requests.values())

    def carried_by(self, connection: object | None) -> list[RequestStream]:
        """The requests that a superseded connection has kept; None: those that go with the link."""
        return [stream for stream in self._requests.values() if stream.kept_by is connection]

    def get(self, channel: int) -> RequestStream | None:
        """The request on a channel; None: there is none."""
        return self._requests.get(channel)

    def was_dropped(self, channel: int) -> bool:
        """Whether the request on a channel could not be ended, so that its gateway still writes to it."""
        return channel in self._dropped

    def open(
        self,
        endpoint: Endpoint,
        body: bytes,
        request_id: str,
        *,
        collaborative: bool,
        observers: Sequence[SessionObserver],
    ) -> RequestStream:
        """Open a new request. observers: see `Link.request`. Raises ApiError.

        collaborative: False where the drafter's vocabulary is not the target's.
        """
        if self._lost is not None:
            raise self._lost
        used = self._requests.keys() | self._dropped
        channel = next((c for c in range(MAX_OPEN_REQUESTS) if c not in used), None)
        if channel is None:
            limit = f"{MAX_OPEN_REQUESTS} requests are open at this agent, its limit; try again"
            raise Overloaded(limit, retry_after_s=self._channels.wait_s())
        worker = self._worker if collaborative else None
        off = None
        if worker is None:
            off = DraftingOff.MODE_CLOUD if self._worker is None else DraftingOff.VOCABULARY
        fingerprint = None if worker is None else worker.fingerprint or b""
        policies = self._settings.policies()
        session = EdgeSession(
            Open(channel, VERSION, endpoint, body, fingerprint, request_id, progress=True),
            replace(policies, observer=Observers(policies.observer, *observers)),
            self._settings.session,
            max_context=worker.max_context if worker else 0,
            now=time.monotonic(),
        )
        asked = None if worker is None else response_format(body)
        self._requests[channel] = RequestStream(request_id, session, worker, self.changed, off, asked)
        self._channels.take()
        self.changed()
        return self._requests[channel]

    def link_lost(self, error: ApiError, *, permanently: bool = False) -> None:
        """Suspend all requests, because the link is lost, or fail them if it is lost `permanently`.

        error: what clients get if the link does not come back in time, and new requests at once.
        """
        self._lost = error
        self._each(lambda s: s.link_lost(error) if permanently else s.suspended(error), self.carried_by(None))

    def link_restored(self) -> None:
        """Resume all requests: there is a link again."""
        self._lost = None
        self._dropped.clear()
        self._each(lambda stream: stream.resumed(), self.carried_by(None))
        self.changed()

    def migrate(self, previous: object) -> set[int]:
        """Move the requests to another gateway; those that it cannot continue stay on the connection `previous`.

        Returns the channels of those that have moved.
        """
        moved = set()
        for stream in self.carried_by(None):
            if stream.session.can_hand_off:
                moved.add(stream.session.channel)
                stream.relocated()
            else:
                stream.kept_by = previous
        self.remove_ended()
        self.changed()
        return moved

    def rejoin(self, previous: object, error: ApiError) -> None:
        """Have the requests that the connection `previous` had kept go with the link, because it is lost too."""
        kept = self.carried_by(previous)
        for stream in kept:
            stream.kept_by = None
            stream.suspended(error)
            if self._lost is None:
                stream.resumed()
        self.remove_ended()
        self.changed()

    def no_other_gateway(self) -> None:
        """Fail the requests that wait for another gateway to begin them: none takes them."""
        self._each(lambda stream: stream.refused(), self.carried_by(None))

    def close(self, error: ApiError) -> None:
        """Fail all requests: there will be no link any more."""
        self._lost = error
        self._each(lambda stream: stream.link_lost(error), self.all())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def changed(self) -> None:
        """Take note that a session may have something to send, or another deadline."""
        self.sendable.set()
        self.arm_timer()

    def remove_ended(self) -> None:
        """Free the channels of sessions that have ended."""
        for channel, stream in list(self._requests.items()):
            if stream.session.ended:
                stream.session.observer.ended(time.monotonic())
                self._given_up.discard(stream)
                del self._requests[channel]
                self._channels.free()

    def arm_timer(self) -> None:
        """Have `_tick` called by the time that the first session is due.

        It may come early, and then arms the timer again: deadlines move on with every message, and a new timer each
        time would cost more than the rare needless tick.
        """
        due = min((d for s in self._requests.values() if (d := s.session.deadline()) is not None), default=None)
        if due is None or (self._timer is not None and self._timer_due <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = due
        self._timer = asyncio.get_running_loop().call_later(max(0.0, due - time.monotonic()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._each(lambda stream: stream.tick(time.monotonic()), self.all())
        self.arm_timer()

    def _each(self, do: Callable[[RequestStream], None], streams: list[RequestStream]) -> None:
        for stream in streams:
            try:
                do(stream)
            except Exception:  # a bug, and of one request: the others have their clocks, and their link, as well
                log.exception("request %s failed inside the agent", stream.request_id)
                self._give_up(stream)
        self.remove_ended()

    def _give_up(self, stream: RequestStream) -> None:
        """End a request by an error, and drop it where even that fails, or has not helped."""
        error = Unavailable("the request failed inside this agent: see its log, and try again")
        try:
            if stream in self._given_up:
                stream.link_lost(error)
            else:
                stream.failed(error)
                self._given_up.add(stream)
                return
        except Exception:
            log.exception("request %s could not be ended", stream.request_id)
        for channel in [channel for channel, other in self._requests.items() if other is stream]:
            del self._requests[channel]
            self._channels.free()
            self._dropped.add(channel)
        self._given_up.discard(stream)
        stream.dropped(error)
