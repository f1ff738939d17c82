"""One client's request in the agent: an `EdgeSession` with its lane of the drafter, and what the client waits for."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from pipesd_agent.drafting.drafter import AnswerForm, DraftToken
from pipesd_agent.drafting.status import DraftingOff
from pipesd_agent.drafting.worker import DraftLane, DraftWorker
from pipesd_agent.session.actions import Commit, Complete, Deliver, Fail, StartDrafting, StopDrafting
from pipesd_agent.session.remote_error import RemoteError
from pipesd_agent.session.session import EdgeSession
from pipesd_agent.session.usage import TokenTimes, usage_payload
from pipesd_core.errors import ApiError, OutOfState, ProtocolError, Unavailable
from pipesd_core.protocol.messages import MAX_UNACKED, EdgeMessage, Failed, Opened, SessionMessage, Verdict

log = logging.getLogger(__name__)


MAX_UNTAKEN: Final = 4 * MAX_UNACKED
MAX_UNTAKEN_BYTES: Final = 16 * 2**20
"""What may wait for a client that reads slowly. A gateway stops long before, for want of acknowledgements; one that
does not must not fill this machine's memory."""


class RequestStream:
    """Owns the lane; carries out the session's actions. All on the event loop's thread.

    Args:
        worker: None when this request is served cloud-only; off: why it is, then.
        response_format: of the request, unchecked.
        changed: called whenever the session may have something to send, or its deadline moved.
    """

    def __init__(
        self,
        request_id: str,
        session: EdgeSession,
        worker: DraftWorker | None,
        changed: Callable[[], None],
        off: DraftingOff | None = None,
        response_format: Any = None,
    ) -> None:
        self.request_id = request_id
        self.session = session
        self.kept_by: object | None = None
        """The connection that it stays on while the link goes to another gateway; None: it goes with the link."""
        self._times = TokenTimes(time.monotonic())
        self._worker = worker
        self._off = off
        self._response_format = response_format
        self._lane: DraftLane | None = None
        self._changed = changed
        self._answers: deque[Deliver | Complete | Fail] = deque()
        self._untaken_bytes = 0
        self._answered = asyncio.Event()
        self._opened = asyncio.Event()

    # For the client.

    async def opened(self) -> Opened:
        """Wait until the gateway has accepted the request. Raises ApiError; bounded by the session's own clocks."""
        await self._opened.wait()
        if self.session.opened is None:
            await self.next()
            raise Unavailable("the gateway ended the request before it began; try again")
        return self.session.opened

    async def next(self) -> bytes | None:
        """The next payload for the client, who has taken all before it; None: complete. Raises ApiError."""
        while not self._answers:
            self._answered.clear()
            await self._answered.wait()
        answer = self._answers[0]
        match answer:
            case Deliver(_, payload, usage):
                self._answers.popleft()
                self._untaken_bytes -= len(payload)
                return self._with_figures(payload) if usage else payload
            case Fail(error):
                raise error
        return None

    def taken(self) -> None:
        """The client has what `next` returned last."""
        waiting = next((answer.seq for answer in self._answers if isinstance(answer, Deliver)), None)
        self.session.taken(2**53 if waiting is None else waiting - 1, time.monotonic())
        self._changed()

    def client_left(self) -> None:
        """The client is gone, or done. Harmless when repeated."""
        self.session.client_left()
        self._act()

    # For the link.

    def receive(self, message: SessionMessage) -> None:
        """A message of the gateway for this request."""
        now = time.monotonic()
        if isinstance(message, Verdict):
            self._times.arrived(now)
        try:
            self.session.receive(message, now)
            self._act()
            self._check_untaken()
        except ProtocolError as error:
            log.error("request %s: the gateway broke the protocol: %s", self.request_id, error)
            self.failed(Unavailable(f"the gateway broke the session protocol: {error}"))

    def sent(self, message: EdgeMessage, size: int, began: float) -> None:
        """Tell that a message went out as `size` bytes, the first of them given to the socket at `began`."""
        self.session.observer.sent(message, size, began)

    def tick(self, now: float) -> None:
        self.session.tick(now)
        self._act()

    def suspended(self, error: ApiError) -> None:
        """The link is gone; perhaps it comes back."""
        self.session.suspended(error, time.monotonic())
        self._act()

    def resumed(self) -> None:
        """It is back."""
        self.session.resumed()
        self._act()

    def relocated(self) -> None:
        """The link has been given up for one to another gateway."""
        self.session.relocated()
        self._act()

    def postponed(self, failed: Failed) -> None:
        """The gateway ends: another one will be asked."""
        self.session.postponed(RemoteError(failed), time.monotonic())
        self._act()

    def refused(self) -> None:
        """There is no other one."""
        self.session.refused()
        self._act()

    def failed(self, error: ApiError) -> None:
        """It cannot go on; the gateway is told."""
        self.session.fail(error)
        self._act()

    def link_lost(self, error: ApiError) -> None:
        """The link is gone for good."""
        self.session.link_lost(error)
        self._act()

    def dropped(self, error: ApiError) -> None:
        """A bug keeps the session from ending: its client is told at least."""
        self._answers.append(Fail(error))
        self._answered.set()
        self._opened.set()

    # Inside.

    def _with_figures(self, payload: bytes) -> bytes:
        session = self.session
        return usage_payload(payload, session.counts, self._times, self._off or session.drafting_off)

    def _check_untaken(self) -> None:
        count = len(self._answers)
        if (count > MAX_UNTAKEN or self._untaken_bytes > MAX_UNTAKEN_BYTES) and isinstance(self._answers[-1], Deliver):
            raise OutOfState(
                f"{count} events of {self._untaken_bytes} bytes wait for the client, unacknowledged; the limits are "
                f"{MAX_UNTAKEN} and {MAX_UNTAKEN_BYTES}"
            )

    def _act(self) -> None:
        for action in self.session.take_actions():
            match action:
                case StartDrafting():
                    self._open_lane(action)
                case Commit(tokens, limit):
                    self._commit(tokens, limit)
                case StopDrafting():
                    if self._lane is not None:
                        self._lane.close()
                        self._lane = None
                case _:
                    self._untaken_bytes += len(action.payload) if isinstance(action, Deliver) else 0
                    self._answers.append(action)
                    self._answered.set()
        if self.session.opened is not None or self._answers:
            self._opened.set()
        self._changed()

    def _open_lane(self, start: StartDrafting) -> None:
        if self._worker is not None:
            form = None
            if self._response_format is not None and (opened := self.session.opened) is not None:
                form = AnswerForm(self._response_format, len(opened.prompt_ids))
            self._lane = self._worker.open(
                start.prompt_ids, start.params, start.eos_ids, self._drafted, self._drafter_failed, form
            )
        if self._lane is None:
            reason = self._why_no_lane(start)
            level = logging.WARNING if reason is DraftingOff.DRAFTER_BROKEN else logging.INFO
            log.log(level, "request %s is served cloud-only: %s", self.request_id, reason)
            self.session.drafting_ended(reason)

    def _why_no_lane(self, start: StartDrafting) -> DraftingOff:
        if self._worker is None or self._worker.broken is not None:
            return DraftingOff.DRAFTER_BROKEN
        if not self._worker.lanes_free:
            return DraftingOff.CAPACITY
        too_long = len(start.prompt_ids) >= self._worker.max_context
        return DraftingOff.CONTEXT if too_long else DraftingOff.UNKNOWN_TOKEN

    def _commit(self, tokens: Sequence[int], limit: int) -> None:
        if self._lane is not None and self._lane.commit(tokens, limit) is None:
            log.info("request %s goes on cloud-only: the drafter does not have a token id of it", self.request_id)
            self._lane = None
            self.session.drafting_ended(DraftingOff.UNKNOWN_TOKEN)

    def _drafted(self, commit: int, token: DraftToken | None) -> None:
        self.session.drafted(commit, token, time.monotonic())
        self._act()

    def _drafter_failed(self, error: Exception) -> None:
        log.error("request %s goes on cloud-only: the drafter failed: %s", self.request_id, error)
        self.session.drafting_ended(DraftingOff.DRAFTER_BROKEN)
        self._act()
