"""Drafting in one session: the window, the free run and the lane, kept in step as policies and verdicts want them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pipesd_agent.drafting.drafter import DraftToken
from pipesd_agent.drafting.status import DraftingOff
from pipesd_agent.session.actions import Action
from pipesd_agent.session.counts import Counts
from pipesd_agent.session.observer import Decision
from pipesd_agent.session.policies import Policies
from pipesd_agent.session.settings import SessionSettings
from pipesd_agent.session.state.draft_window import DraftWindow
from pipesd_agent.session.state.free_run import FreeRun
from pipesd_agent.session.state.handoff import Handoff
from pipesd_agent.session.state.lane_feed import FEED_EVERY, LaneFeed, LaneState
from pipesd_core.errors import ProtocolError
from pipesd_core.protocol.messages import FOREVER, Draft, Opened, Run, Verdict

RUN_WITHOUT_DRAFTS: Final = 8
"""Tokens that the target writes by itself when the drafter has nothing to propose."""


class Drafting:
    """What a session drafts and sends, and where the target goes on by itself.

    Args:
        committed: the session's list of committed ids, which grows by `commit` alone.
        handoff: how far the gateway is; drafts wait until it has what is committed.
        actions: the session's, for the lane.
    """

    def __init__(
        self,
        policies: Policies,
        settings: SessionSettings,
        counts: Counts,
        committed: list[int],
        handoff: Handoff,
        actions: list[Action],
        now: float,
    ) -> None:
        self.window = DraftWindow(counts, now)
        self.run = FreeRun()
        self._lane = LaneFeed(actions)
        self._policies = policies
        self._settings = settings
        self._committed = committed
        self._handoff = handoff
        self._opened: Opened | None = None
        self._limit = 0
        """First position that is not drafted, whatever the window."""
        self._beyond_limit: DraftingOff | None = None
        """Why nothing is drafted from there on; None: the answer ends there."""
        self._off: DraftingOff | None = None
        self._last_decided: float | None = None

    @property
    def active(self) -> bool:
        """Whether there is a drafter for the session, or may be."""
        return self._lane.drafting

    @property
    def off(self) -> DraftingOff | None:
        """The reason why nothing is drafted now; None: it is drafted, or there never was a drafter."""
        rest = self.run.rest
        if self._off is None and self.run.resting and rest is not None and rest.until >= FOREVER:
            return DraftingOff.TARGET_ONLY
        return self._off

    def opened(self, opened: Opened, free_start: int, *, limit: int, first_rest: int) -> None:
        """Begin after the prompt.

        limit: first position that is not drafted; 0: there is no drafter. first_rest: tokens that the mode wants the
        target to write first.
        """
        prompt_length = len(opened.prompt_ids)
        self._opened, self._limit = opened, limit
        if 0 < limit < prompt_length + opened.max_tokens - 1:
            self._beyond_limit = DraftingOff.CONTEXT
        self.window.opened(prompt_length)
        self.run.begin(prompt_length, free_start)
        if prompt_length < limit:
            self._lane.state = LaneState.CLOSED
            if first_rest:
                self._start_rest(prompt_length, first_rest)
            if self.run.rest is None or self.run.rest.until < FOREVER:
                self._lane.open(opened, self._committed)
                self._tell_lane()
            return
        self._off = self._beyond_limit
        if free_start < FOREVER:
            self.run.pending = FOREVER

    def drafted(self, commit: int, token: DraftToken | None, now: float) -> None:
        """Take a token that the lane drafted after `commit` commits; None: it has nothing to propose."""
        if not self._lane.is_valid(commit):
            return
        window = self.window
        window.exhausted = token is None
        if token is None:
            self.run_without_drafts()
            return
        if token.position < window.base:
            if self._committed[token.position] != token.token:
                self._lane.contradicted_at(token.position)
            return
        if token.position != window.end:
            raise ProtocolError(f"drafted position {token.position}, expected {window.end}")
        assert self._opened is not None
        token = self._policies.calibrator.calibrated(token)
        window.add(token)
        self._policies.observer.drafted(token, now)
        if self.run.resting:
            return  # what comes of it is seen when the rest is over
        full = len(window) >= self._settings.window or token.position + 1 >= self._limit
        rest = self._policies.mode.drafted(token, now)
        if self._policies.trigger.drafted(token) or full or token.token in self._opened.eos_ids or rest:
            self._want_verification()
        if rest:
            self._start_rest(token.position + 1, rest)
            self._tell_lane()

    def decided(self, verdict: Verdict, tokens: Sequence[int], now: float) -> None:
        """Commit the new tokens of a verdict, and go on by what they say of the drafts."""
        decision = self._commit(verdict, tokens, now)
        if not self.active:
            return
        lane, run, base = self._lane, self.run, self.window.base
        lane.untold += tokens
        if base >= self._limit:
            self._tell_lane()
            self.end(self._beyond_limit)
            return
        rest = self._policies.mode.decided(decision, now)
        begins = not run.resting
        if rest:
            self._start_rest(base, rest)
        elif rest == 0:
            run.end_rest()
        if run.wakes(base):
            self._wake()
        elif not run.resting or begins or decision.rejected or len(lane.untold) >= FEED_EVERY:
            self._tell_lane()
        if decision.rejected:
            lane.contradicted()
        self.run_without_drafts()

    def run_without_drafts(self) -> None:
        """Let the target go on, where the drafter cannot before it has."""
        window, base = self.window, self.window.base
        if (
            self.active
            and window.exhausted
            and not self.run.resting
            and self._handoff.replayed_upto == base
            and window.pending is None
            and window.wanted is None
        ):
            if len(window):
                self._want_verification()
            elif base + RUN_WITHOUT_DRAFTS // 2 > self.run.until:  # early: the target does not wait for this message
                self.run.pending = base + RUN_WITHOUT_DRAFTS - 1

    def send_again(self) -> None:
        """Send everything since what the gateway has committed, in a new epoch: it holds none of the drafts."""
        self._handoff.replay_again()
        if self.window.send_again():
            self._want_verification()

    def link_resumed(self) -> None:
        """Begin anew at what is committed, as the gateway does."""
        self.send_again()
        self.run.link_resumed(len(self._committed))
        self.run_without_drafts()

    def handed_off(self, free_start: int) -> None:
        """Begin anew at another gateway."""
        assert self._opened is not None
        self.send_again()
        self.run.handed_off(len(self._opened.prompt_ids), free_start, drafting=self.active)

    def stop(self) -> None:
        """Draft nothing more."""
        if self.active:
            self._off = self.off
            self.run.drafting_ended()
            self.window.stop()
            self._lane.close()

    def end(self, reason: DraftingOff | None) -> None:
        """Draft nothing more, and let the target write the rest. reason: None where there is no rest."""
        if self.active:
            self.stop()
            self._off = reason
            self.run.pending = FOREVER

    def next_message(self, channel: int, now: float) -> Draft | Run | None:
        """The next drafts or run to send; None: there is nothing to send."""
        if not (self.run.after_drafts and self.window.wanted is not None):
            until = self.run.next_run(len(self._committed))
            if until is not None:
                return Run(channel, until)
        return self._next_draft(channel, now)

    # Inside.

    def _commit(self, verdict: Verdict, tokens: Sequence[int], now: float) -> Decision:
        """Commit the tokens; where they contradict the drafts, these are discarded."""
        window, policies, contradicted = self.window, self._policies, False
        accepted: list[bool] = []
        for token in tokens:
            draft, right = window.commit(token, compare=not contradicted)
            accepted.append(right)
            self._committed.append(token)
            if draft is not None:
                contradicted = draft.token != token
                policies.observer.judged(draft, not contradicted, now)
        if contradicted:
            window.discard()
            policies.trigger.reset()
            policies.batcher.reset()
            policies.observer.discarded(now)
        window.committed()
        interval_s = None if self._last_decided is None else now - self._last_decided
        self._last_decided = now
        decision = Decision(verdict, tuple(tokens), tuple(accepted), contradicted, interval_s)
        policies.observer.decided(decision, now)
        return decision

    def _tell_lane(self) -> None:
        """Tell the lane what is committed, and how far it may draft."""
        base = self.window.base
        self._lane.commit(base, base if self.run.resting else min(base + self._settings.window, self._limit))

    def _start_rest(self, start: int, tokens: int) -> None:
        """Let the target run through `tokens` >= 1 positions from `start` on, while the drafter pauses."""
        self.run.start_rest(start, tokens, self.window.base, self._policies.mode.lead)
        if not self.run.after_drafts:
            self.window.wanted = None
            self._policies.trigger.reset()

    def _wake(self) -> None:
        """Draft again: the rest is over, or soon will be."""
        self.run.wake(self.window.base)
        if self._lane.state is LaneState.CLOSED:
            assert self._opened is not None
            self._lane.open(self._opened, self._committed)
        self._tell_lane()
        if len(self.window):
            self._want_verification()

    def _want_verification(self) -> None:
        self.window.want_verification()
        self._policies.trigger.reset()

    def _next_draft(self, channel: int, now: float) -> Draft | Run | None:
        window, batcher = self.window, self._policies.batcher
        if self._handoff.replayed_upto < window.base:
            return None  # drafts would leave a hole
        unsent = window.unsent
        if window.wanted is None and (self.run.resting or not (unsent and batcher.due(unsent, now))):
            return None
        if (stop := self.run.next_stop()) is not None:
            return Run(channel, stop)
        start, ids, through, length = window.take(now)
        self.run.drafts_sent()
        if through is not None:
            if length:
                self._policies.observer.verification_requested(length, now)
            batcher.reset()
        return Draft.wishing(channel, window.epoch, start, ids, through)
