"""Discrete-event models of the published methods (PipeSD: arXiv 2605.13319), round by round.

They draft, upload and wait as the authors' system does: requests leave one after another, a NAV takes every unsent
draft with it, and a method that drafts during a NAV guesses the target's extra token (`expected prefix`): what it
drafted is kept iff all was accepted and the guess was right, else it is dropped, with the uploads that have not begun.
Drafting costs the scenario's floor at any time; the edge starts the next round as soon as a verdict arrives.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final, Literal

from bench.link.virtual import Link
from bench.proving.simulator.figures import Figures
from bench.proving.simulator.scenario import PROMPT_BYTES, Scenario
from bench.proving.simulator.script import Script
from bench.proving.simulator.timeline import Timeline
from pipesd_agent.control.plan_dp import optimal_plan
from pipesd_agent.control.triggers import DualSettings, FixedSettings, SequenceSettings, TriggerSettings
from pipesd_agent.drafting.drafter import DraftToken

PAPER_PAYLOAD: Final = 290_308
"""Bytes that the authors send for each drafted token: its whole probability vector."""
ID_BYTES: Final = 4
BODY: Final = 10
"""Bytes of a request's fields."""
MAX_DRAFT: Final = 40
N_HAT: Final = 20
"""Draft length that the DP plans for at first; then the mean of the last 100, as in the paper."""
N_HAT_OVER: Final = 100


@dataclass(frozen=True)
class System:
    """What carries a method.

    token_bytes: of each drafted token, going up. blocking: a request holds the sender for a round trip besides its bits
    (alpha, one HTTP request at a time); else requests follow each other at once. last_eval: the drafter also evaluates
    the token that fired, and the target's, before it goes on: one more draft_s where no proactive drafting did so.
    waits_for_waiting: after a NAV of proactively drafted tokens nothing more is drafted until its verdict.
    proactive_floor: False is the authors' bug 13, for calibration only: `proactive_s` a token during a NAV.
    """

    name: str
    token_bytes: int
    blocking: bool
    last_eval: bool
    waits_for_waiting: bool
    proactive_floor: bool = True
    proactive_s: float = 0.042


AUTHORS_SYSTEM: Final = System("authors", PAPER_PAYLOAD, blocking=True, last_eval=True, waits_for_waiting=True)
LEAN_SYSTEM: Final = System("lean", ID_BYTES, blocking=False, last_eval=False, waits_for_waiting=False)
"""The methods at their best: token ids only, our framing, pipelined requests, no evaluation that is not needed."""


@dataclass(frozen=True)
class Method:
    """trigger: when to verify. upload: `single` (the whole draft with the NAV) or `plan` (the DP's batches, unsent rest
    with the NAV). proactive: drafts during a NAV, and uploads that: by the plan, or else each token alone."""

    name: str
    trigger: TriggerSettings
    upload: Literal["single", "plan"] = "single"
    proactive: bool = False


def vanilla(length: int) -> Method:
    return Method(f"vanilla-{length}", FixedSettings(length=length))


def hsl(r2: float) -> Method:
    return Method("hsl", DualSettings(r1=0.0, r2=r2))


def edgellm(r1: float, decay: float) -> Method:
    return Method("edgellm", SequenceSettings(r1=r1, decay=decay), proactive=True)


def pipesd(r1: float, r2: float) -> Method:
    return Method("pipesd", DualSettings(r1=r1, r2=r2), upload="plan", proactive=True)


def ablations(r1: float, r2: float) -> tuple[Method, ...]:
    """Of the paper's table 6: without the pipeline, and the pipeline with another trigger."""
    return (
        Method("pipesd-no-pipeline", DualSettings(r1=r1, r2=r2), proactive=True),
        Method("pipesd-fixed-6", FixedSettings(length=6), upload="plan", proactive=True),
        Method("pipesd-token", DualSettings(r1=0.0, r2=0.99), upload="plan", proactive=True),
        Method("pipesd-sequence", SequenceSettings(r1=0.95, decay=0.97), upload="plan", proactive=True),
    )


