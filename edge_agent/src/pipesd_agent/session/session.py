"""The edge's side of one session, sans-I/O (architecture §4).

Messages from the gateway, drafted tokens, what the client has taken and clock readings go in. What comes out is of two
kinds: *actions* for the drafter and the client, and *messages* for the gateway. The link pulls messages when its socket
has room, so that on a slow link tokens gather in the window instead of going stale in a buffer.

How to drive it, after every call that is not a property:

1. `take_actions` and carry them out, in order;
2. `next_message` whenever the link has room, until it returns None;
3. `tick` at the time that `deadline` says, at the latest;
4. forget the session, and free its channel, once `state` is ENDED and its actions are carried out.

The session drafts on while a verification is pending (PipeSD's rule 2); when the trigger fires, everything unsent goes
at once (rule 1). A link that is lost suspends it. The next one resumes it at the gateway; one that does not know it any
more, or another gateway, is asked again (`handoff`): the new answer must be the old one to the byte as far as that
went, or the request fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, Flag, auto

import msgspec

from pipesd_agent.drafting.drafter import DraftToken
from pipesd_agent.drafting.status import DraftingOff
from pipesd_agent.session.actions import Action, Complete, Deliver, Fail
from pipesd_agent.session.cannot_splice import CannotSplice
from pipesd_agent.session.counts import Counts
from pipesd_agent.session.policies import Policies
from pipesd_agent.session.remote_error import RemoteError
from pipesd_agent.session.settings import SessionSettings
from pipesd_agent.session.splice import DeliveredText
from pipesd_agent.session.state.acknowledgements import Acknowledgements
from pipesd_agent.session.state.drafting import Drafting
from pipesd_agent.session.state.handoff import Handoff
from pipesd_agent.session.usage import completes
from pipesd_core.errors import ApiError, ProtocolError, SessionUnknown, Unavailable
from pipesd_core.protocol.messages import (
    FOREVER,
    Ack,
    Close,
    Desync,
    Draft,
    EdgeMessage,
    End,
    Event,
    Failed,
    Open,
    Opened,
    Reason,
    Resume,
    SessionMessage,
    Verdict,
)


class State(Enum):
    """Where a session stands."""

    OPENING = auto()
    """The gateway is asked, for the first time or after a handoff, and has not opened it."""
    OPEN = auto()
    CLOSING = auto()
    """The client has its last word (complete, failed, or it left); the gateway's is to come."""
    ENDED = auto()
    """Nothing more will come from the gateway: the channel is free."""


class _Owed(Flag):
    """Messages that go up before all others, in this order."""

    NOTHING = 0
    OPEN = auto()
    RESUME = auto()
    CLOSE = auto()


