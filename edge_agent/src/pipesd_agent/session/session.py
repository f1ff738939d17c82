"""The edge's side of one session, sans-I/O (architecture §4).

Messages from the gateway, drafted tokens, what the client has taken and clock readings go in. What comes out is of two
kinds: *actions* (`take_actions`: for the drafter and for the client, in order) and *messages*, which the link pulls
with `next_message` when its socket has room, so that on a slow link tokens gather in the window instead of going
stale in a buffer.

The session keeps the committed ids, the *window* (drafted tokens after them), how much of the window has been sent,
and the epoch, which it raises whenever it discards drafted tokens. It drafts on while a verification is out
(the paper's Rule 2); when the trigger fires, everything unsent goes at once (Rule 1).

A link that is lost suspends it. The next one resumes it at the gateway; one that does not know it any more, or another
one, is asked again with the same body and seed, and what is committed goes up as drafts: the new answer must be the old
one to the byte as far as that went, or the request fails.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from pipesd_agent.drafting.drafter import DraftToken
from pipesd_agent.session.policies import Policies
from pipesd_agent.session.splice import CannotSplice, Shown, Splice
from pipesd_core.errors import ApiError, ConfigError, ProtocolError, SessionUnknown, Unavailable
from pipesd_core.protocol.messages import (
    FOREVER,
    MAX_DRAFTS_PER_MESSAGE,
    MAX_UNACKED,
    MAX_UNACKED_BYTES,
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
    Run,
    Verdict,
)
from pipesd_core.sampling.params import SamplingParams

NEVER: Final = 0
"""`Run.until` that ends a free run: no position of an answer is less."""
DRY_RUN: Final = 8
"""Tokens that the target goes on by itself when the drafter has nothing to propose."""
ACK_EVERY: Final = 16
"""Messages that one ack covers at least; far below the gateway's MAX_UNACKED, so that acks never hold it up."""
ACK_BYTES: Final = MAX_UNACKED_BYTES // 8
"""Or payloads of so many bytes."""
CATCH_UP: Final = 1024
"""Committed ids on their way up at once after a move to another gateway; far below what it holds."""
FEED_EVERY: Final = 64
"""Committed ids that a resting lane is told of at once: in a batch they cost the device a fraction, and going back to
drafting has no more than these to catch up with."""


class SessionSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """window: drafted tokens after the committed ones, at most; in bench/proving/methods/defaults.py more than 16 saved
    few target forwards and doubled the rejected drafts. nav_timeout_s: how long a verification may stay without any
    verdict before the session goes cloud-only. silence_timeout_s: how long the gateway may say nothing at all (waiting
    in its queue included) before the request fails. grace_s: how long a lost link may stay away before the request
    fails; 0: not at all. free_start: tokens that the target writes by itself until the first draft is there, at most;
    one that is faster than the drafter then writes all of the answer. 1: the prompt's own step only. None: no limit."""

    window: int = 16
    nav_timeout_s: float = 4.0
    silence_timeout_s: float = 120.0
    grace_s: float = 30.0
    free_start: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.window <= 1024:
            raise ConfigError(f"window must lie between 1 and 1024 tokens, but is {self.window}")
        if not (0 < self.nav_timeout_s < math.inf and 0 < self.silence_timeout_s < math.inf):
            raise ConfigError(
                "nav_timeout_s and silence_timeout_s must be positive numbers of seconds, "
                f"but are {self.nav_timeout_s} and {self.silence_timeout_s}"
            )
        if not 0 <= self.grace_s < math.inf:
            raise ConfigError(f"grace_s must be a number of seconds, 0 or more, but is {self.grace_s}")
        if self.free_start is not None and not 1 <= self.free_start <= FOREVER:
            raise ConfigError(f"free_start must be a number of tokens, 1 or more, but is {self.free_start}")


class StartDrafting(Struct, frozen=True):
    """Open a lane of the drafter; if it has none left, call `drafting_ended`."""

    prompt_ids: tuple[int, ...]
    params: SamplingParams
    eos_ids: frozenset[int]


class Commit(Struct, frozen=True):
    """Tell the lane what the target decided, and the first position that must not be drafted."""

    tokens: tuple[int, ...]
    limit: int