def edge_only(script: Script, scenario: Scenario) -> Figures:
    """The drafter alone: other text, as good as the drafter is."""
    n = len(script)
    return Figures(answers=1, tokens=n, seconds=n * scenario.draft_s, ttft=scenario.draft_s, drafted=n)


@dataclass
class _Round:
    """A draft after `base` committed tokens, the guess included if it is a proactive one."""

    base: int
    drafted: int = 0
    sent: int = 0
    batches: int = 0
    waiting: bool = False
    """Its NAV was sent before the verdict of the round before."""


class Play:
    """One answer. `start` places it on a varying link. timeline: filled in, if there is one."""

    def __init__(
        self,
        script: Script,
        method: Method,
        scenario: Scenario,
        system: System,
        start: float = 0.0,
        timeline: Timeline | None = None,
    ) -> None:
        self._script = script
        self._method = method
        self._scenario = scenario
        self._system = system
        self._start = start
        self._timeline = timeline
        self._trigger = method.trigger.make()
        script.check_trigger(self._trigger)
        self._up = Link(scenario.up, 0.0)
        self._up.free_at = start
        self._alpha_s = 2 * scenario.delay_s if system.blocking else 0.0
        self._wish_s = system.proactive_s if not system.proactive_floor else scenario.draft_s
        self._verified_at = start
        self._lengths: deque[int] = deque(maxlen=N_HAT_OVER)
        self._plan: tuple[int, ...] = ()
        self._agreed = self._length = 0
        """Of the drafter's path, output tokens only: how many are the target's, from the first on; and all."""
        self.figures = Figures(answers=1, tokens=len(script))
        self.rounds: list[tuple[int, int]] = []
        """(drafted, accepted) of each verification."""

    def run(self) -> Figures:
        figures, total = self.figures, len(self._script)
        prompt = self._script.prompt_length * PROMPT_BYTES + self._scenario.overhead_up
        now = self._up.send(self._start, prompt) + 2 * self._scenario.delay_s
        self.figures.bytes_up += prompt
        this = self._begin(0, now)
        while True:
            if not this.waiting:
                now = self._draft_out(this, now)
                self._send(this, now)
            verdict = self._verdict(this)
            after, queue, ready = self._proactive(this, now, verdict)
            accepted = min(this.drafted, self._agreed - this.base)
            full = accepted == this.drafted
            committed = this.base + accepted + 1
            self._count(this, accepted, verdict)
            if committed >= total:
                break
            kept = after is not None and full and self._agreed >= committed
            for enqueued, tokens in queue:
                if after is not None and (kept or max(enqueued, self._up.free_at) < verdict):
                    self._send(after, enqueued, tokens)
            if after is not None and kept:
                this, now = after, max(ready, verdict) if after.waiting else ready
                continue
            figures.rollbacks += self._length > min(self._agreed, committed)
            self._trigger.reset()
            self._agreed = self._length = committed
            now = verdict + (self._scenario.draft_s if self._system.last_eval else 0.0)
            if self._timeline and now > verdict:
                self._timeline.add("drafting", verdict, now, 0)
            this = self._begin(committed, now)
        figures.seconds = verdict - self._start
        return figures

    def _begin(self, base: int, now: float) -> _Round:
        """A new round, and the DP's plan for it."""
        if self._method.upload == "plan":
            n_hat = round(sum(self._lengths) / len(self._lengths)) if self._lengths else N_HAT
            rate, scenario = self._scenario.up.at(now), self._scenario
            alpha = self._alpha_s + 8 * (scenario.overhead_up + BODY) / rate
            costs = (alpha, 8 * self._system.token_bytes / rate, scenario.draft_s)
            self._plan = optimal_plan(max(n_hat, 1), *(round(1e6 * cost) for cost in costs))
        return _Round(base)

    def _draft_out(self, this: _Round, now: float) -> float:
        """Draft until the NAV, uploading what the plan says; returns when."""
        while self._can_draft(this):
            now += self._scenario.draft_s
            if self._draft(this, now, self._scenario.draft_s):
                break
            if self._due(this.drafted - this.sent, this.batches):
                self._send(this, now)
        self._trigger.reset()
        return now

    def _can_draft(self, this: _Round) -> bool:
        last = this.base + this.drafted >= len(self._script) - 1 or this.drafted >= MAX_DRAFT
        return not last and self._script.draft(self._agreed, self._length) is not None

    def _draft(self, this: _Round, now: float, took_s: float) -> bool:
        """One more token, done `now`. Does it want a NAV?"""
        this.drafted += 1
        token = self._extend(now, took_s)
        return self._trigger.drafted(token) or token.token in self._script.eos

    def _extend(self, now: float, took_s: float) -> DraftToken:
        token = self._script.draft(self._agreed, self._length)
        assert token is not None
        if self._agreed == self._length and self._script.right[self._length]:
            self._agreed += 1
        self._length += 1
        self.figures.drafted += 1
        if self._timeline:
            self._timeline.add("drafting", now - took_s, now, 1, useful=self._agreed == self._length)
        return token

    def _due(self, unsent: int, batches: int, *, waiting: bool = False) -> bool:
        """Upload the unsent drafts now, after so many batches? Without a plan: each token during a NAV, none before."""
        if self._method.upload == "single":
            return waiting
        return unsent >= self._plan[min(batches, len(self._plan) - 1)]

    def _send(self, this: _Round, now: float, tokens: int | None = None) -> None:
        """Queue a request with the round's next `tokens` (None: all unsent) drafts."""
        tokens = this.drafted - this.sent if tokens is None else tokens
        if tokens > 0:
            this.sent += tokens
        this.batches += 1
        size = self._scenario.overhead_up + BODY + tokens * self._system.token_bytes
        sent_at = self._up.send(now, size)
        if self._timeline:
            bits_s = 8 * size / self._scenario.up.at(sent_at)
            self._timeline.add("sending", sent_at - bits_s, sent_at, tokens)
        self._up.free_at += self._alpha_s
        self.figures.sent += tokens
        self.figures.bytes_up += size
        self.figures.messages += 1

    def _verdict(self, this: _Round) -> float:
        """When the verdict arrives of the NAV that was sent last."""
        scenario = self._scenario
        forward = scenario.forward.seconds(this.drafted + 1)
        size = scenario.overhead_down + BODY + ID_BYTES
        self.figures.busy_s += forward
        self.figures.bytes_down += size
        delay_s = 0.0 if self._system.blocking else scenario.delay_s
        self._verified_at = max(self._up.free_at + delay_s, self._verified_at) + scenario.queue_s + forward
        if self._timeline:
            self._timeline.add("verifying", self._verified_at - forward, self._verified_at, this.drafted)
        return self._verified_at + 8 * size / scenario.down.at(self._verified_at) + delay_s

    def _proactive(
        self, this: _Round, now: float, verdict: float
    ) -> tuple[_Round | None, list[tuple[float, int]], float]:
        """Draft from `now` until the verdict: the guess, then the next round.

        Returns: that round if the guess was done; what it queued (when, tokens); when its last token was done.
        """
        queue: list[tuple[float, int]] = []
        waits = this.waiting and self._system.waits_for_waiting
        past_end = this.base + this.drafted + 1 >= len(self._script)
        if not self._method.proactive or waits or past_end or self._script.draft(self._agreed, self._length) is None:
            return None, queue, now
        now += self._wish_s
        if now > verdict:
            return None, queue, now
        self._extend(now, self._wish_s)
        after = self._begin(this.base + this.drafted + 1, now)
        unsent = 0
        while not after.waiting and now + self._wish_s <= verdict and self._can_draft(after):
            now += self._wish_s
            unsent += 1
            after.waiting = self._draft(after, now, self._wish_s)
            if after.waiting or self._due(unsent, len(queue), waiting=True):
                queue.append((now, unsent))
                unsent = 0
        if after.waiting:
            self._trigger.reset()
        return after, queue, now

    def _count(self, this: _Round, accepted: int, verdict: float) -> None:
        figures = self.figures
        if this.drafted:
            self._trigger.verified(this.drafted, accepted)
            self._lengths.append(this.drafted)
        self.rounds.append((this.drafted, accepted))
        figures.navs += 1
        figures.forwards += 1
        figures.verified += this.drafted
        figures.accepted += accepted
        figures.full += accepted == this.drafted
        figures.ttft = figures.ttft or verdict - self._start
