"""When the target goes on by itself and the drafter rests, as a `Mode` says (docs/protocol.md, rules 31 to 33)."""

from __future__ import annotations

from collections import deque

from pipesd_agent.control.batchers import Immediate
from pipesd_agent.control.triggers import DualSettings
from pipesd_agent.drafting.drafter import DraftToken
from pipesd_agent.session.actions import Action, Commit, StartDrafting
from pipesd_agent.session.observer import Decision
from pipesd_agent.session.policies import Policies
from pipesd_agent.session.session import EdgeSession
from pipesd_agent.session.settings import SessionSettings
from pipesd_agent.session.state.free_run import STOP
from pipesd_agent.session.state.lane_feed import FEED_EVERY
from pipesd_core.errors import Unavailable
from pipesd_core.protocol.messages import (
    FOREVER,
    VERSION,
    Ack,
    Draft,
    EdgeMessage,
    Endpoint,
    Failed,
    Open,
    Opened,
    Reason,
    Run,
    Verdict,
)
from pipesd_core.sampling.params import SamplingParams

PROMPT = (1, 2, 3, 4)
BASE = len(PROMPT)
EOS = frozenset({9})
PARAMS = SamplingParams(seed=5)


class Told:
    """A mode that gives these answers, one for each verdict."""

    def __init__(self, first: int = 0, lead: int = 0) -> None:
        self.first = first
        self.lead = lead
        self.answers: deque[int | None] = deque()
        self.unsure = 0
        self.rejections: list[bool] = []

    def opening(self, now: float) -> int:  # noqa: ARG002
        return self.first

    def decided(self, decision: Decision, now: float) -> int | None:  # noqa: ARG002
        self.rejections.append(decision.rejected)
        return self.answers.popleft() if self.answers else None

    def drafted(self, token: DraftToken, now: float) -> int:  # noqa: ARG002
        return self.unsure if token.confidence < 0.3 else 0


class Bench:
    def __init__(self, mode: Told, *, free_start: int | None = None, window: int = 20) -> None:
        self.mode = mode
        trigger = DualSettings(r1=0, r2=0).make()
        self.session = EdgeSession(
            Open(3, VERSION, Endpoint.COMPLETIONS, b"{}", b"", "req"),
            Policies(trigger, Immediate(), mode=mode),
            SessionSettings(window=window, free_start=free_start),
            max_context=5000,
            now=0.0,
        )
        self.request = self.session.next_message(0.0)
        self.commits = self.seq = 0
        self.opened = Opened(3, bytes(16), PROMPT, PARAMS, 1000, (9,), "toy")
        self.session.receive(self.opened, 0.0)
        self.first = self.take()

    def take(self) -> list[Action]:
        actions = self.session.take_actions()
        self.commits += sum(isinstance(action, Commit) for action in actions)
        return actions

    def verdict(self, *tokens: int, answer: int | None = None) -> list[Action]:
        self.mode.answers.append(answer)
        self.seq += 1
        verdict = Verdict(3, self.seq, len(self.session.committed), 0, 0, tokens, Reason.RUN, 0, 0, 0)
        self.session.receive(verdict, 0.0)
        return self.take()

    def drafted(self, position: int, *tokens: int, confidence: float = 0.5) -> list[Action]:
        for offset, token in enumerate(tokens):
            self.session.drafted(self.commits, DraftToken(position + offset, token, confidence), 0.0)
        return self.take()

    def sent(self) -> list[EdgeMessage]:
        return list(iter(lambda: self.session.next_message(0.0), None))


def opened_with(bench: Bench) -> int:
    assert isinstance(bench.request, Open)
    return bench.request.free_start


def test_cloud_only_from_the_opening_costs_the_device_nothing() -> None:
    bench = Bench(Told(FOREVER))
    assert bench.first == []
    assert bench.sent() == [Run(3, FOREVER)]
    assert [bench.verdict(10 + i) for i in range(100)] == [[]] * 100
    assert all(isinstance(message, Ack) for message in bench.sent())


def test_a_short_free_start_is_as_long_as_the_rest_that_it_begins_with() -> None:
    """Else the target would wait for a trip, for the run that the rest asks for."""
    assert opened_with(Bench(Told(0), free_start=1)) == 1
    assert opened_with(Bench(Told(5), free_start=1)) == 5
    assert opened_with(Bench(Told(5), free_start=8)) == 8
    assert opened_with(Bench(Told(FOREVER), free_start=1)) == FOREVER
    assert opened_with(Bench(Told(5))) == FOREVER
    assert Bench(Told(0), free_start=1).sent() == []
    assert Bench(Told(FOREVER), free_start=1).sent() == [Run(3, FOREVER)]


def test_from_cloud_only_the_lane_opens_with_all_that_is_committed_and_the_first_draft_ends_the_run() -> None:
    bench = Bench(Told(FOREVER))
    bench.sent()
    bench.verdict(10)
    assert bench.verdict(11, answer=0) == [
        StartDrafting((*PROMPT, 10, 11), PARAMS, EOS),
        Commit((), BASE + 2 + 20),
    ]
    assert bench.sent() == []
    assert bench.verdict(12) == [Commit((12,), BASE + 3 + 20)]
    bench.drafted(BASE + 3, 13)
    assert bench.sent() == [Run(3, STOP), Draft(3, 0, BASE + 3, (13,))]
    bench.drafted(BASE + 4, 14)
    assert bench.sent() == [Draft(3, 0, BASE + 4, (14,))]