class StopDrafting(Struct, frozen=True):
    """Close the lane."""


class Deliver(Struct, frozen=True):
    """A payload for the client; call `taken` with its seq when the client has it."""

    seq: int
    payload: bytes
    usage: bool


class Complete(Struct, frozen=True):
    """The answer is complete."""


class Fail(Struct, frozen=True):
    """The answer cannot be completed."""

    error: ApiError


Action = StartDrafting | Commit | StopDrafting | Deliver | Complete | Fail


class RemoteError(ApiError):
    """An error that the gateway answered with: its status and body reach the client as they are."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.code)
        self.status = failed.status
        self._failed = failed

    def body(self) -> dict[str, Any]:
        try:
            return msgspec.json.decode(self._failed.body, type=dict[str, Any])
        except msgspec.DecodeError:
            return {"error": {"message": self.message, "type": self.type, "param": None, "code": self.message}}

    def headers(self) -> dict[str, str]:
        return {"retry-after": str(self._failed.retry_after_s)} if self._failed.retry_after_s else {}


class Counts(Struct):
    """What a session did; accepted and rejected as architecture §4 defines them.

    forwards: the target's steps. navs: those that a wish of ours caused. wishes: sent; several may end in one step.
    """

    forwards: int = 0
    navs: int = 0
    wishes: int = 0
    sent: int = 0
    accepted: int = 0
    drafted: int = 0
    rollbacks: int = 0

    @property
    def rejected(self) -> int:
        return self.sent - self.accepted


class EdgeSession:
    """One request of a client, answered by the target through a gateway.

    Args:
        request: what the gateway is asked. Its channel is the session's on every connection; without a fingerprint
            nothing is drafted.
        max_context: of the drafter; positions from there on are left to the target.
        now: clock reading in seconds; only differences mean anything.
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
        self.counts = Counts()
        self.opened: Opened | None = None
        self.ended = False
        """Nothing more will come from the gateway: the channel is free."""
        self.origins: list[bool] = []
        """For each output token: was it drafted, sent and accepted?"""
        self._trigger = policies.trigger
        self._batcher = policies.batcher
        self._mode = policies.mode
        self.watch = policies.watch
        """Shells tell it what was `sent`, and that the session has `ended`."""
        self._settings = settings
        self._request = request
        self._first_rest = 0
        if request.fingerprint is not None:
            self._first_rest = policies.mode.opening(now)
            if settings.free_start is not None:
                free_start = max(settings.free_start, self._first_rest)
                self._request = msgspec.structs.replace(request, free_start=free_start)
        self._open_pending = True
        self._resume_pending = False
        self._session: bytes | None = None
        """The gateway's name for it; None: not opened there yet."""
        self._suspended_since: float | None = None
        self._suspended_by: ApiError = Unavailable("the link to the gateway was lost; try again")
        self._collaborative = request.fingerprint is not None
        self._max_context = max_context
        self._drafting = False
        """Is there a drafter for it, or may there be?"""
        self._lane_open = False
        self._untold: list[int] = []
        """Committed ids that the lane has not been told of."""
        self._resting = False
        self._rest_until = -1
        """Nothing is drafted while no more than this position is committed."""
        self._rest_run = -1
        """`Run.until` of the rest."""
        self._run_behind = False
        """What is drafted comes before it: its NAV goes first."""
        self._stop_first = False
        """The next draft has to end the run under way."""
        self._stop_said = False
        """One has, since the last run began; the gateway may not have heard of it."""
        self._answered = False
        """The client has its last word (complete, failed, or it left)."""
        self._committed: list[int] = []
        self._base = 0
        """Position of the gateway's next token; less than what is committed after a move to another gateway."""
        self._told_upto = 0
        """Committed ids that have gone up as drafts since such a move."""
        self._last_draftable = 0
        self._hard_limit = 0
        self._window: deque[DraftToken] = deque()
        self._sent_upto = 0
        self._epoch = 0
        self._wished_upto = 0
        self._commits = 0
        self._commit_ends: list[int] = []
        self._valid_from = 0
        self._dry = False
        self._nav_pending: int | None = None
        self._nav_out: int | None = None
        self._nav_since = now
        self._run_pending: int | None = None
        self._run_until = FOREVER
        self._in_start_run = True
        self._close_pending = False
        self._last_heard = now
        self._seq = 0
        self._offset = 0
        """Of the seq of a `Deliver` to the gateway's: other gateways counted them before this one."""
        self._untaken: deque[int] = deque()
        self._acked = 0
        self._ack_again = False
        self._event_sizes: deque[tuple[int, int]] = deque()
        self._ackable_bytes = 0
        self._shown = Shown()
        self._splice: Splice | None = None
        self._actions: list[Action] = []

    # What comes out.

    @property
    def committed(self) -> Sequence[int]:
        """Prompt and output ids that the target has decided."""
        return self._committed

    @property
    def request(self) -> Open:
        """What the gateway was asked, last."""
        return self._request

    @property
    def shown(self) -> Shown:
        """What the client has of the answer, or will have once it has taken every `Deliver`."""
        return self._shown

    @property
    def epoch(self) -> int:
        return self._epoch

    def take_actions(self) -> list[Action]:
        """Actions since the last call, in order."""
        actions, self._actions = self._actions, []
        return actions

    def next_message(self, now: float) -> EdgeMessage | None:
        """The next message to send, built now from what is unsent; None: nothing to say."""
        if self.ended or self._suspended_since is not None:
            return None
        if self._open_pending:
            self._open_pending = False
            return self._request
        if self._resume_pending and self._session is not None:
            self._resume_pending = False
            return Resume(self.channel, self._session, self._seq)
        if self._close_pending:
            self._close_pending = False
            self._last_heard = now  # the gateway has as long for its End as for anything else
            return Close(self.channel)
        if self._answered or self._session is None:
            return None
        if (told := self._next_told(now)) is not None:
            return told
        if not (self._run_behind and self._nav_pending is not None):
            until, self._run_pending = self._run_pending, None
            if until is not None and until >= len(self._committed):
                self._end_start_run()
                self._run_until = until
                self._stop_said = False
                self._stop_first = self._stop_first and until > self._rest_run
                return Run(self.channel, until)
        return self._next_draft(now) or self._next_ack()

    def deadline(self) -> float | None:
        """When `tick` has to be called at the latest; None: never."""
        if self.ended:
            return None
        silent = self._last_heard + self._settings.silence_timeout_s
        if self._suspended_since is not None:
            return min(silent, self._suspended_since + self._settings.grace_s)
        if self._nav_out is None or self._held_up:
            return silent
        return min(silent, max(self._nav_since, self._last_heard) + self._settings.nav_timeout_s)

    # What comes in.

    def receive(self, message: Opened | Verdict | Event | End | Failed | Desync, now: float) -> None:
        """A message of the gateway for this session."""
        if self.ended:
            return
        self._last_heard = now
        if isinstance(message, Verdict | Event | End):
            if message.seq <= self._seq:
                return
            if message.seq != self._seq + 1:
                raise ProtocolError(f"message {message.seq} of the session came after {self._seq}")
            self._seq = message.seq
        match message:
            case End():
                self._receive_end()
            case Failed(code=SessionUnknown.code) if self._session is not None and not self._answered:
                self._move()
            case Failed(code=Unavailable.code) if (
                self.opened is not None and self._session is None and not self._answered
            ):
                # Asked again, and the gateway is about to end: perhaps the next one goes on.
                self.postponed(RemoteError(message), now)
            case Failed():
                self.ended = True
                self._answer(Fail(RemoteError(message)))
            case _ if self._answered:
                pass  # on its way when the client left
            case Opened():
                self._receive_opened(message, now)
            case Verdict():
                self._receive_verdict(message, now)
            case Event():
                self._receive_event(message)
            case Desync():
                self._receive_desync(message)

    def drafted(self, commit: int, token: DraftToken | None, now: float) -> None:
        """The lane drafted a token after `commit` commits; None: it has nothing to propose at the end of its path."""
        if not self._drafting or commit < self._valid_from:
            return
        self._dry = token is None
        if token is None:
            self._go_on_dry()
            return
        base = len(self._committed)
        if token.position < base:
            if self._committed[token.position] != token.token:
                # The lane learns of it from the commit that decided this position.
                self._valid_from = 1 + bisect_right(self._commit_ends, token.position)
            return
        if token.position != base + len(self._window):
            raise ProtocolError(f"drafted position {token.position}, expected {base + len(self._window)}")
        assert self.opened is not None
        self._window.append(token)
        self.counts.drafted += 1
        self.watch.drafted(token, now)
        if self._resting:
            return  # what comes of it is seen when the rest is over
        full = len(self._window) >= self._settings.window or token.position + 1 >= self._hard_limit
        rest = self._mode.drafted(token, now)
        if self._trigger.drafted(token) or full or token.token in self.opened.eos_ids or rest:
            self._want_nav()
        if rest:
            self._rest(token.position + 1, rest)
            self._commit(())

    def drafting_ended(self) -> None:
        """There is no drafter for this session (any more): the target goes on by itself."""
        if self._drafting:
            self._stop_drafting()
            self._run_pending = FOREVER

    def taken(self, seq: int, now: float) -> None:
        """The client has taken the payload of `Deliver(seq)`, and all before it."""
        if self._held_up:
            self._nav_since = now  # the verification could not have come before
        while self._untaken and self._untaken[0] <= seq:
            self._untaken.popleft()

    def client_left(self) -> None:
        """The client does not want the answer any more."""
        if not self._answered:
            self._answered = True
            self._stop_drafting()
            self._close_pending = not self.ended
            self.ended = self.ended or (self._suspended_since is not None and self._session is None)

    def fail(self, error: ApiError) -> None:
        """The session is beyond repair: tell the client, and the gateway."""
        self._close_pending = not self.ended
        self._answer(Fail(error))

    def suspended(self, error: ApiError, now: float) -> None:
        """The link is gone. `error` is what the client gets if it is not `resumed` within the grace time."""
        if self.ended or self._suspended_since is not None:
            return
        self._suspended_since = now
        self._suspended_by = error
        if not self._settings.grace_s:
            self.link_lost(error)
        elif self._answered and self._session is None:
            self.ended = True  # the gateway drops what is not open yet

    def resumed(self) -> None:
        """There is a link again, to the same gateway or another one. Both sides begin anew at what is committed."""
        if self.ended or self._suspended_since is None:
            return
        self._suspended_since = None
        if self._session is None:
            self._open_pending = True
            return
        self._resume_pending = True
        self._ack_again = self._acked > 0  # the last one may be lost, and a gateway that has stalled waits for it
        self._close_pending = self._answered
        self._begin_anew()

    @property
    def movable(self) -> bool:
        """Can another gateway go on with the answer?"""
        return self.ended or self._answered or self._session is None or self._shown.plain

    def relocated(self) -> None:
        """The link was given up for one to another gateway, where nobody knows the session."""
        if self.ended:
            return
        self._suspended_since = None
        if self._answered:
            self.ended = True  # the gateway was told so with the goodbye
        elif self._session is None:
            self._open_pending = True
        else:
            self._move()

    def postponed(self, error: ApiError, now: float) -> None:
        """The gateway does not open the request, or not go on with it, since it ends: the next link's will be asked.

        error: what the client gets if there is none within the grace time."""
        if self._answered:
            self.ended = True
        elif not self.ended:
            self._suspended_since = now
            self._suspended_by = error

    def refused(self) -> None:
        """No gateway opens the request that was `postponed`."""
        if self._suspended_since is not None and self.opened is None:
            self.link_lost(self._suspended_by)

    def link_lost(self, error: ApiError) -> None:
        """The link is gone for good, and with it the session."""
        self.ended = True
        self._answer(Fail(error))

    def tick(self, now: float) -> None:
        """The clock moved; does what `deadline` announced."""
        due = self.deadline()
        if due is None or now < due:
            return
        if self._suspended_since is not None:
            self.link_lost(self._suspended_by)
        elif now >= self._last_heard + self._settings.silence_timeout_s:
            silence = self._settings.silence_timeout_s
            self.ended = self._answered  # a gateway that does not even answer Close
            self._last_heard = now
            self.fail(Unavailable(f"the gateway has been silent for {silence:g} s; try again"))
        else:
            self._nav_out = None
            self.drafting_ended()
            if self._base < len(self._committed):
                self._run_pending = FOREVER

    # Inside.

    @property
    def _held_up(self) -> bool:
        """Is the client so far behind that the gateway waits for it?"""
        return self._seq - self._ackable - 1 > MAX_UNACKED // 2

    @property
    def _ackable(self) -> int:
        """All up to this one of the gateway's messages has been taken."""
        first = next((seq for seq in self._untaken if seq > self._offset), None)
        return self._seq if first is None else first - 1 - self._offset

    def _receive_opened(self, opened: Opened, now: float) -> None:
        if self._session is not None:
            raise ProtocolError("the gateway opened a session twice")
        self._session = opened.session
        if self.opened is not None:
            if msgspec.structs.replace(opened, session=self.opened.session) != self.opened:
                self._fail_move("prompt, parameters or limits are not the same there")
            return
        self.opened = opened
        self._begin_start_run(opened)
        self._committed = list(opened.prompt_ids)
        self._base = self._told_upto = len(self._committed)
        self.watch.opened(opened, now)
        self._sent_upto = len(self._committed)
        self._last_draftable = len(opened.prompt_ids) + opened.max_tokens - 2
        self._hard_limit = min(self._last_draftable + 1, self._max_context)
        if self._collaborative and len(self._committed) < self._hard_limit:
            self._drafting = True
            rest = self._first_rest
            if rest:
                self._rest(len(self._committed), rest)
            if not rest or self._rest_run < FOREVER:
                self._open_lane()
                self._commit(())
        elif self._request.free_start < FOREVER:
            self._run_pending = FOREVER

    def _receive_verdict(self, verdict: Verdict, now: float) -> None:
        if self._session is None or verdict.start != self._base:
            raise ProtocolError(f"verdict from {verdict.start}, but {self._base} ids are committed")
        self.counts.forwards += 1
        self.counts.navs += verdict.reason is Reason.NAV
        if verdict.verified:
            self._trigger.verified(verdict.verified, verdict.accepted)
        known = self._committed[self._base : self._base + len(verdict.tokens)]
        if list(verdict.tokens[: len(known)]) != known:
            self._fail_move("its tokens are not the same")
            return
        self._base += len(verdict.tokens)
        self._told_upto = max(self._told_upto, self._base)  # what the gateway has decided need not be told
        if self._nav_out is not None and self._base > self._nav_out:
            self._nav_out = None
        tokens = verdict.tokens[len(known) :]
        if not tokens:
            if self._drafting:
                self._go_on_dry()
            return
        wrong = False
        for token in tokens:
            drafted = self._window.popleft() if self._window and not wrong else None
            right = drafted is not None and drafted.token == token
            accepted = right and len(self._committed) < self._sent_upto
            wrong = wrong or (drafted is not None and not right)
            self._dry = self._dry and drafted is not None
            if drafted is not None:
                self.watch.judged(drafted, right, now)
            self.counts.accepted += accepted
            self.origins.append(accepted)
            self._committed.append(token)
        base = len(self._committed)
        if wrong:
            self._discard_window(now)
        self._sent_upto = max(self._sent_upto, base)
        self._told_upto = base
        self._wished_upto = max(self._wished_upto, base)
        self.watch.decided(verdict, now)
        if self._nav_pending is not None and base > self._nav_pending:
            self._nav_pending = None
        if not self._drafting:
            return
        self._untold += tokens
        if base >= self._hard_limit:
            self._commit(tuple(self._untold))
            self.drafting_ended()
            return
        rest = self._mode.decided(verdict, now, rejected=wrong)
        begins = not self._resting
        if rest:
            self._rest(base, rest)
        elif rest == 0:
            self._rest_until = self._rest_run = -1
        if self._resting and base > self._rest_until:
            self._wake()
        elif not self._resting or begins or wrong or len(self._untold) >= FEED_EVERY:
            self._commit(tuple(self._untold))
        if wrong:
            self._valid_from = self._commits
        self._go_on_dry()

    def _commit(self, tokens: tuple[int, ...]) -> None:
        self._untold.clear()
        if not self._lane_open:
            return
        base = len(self._committed)
        self._commits += 1
        self._commit_ends.append(base)
        limit = base if self._resting else min(base + self._settings.window, self._hard_limit)
        self._actions.append(Commit(tokens, limit))

    def _open_lane(self) -> None:
        """With all that is committed."""
        assert self.opened is not None
        self._lane_open = True
        self._untold.clear()
        start = StartDrafting(tuple(self._committed), self.opened.params, frozenset(self.opened.eos_ids))
        self._actions.append(start)

    def _rest(self, start: int, tokens: int) -> None:
        """The target runs on through `tokens` >= 1 positions from `start` on, and the drafter pauses."""
        self._rest_run = self._run_pending = min(start + tokens - 1, FOREVER)
        self._rest_until = self._rest_run - (self._mode.lead if self._rest_run < FOREVER else 0)
        self._stop_first = False
        self._run_behind = start > len(self._committed)
        if not self._run_behind:
            self._nav_pending = None
            self._trigger.reset()
        self._resting = self._resting or self._rest_until >= len(self._committed)

    def _wake(self) -> None:
        """The rest is over, or soon will be: draft again."""
        self._resting = False
        if self._rest_run < 0:
            self._run_pending = None
        # A run that goes further than the rest, if it was not replaced in time: the free start ends by itself.
        self._stop_first = not self._in_start_run and self._run_until > max(self._rest_run, len(self._committed) - 1)
        untold = tuple(self._untold)
        if not self._lane_open:
            self._open_lane()
            untold = ()
        self._commit(untold)
        if self._window:
            self._want_nav()

    def _discard_window(self, now: float) -> None:
        self._epoch += 1
        self.counts.rollbacks += 1
        self._window.clear()
        self._dry = False
        self._sent_upto = len(self._committed)
        self._nav_pending = self._nav_out = None
        self._wished_upto = self._sent_upto
        self._trigger.reset()
        self._batcher.reset()
        self.watch.discarded(now)

    def _receive_desync(self, desync: Desync) -> None:
        """The gateway holds none of our drafts: send the window again under a new epoch."""
        if desync.epoch == self._epoch:
            self._send_again()

    def _send_again(self) -> None:
        """Everything since what the gateway has committed, in a new epoch."""
        base = len(self._committed)
        self._epoch += 1
        self.counts.sent -= self._sent_upto - base
        self._sent_upto = base
        self._told_upto = self._base
        self._nav_out = None
        if self._window:
            self._want_nav()

    def _receive_event(self, event: Event) -> None:
        payload: bytes | None = event.payload
        self._event_sizes.append((event.seq, len(event.payload)))
        if self._splice is not None:
            try:
                payload = self._splice.take(event.payload)
            except CannotSplice as why:
                self._fail_move(str(why))
                return
        if payload is not None:
            self._shown.add(payload)
            self._untaken.append(self._offset + event.seq)
            self._actions.append(Deliver(self._offset + event.seq, payload, event.usage))

    def _receive_end(self) -> None:
        told_all = self._splice is None or self._splice.caught_up
        if self._base < len(self._committed) or not told_all:
            self._fail_move("its answer is shorter")
        self.ended = True
        self._answer(Complete())

    def _begin_anew(self) -> None:
        """What was said and not answered may be lost, drafts and runs alike."""
        self._send_again()
        self._stop_first = self._stop_first or self._stop_said
        if not self._in_start_run and self._run_until >= len(self._committed):
            self._run_pending = max(self._run_until, self._run_pending or 0)
        if self._drafting:
            self._go_on_dry()

    def _move(self) -> None:
        """The gateway does not know the session: ask it the same again, with the same noise."""
        assert self.opened is not None
        try:
            self._splice = Splice(self._shown)
        except CannotSplice as why:
            self.ended = True
            self._fail_move(str(why))
            return
        body = msgspec.json.decode(self._request.body)
        body["seed"] = self.opened.params.seed
        # Committed ids go up as drafts also where none of a drafter's will.
        fingerprint = self._request.fingerprint or b""
        self._request = msgspec.structs.replace(self._request, body=msgspec.json.encode(body), fingerprint=fingerprint)
        self._session = None
        self._resume_pending = False
        self._open_pending = True
        self._base = len(self.opened.prompt_ids)
        self._offset += self._seq
        self._seq = self._acked = 0
        self._ack_again = False
        self._event_sizes.clear()
        self._ackable_bytes = 0
        self._begin_start_run(self.opened)
        self._send_again()
        self._stop_first = False
        if not self._drafting:
            self._run_pending = FOREVER
        else:
            self._run_pending = self._rest_run if self._resting else None

    def _fail_move(self, why: str) -> None:
        self.fail(Unavailable(f"the link was lost, and the answer cannot be gone on with elsewhere: {why}; try again"))

    def _next_told(self, now: float) -> Draft | None:
        """Committed ids for a gateway that has not decided them yet."""
        end = min(len(self._committed), self._last_draftable + 1, self._base + CATCH_UP)
        start = max(self._told_upto, self._base)
        if start >= end:
            return None
        ids = tuple(self._committed[start : min(end, start + MAX_DRAFTS_PER_MESSAGE)])
        self._told_upto = start + len(ids)
        self._end_start_run()
        self._nav_out, self._nav_since = self._told_upto - 1, now
        return Draft.wishing(self.channel, self._epoch, start, ids, self._told_upto - 1)

    def _go_on_dry(self) -> None:
        """The drafter cannot go on from the end of the path before the target has: let it."""
        if (
            self._dry
            and not self._resting
            and self._told_upto == len(self._committed)
            and self._nav_out is None
            and self._nav_pending is None
        ):
            base = len(self._committed)
            if self._window:
                self._want_nav()
            elif base + DRY_RUN // 2 > self._run_until:  # in time, so that the target need not wait for this message
                self._run_pending = base + DRY_RUN - 1

    def _want_nav(self) -> None:
        self._nav_pending = len(self._committed) + len(self._window) - 1
        self._trigger.reset()

    def _next_draft(self, now: float) -> Draft | Run | None:
        base = len(self._committed)
        unsent = base + len(self._window) - self._sent_upto
        if self._told_upto < base:
            return None  # a hole
        if self._nav_pending is None and (self._resting or not (unsent and self._batcher.due(unsent, now))):
            return None
        if self._stop_first:
            self._stop_first = False
            self._stop_said = True
            self._run_until = -1
            return Run(self.channel, NEVER)
        start = self._sent_upto
        offset = start - base
        count = min(unsent, MAX_DRAFTS_PER_MESSAGE)
        ids = tuple(self._window[i].token for i in range(offset, offset + count))
        self._sent_upto += count
        self.counts.sent += count
        self._end_start_run()
        wish = None
        if count == unsent and self._nav_pending is not None:
            wish, self._nav_pending = self._nav_pending, None
            self._nav_out, self._nav_since = wish, now
            self.counts.wishes += 1
            if wish >= self._wished_upto:
                self.watch.wished(wish + 1 - self._wished_upto, now)
                self._wished_upto = wish + 1
            self._batcher.reset()
        return Draft.wishing(self.channel, self._epoch, start, ids, wish)

    def _begin_start_run(self, opened: Opened) -> None:
        self._in_start_run = True
        self._stop_said = False
        self._run_until = min(len(opened.prompt_ids) + self._request.free_start - 1, FOREVER)

    def _end_start_run(self) -> None:
        """The first draft or run ends the free run that every session starts in."""
        if self._in_start_run:
            self._in_start_run = False
            self._run_until = -1

    def _next_ack(self) -> Ack | None:
        ackable = self._ackable
        while self._event_sizes and self._event_sizes[0][0] <= ackable:
            self._ackable_bytes += self._event_sizes.popleft()[1]
        if ackable - self._acked < ACK_EVERY and self._ackable_bytes < ACK_BYTES and not self._ack_again:
            return None
        self._ack_again = False
        self._ackable_bytes = 0
        self._acked = ackable
        return Ack(self.channel, ackable)

    def _stop_drafting(self) -> None:
        if self._drafting:
            self._drafting = self._resting = False
            self._stop_first = False
            unsent = len(self._committed) + len(self._window) - self._sent_upto
            for _ in range(unsent):  # what was sent may still be accepted
                self._window.pop()
            self._nav_pending = self._nav_out = None
            if self._lane_open:
                self._actions.append(StopDrafting())

    def _answer(self, last: Complete | Fail) -> None:
        self._stop_drafting()
        if not self._answered:
            self._answered = True
            self._actions.append(last)