class EdgeSession:
    """One request of a client, answered by the target through a gateway.

    Args:
        request: what the gateway is asked. Its channel is the session's on every connection; without a fingerprint
            nothing is drafted.
        max_context: of the drafter; positions from there on are left to the target.
        now: clock reading in seconds; only differences mean anything.

    Attributes:
        state: see `State`.
        opened: the gateway's answer to `request`; None: there was none yet.
        counts: what it did so far.
        observer: its shell tells it what was `sent`, and that the session has `ended`.
    """

    def __init__(
        self,
        request: Open,
        policies: Policies,
        settings: SessionSettings,
        *,
        max_context: int,
        now: float,
    ) -> None:
        self.channel = request.channel
        self.state = State.OPENING
        self.opened: Opened | None = None
        self.counts = Counts()
        self.observer = policies.observer
        self._policies = policies
        self._settings = settings
        self._request = request
        self._first_rest = 0
        if request.fingerprint is not None:
            self._first_rest = policies.mode.opening(now)
            if settings.free_start is not None:
                free_start = max(settings.free_start, self._first_rest)
                self._request = msgspec.structs.replace(request, free_start=free_start)
        self._max_context = max_context
        self._owed = _Owed.OPEN
        self._session_id: bytes | None = None
        """The gateway's name for it; None: not opened there yet."""
        self._suspended_since: float | None = None
        self._suspended_by: ApiError = Unavailable("the link to the gateway was lost; try again")
        self._last_received = now
        self._committed: list[int] = []
        self._last_draftable = 0
        self._actions: list[Action] = []
        self._acks = Acknowledgements()
        self._handoff = Handoff()
        state = self.counts, self._committed, self._handoff, self._actions
        self._drafting = Drafting(policies, settings, *state, now)

    # What comes out.

    @property
    def ended(self) -> bool:
        """Whether nothing more will come from the gateway: the channel is free."""
        return self.state is State.ENDED

    @property
    def committed(self) -> Sequence[int]:
        """Prompt and output ids that the target has decided."""
        return self._committed

    @property
    def request(self) -> Open:
        """What the gateway was asked last."""
        return self._request

    @property
    def delivered(self) -> DeliveredText:
        """What the client has of the answer, or will have once it has taken every `Deliver`."""
        return self._handoff.delivered

    @property
    def epoch(self) -> int:
        """The epoch of the next drafts."""
        return self._drafting.window.epoch

    @property
    def drafting_off(self) -> DraftingOff | None:
        """The reason why nothing is drafted any more; None: it is, or was never to be."""
        return self._drafting.off

    @property
    def suspended_since(self) -> float | None:
        """When the link was lost, in seconds; None: there is one."""
        return self._suspended_since

    def take_actions(self) -> list[Action]:
        """Take the actions since the last call; carry them out in order, whatever was called before."""
        actions = list(self._actions)
        self._actions.clear()
        return actions

    def next_message(self, now: float) -> EdgeMessage | None:
        """Take the next message to send, built now from what is unsent; None: there is nothing to send.

        Call it again until it returns None, as long as the link has room. It makes no actions, but moves `deadline`.
        """
        if self.ended or self._suspended_since is not None:
            return None
        if self._owes(_Owed.OPEN):
            return self._request
        if self._session_id is not None and self._owes(_Owed.RESUME):
            return Resume(self.channel, self._session_id, self._acks.received)
        if self._owes(_Owed.CLOSE):
            self._last_received = now  # the gateway has as long for its End as for anything else
            return Close(self.channel)
        if self.state is not State.OPEN:
            return None
        if (replay := self._next_replay(now)) is not None:
            return replay
        drafts = self._drafting.next_message(self.channel, now)
        return drafts or (None if (seq := self._acks.next_ack()) is None else Ack(self.channel, seq))

    def deadline(self) -> float | None:
        """When `tick` has to be called at the latest; None: never."""
        if self.ended:
            return None
        silent = self._last_received + self._settings.silence_timeout_s
        if self._suspended_since is not None:
            return min(silent, self._suspended_since + self._settings.grace_s)
        window = self._drafting.window
        if window.pending is None or self._acks.held_up:
            return silent
        since = max(window.pending_since, self._last_received)
        return min(silent, since + self._settings.verification_timeout_s)

    # What comes in: from the gateway.

    def receive(self, message: SessionMessage, now: float) -> None:
        """Receive a message of the gateway for this session. Raises ProtocolError: then call `fail`.

        After calling this method, whether it raises or not: `take_actions`, `next_message`, `deadline`.
        """
        if self.ended:
            return
        self._last_received = now
        if isinstance(message, Verdict | Event | End) and not self._acks.receive(message.seq):
            return
        open_again = self.state is State.OPENING and self.opened is not None
        match message:
            case End():
                self._receive_end()
            case Failed(code=SessionUnknown.code) if self.state is State.OPEN:
                self._hand_off()
            case Failed(code=Unavailable.code) if open_again:  # that gateway is about to end
                self.postponed(RemoteError(message), now)
            case Failed():
                self._end(Fail(RemoteError(message)))
            case _ if self.state is State.CLOSING:
                pass  # on its way when the client left
            case Opened():
                self._receive_opened(message, now)
            case Verdict():
                self._receive_verdict(message, now)
            case Event():
                self._receive_event(message)
            case Desync():
                if message.epoch == self.epoch:
                    self._drafting.send_again()

    # What comes in: from the drafter.

    def drafted(self, commit: int, token: DraftToken | None, now: float) -> None:
        """Receive a token that the lane drafted after `commit` commits; None: it has nothing to propose.

        After calling this method: `take_actions`, `next_message`, `deadline`.
        """
        self._drafting.drafted(commit, token, now)

    def drafting_ended(self, reason: DraftingOff) -> None:
        """Go on without a drafter: there is none (any more), and the target writes the rest by itself.

        After calling this method: `take_actions`, `next_message`, `deadline`.
        """
        self._drafting.end(reason)

    # What comes in: from the client.

    def taken(self, seq: int, now: float) -> None:
        """Note that the client has the payload of `Deliver(seq)`, and all before it.

        After calling this method: `next_message`, `deadline`.
        """
        if self._acks.held_up:
            self._drafting.window.pending_since = now  # the verification could not have come before
        self._acks.taken(seq)

    def client_left(self) -> None:
        """Give the answer up: the client does not want it any more.

        After calling this method: `take_actions`, `next_message`, `deadline`.
        """
        if self.state in (State.OPENING, State.OPEN):
            self._drafting.stop()
            self._owed |= _Owed.CLOSE
            dropped = self._suspended_since is not None and self._session_id is None
            self.state = State.ENDED if dropped else State.CLOSING

    # What comes in: from the link.

    def fail(self, error: ApiError) -> None:
        """End a session that is beyond repair: the client gets the error, and the gateway is told to close it.

        After calling this method: `take_actions`, `next_message`, `deadline`.
        """
        if not self.ended:
            self._owed |= _Owed.CLOSE
            self._last_word(Fail(error))

    def suspended(self, error: ApiError, now: float) -> None:
        """Wait for another link: this one is gone. error: what the client gets if none is there in the grace time.

        After calling this method: `take_actions`, `deadline`.
        """
        if self.ended or self._suspended_since is not None:
            return
        self._suspended_since = now
        self._suspended_by = error
        if not self._settings.grace_s:
            self.link_lost(error)
        elif self.state is State.CLOSING and self._session_id is None:
            self.state = State.ENDED  # the gateway drops what is not open yet

    def resumed(self) -> None:
        """Begin anew at what is committed, as the gateway does: there is a link again, to whichever gateway.

        After calling this method: `take_actions`, `next_message`, `deadline`.
        """
        if self.ended or self._suspended_since is None:
            return
        self._suspended_since = None
        if self._session_id is None:
            self._owed |= _Owed.OPEN
            return
        self._owed = _Owed.RESUME | (_Owed.CLOSE if self.state is State.CLOSING else _Owed.NOTHING)
        self._acks.link_resumed()
        self._drafting.link_resumed()

    @property
    def can_hand_off(self) -> bool:
        """Whether another gateway can go on with the answer."""
        return self.state is not State.OPEN or self._handoff.possible

    def relocated(self) -> None:
        """Go on at another gateway, which does not know the session: the link was given up for one to that.

        After calling this method: `take_actions`, `next_message`, `deadline`.
        """
        if self.ended:
            return
        self._suspended_since = None
        if self.state is State.CLOSING:
            self.state = State.ENDED  # the gateway was told so with the goodbye
        elif self._session_id is None:
            self._owed |= _Owed.OPEN
        else:
            self._hand_off()

    def postponed(self, error: ApiError, now: float) -> None:
        """Wait for the next link's gateway: this one ends, and does not open the request or go on with it.

        error: what the client gets if there is none within the grace time.
        After calling this method: `take_actions`, `deadline`.
        """
        if self.state is State.CLOSING:
            self.state = State.ENDED
        elif not self.ended:
            self._suspended_since = now
            self._suspended_by = error

    def refused(self) -> None:
        """Fail where the request was `postponed` and never opened: no gateway opens it.

        After calling this method: `take_actions`.
        """
        if self._suspended_since is not None and self.opened is None:
            self.link_lost(self._suspended_by)

    def link_lost(self, error: ApiError) -> None:
        """End the session with its link, which is gone for good: the client gets the error.

        After calling this method: `take_actions`.
        """
        self._end(Fail(error))

    def tick(self, now: float) -> None:
        """Do what `deadline` announced, if it is time.

        After calling this method: `take_actions`, `next_message`, `deadline`.
        """
        due = self.deadline()
        if due is None or now < due:
            return
        if self._suspended_since is not None:
            self.link_lost(self._suspended_by)
        elif now >= self._last_received + self._settings.silence_timeout_s:
            if self.state is State.CLOSING:
                self.state = State.ENDED  # a gateway that does not even answer Close
                return
            silence = self._settings.silence_timeout_s
            self._last_received = now
            self.fail(Unavailable(f"the gateway has been silent for {silence:g} s; try again"))
        else:
            self._drafting.window.pending = None
            self._drafting.end(DraftingOff.NO_VERDICT)
            if self._handoff.position < len(self._committed):
                self._drafting.run.pending = FOREVER

    # Inside.

    def _owes(self, message: _Owed) -> bool:
        """Whether the message is owed; it counts as sent then."""
        owed = message in self._owed
        self._owed &= ~message
        return owed

    def _receive_opened(self, opened: Opened, now: float) -> None:
        if self._session_id is not None:
            raise ProtocolError("the gateway opened a session twice")
        self._session_id = opened.session
        self.state = State.OPEN
        if (first := self.opened) is not None:
            if msgspec.structs.replace(opened, session=first.session, ignored=first.ignored) != first:
                self._fail_handoff("prompt, parameters or limits are not the same there")
            return
        self.opened = opened
        prompt_length = len(opened.prompt_ids)
        self._committed += opened.prompt_ids
        self._handoff.opened(prompt_length)
        self._last_draftable = prompt_length + opened.max_tokens - 2
        limit = 0 if self._request.fingerprint is None else min(self._last_draftable + 1, self._max_context)
        self.observer.opened(opened, self.counts, now)
        self._drafting.opened(opened, self._request.free_start, limit=limit, first_rest=self._first_rest)

    def _receive_verdict(self, verdict: Verdict, now: float) -> None:
        if self._session_id is None or verdict.start != self._handoff.position:
            position = self._handoff.position
            raise ProtocolError(f"verdict from {verdict.start}, but {position} ids are committed")
        self.counts.forwards += 1
        self.counts.verifications += verdict.reason is Reason.VERIFICATION
        if verdict.verified:
            self._policies.trigger.verified(verdict.verified, verdict.accepted)
        try:
            tokens = self._handoff.decided(verdict.tokens, self._committed)
        except CannotSplice as why:
            self._fail_handoff(str(why))
            return
        window = self._drafting.window
        if window.pending is not None and self._handoff.position > window.pending:
            window.pending = None
        if tokens:
            self._drafting.decided(verdict, tokens, now)
        else:
            self._drafting.run_without_drafts()

    def _receive_event(self, event: Event) -> None:
        self._acks.payload(event.seq, len(event.payload))
        try:
            payload = self._handoff.deliver(event.payload)
        except CannotSplice as why:
            self._fail_handoff(str(why))
            return
        if payload is not None:
            self._actions.append(Deliver(self._acks.delivered(event.seq), payload, event.usage))
        if event.usage and completes(event.payload):
            self._drafting.stop()  # so that what the answer says of its drafts is all that there will ever be

    def _receive_end(self) -> None:
        if not self._handoff.caught_up(self._committed):
            self._fail_handoff("its answer is shorter")
        self._end(Complete())

    def _hand_off(self) -> None:
        """Ask the same again: the gateway does not know the session."""
        assert self.opened is not None
        try:
            self._request = self._handoff.begin(self._request, self.opened)
        except CannotSplice as why:
            self._end(Fail(_cannot_hand_off(str(why))))
            return
        self.state = State.OPENING
        self._session_id = None
        self._owed = _Owed.OPEN
        self._acks.handed_off()
        self._drafting.handed_off(self._request.free_start)

    def _fail_handoff(self, why: str) -> None:
        self.fail(_cannot_hand_off(why))

    def _next_replay(self, now: float) -> Draft | None:
        """Committed ids for a gateway that has not decided them yet."""
        replay = self._handoff.next_replay(self._committed, self._last_draftable)
        if replay is None:
            return None
        start, ids = replay
        through = start + len(ids) - 1
        window = self._drafting.window
        self._drafting.run.drafts_sent()
        window.pending, window.pending_since = through, now
        return Draft.wishing(self.channel, window.epoch, start, ids, through)

    def _last_word(self, last: Complete | Fail) -> None:
        """The client gets it, unless it has one, and the gateway's is to come."""
        self._drafting.stop()
        if self.state in (State.OPENING, State.OPEN):
            self.state = State.CLOSING
            self._actions.append(last)

    def _end(self, last: Complete | Fail) -> None:
        """Give the client its last word, unless it has one; the gateway has none to come."""
        self._last_word(last)
        self.state = State.ENDED


def _cannot_hand_off(why: str) -> Unavailable:
    return Unavailable(f"the link was lost, and the answer cannot be gone on with elsewhere: {why}; try again")