def test_the_end_of_a_run_may_be_lost_with_the_link_and_is_said_again() -> None:
    """Else the target would go on by itself to the end of the answer."""
    bench = Bench(Told(FOREVER))
    bench.sent()
    bench.verdict(10)
    bench.verdict(11, answer=0)
    bench.drafted(BASE + 2, 12)
    assert bench.sent() == [Run(3, STOP), Draft(3, 0, BASE + 2, (12,))]
    bench.session.suspended(Unavailable("gone"), 0.0)
    bench.session.resumed()
    assert bench.sent()[1:] == [Run(3, STOP), Draft.wishing(3, 1, BASE + 2, (12,), BASE + 2)]


def test_a_bounded_rest_at_the_opening_prepares_the_lane_meanwhile() -> None:
    bench = Bench(Told(5, lead=2))
    assert bench.first == [StartDrafting(PROMPT, PARAMS, EOS), Commit((), BASE)]
    assert bench.sent() == [Run(3, BASE + 4)]
    assert [bench.verdict(10), bench.verdict(11)] == [[], []]
    assert bench.verdict(12) == [Commit((10, 11, 12), BASE + 3 + 20)]
    bench.drafted(BASE + 3, 13, 14, 15)
    assert bench.sent() == [Draft(3, 0, BASE + 3, (13, 14, 15))]


def test_after_a_rejection_the_target_runs_on_and_the_drafter_pauses() -> None:
    bench = Bench(Told())
    bench.drafted(BASE, 10, 11)
    bench.sent()
    assert bench.verdict(10, 77, answer=3) == [Commit((10, 77), BASE + 2)]
    assert bench.mode.rejections == [True]
    assert bench.sent() == [Run(3, BASE + 4)]
    assert [bench.verdict(12), bench.verdict(13)] == [[], []]
    assert bench.verdict(14) == [Commit((12, 13, 14), BASE + 5 + 20)]
    bench.drafted(BASE + 5, 15)
    assert bench.sent() == [Draft(3, 1, BASE + 5, (15,))]


def test_where_a_draft_is_unsure_it_is_verified_and_the_target_runs_on_behind_it() -> None:
    bench = Bench(Told())
    bench.mode.unsure = 2
    bench.drafted(BASE, 10)
    assert bench.drafted(BASE + 1, 11, confidence=0.2) == [Commit((), BASE)]
    assert bench.sent() == [Draft.wishing(3, 0, BASE, (10, 11), BASE + 1), Run(3, BASE + 3)]
    assert bench.verdict(10, 11, 12) == []
    assert bench.verdict(13) == [Commit((10, 11, 12, 13), BASE + 4 + 20)]


def test_what_was_drafted_before_a_rest_waits_and_is_verified_after_it() -> None:
    bench = Bench(Told(), window=4)
    assert bench.verdict(10, answer=FOREVER) == [Commit((10,), BASE + 1)]
    bench.drafted(BASE + 1, 11, 12)  # reported late
    assert bench.sent() == [Run(3, FOREVER)]
    bench.verdict(11)
    assert bench.verdict(answer=0) == []  # a step that decided nothing asks nothing
    assert bench.verdict(12, answer=0) == [Commit((11, 12), BASE + 3 + 4)]
    bench.drafted(BASE + 3, 13)
    assert bench.sent() == [Run(3, STOP), Draft(3, 0, BASE + 3, (13,))]


def test_drafts_left_from_before_a_rest_are_verified_first() -> None:
    bench = Bench(Told(), window=2)
    bench.verdict(10, answer=FOREVER)
    bench.drafted(BASE + 1, 11, 12, 13)
    bench.sent()
    bench.verdict(11, answer=0)
    assert bench.sent() == [Run(3, STOP), Draft.wishing(3, 0, BASE + 2, (12, 13), BASE + 3)]


def test_a_resting_lane_is_told_in_batches() -> None:
    bench = Bench(Told())
    bench.verdict(10, answer=FOREVER)
    told = [action for i in range(2 * FEED_EVERY) for action in bench.verdict(20 + i)]
    assert [len(action.tokens) for action in told if isinstance(action, Commit)] == [FEED_EVERY, FEED_EVERY]
    assert all(isinstance(action, Commit) and action.limit < BASE + 2 + 2 * FEED_EVERY for action in told)


def test_a_rest_that_was_not_said_in_time_changes_nothing() -> None:
    bench = Bench(Told())
    bench.drafted(BASE, 10)
    bench.sent()
    bench.verdict(10, answer=FOREVER)
    assert bench.verdict(11, answer=0) == [Commit((11,), BASE + 2 + 20)]
    assert bench.sent() == []
    bench.drafted(BASE + 2, 12)
    assert bench.sent() == [Draft(3, 0, BASE + 2, (12,))]


def test_the_rest_goes_on_after_a_resume_and_at_another_gateway() -> None:
    bench = Bench(Told(FOREVER))
    bench.sent()
    bench.verdict(10)
    bench.session.suspended(Unavailable("lost"), 0.0)
    bench.session.resumed()
    assert [message for message in bench.sent() if isinstance(message, Run | Draft)] == [Run(3, FOREVER)]
    bench.session.receive(Failed(3, "session_unknown", 410, b"{}"), 0.0)
    (asked,) = bench.sent()
    assert isinstance(asked, Open)
    bench.session.receive(bench.opened, 0.0)
    assert bench.sent() == [Draft.wishing(3, 2, BASE, (10,), BASE), Run(3, FOREVER)]
