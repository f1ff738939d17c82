"""The edge's side of a session, rule by rule (architecture §4)."""

from __future__ import annotations

from copy import copy
from dataclasses import replace

import msgspec
import pytest

from bench.fixed_policies import fixed
from pipesd_agent.control.triggers import DualSettings, FixedSettings, SequenceSettings, TriggerSettings
from pipesd_agent.drafting.drafter import DraftToken
from pipesd_agent.drafting.status import DraftingOff
from pipesd_agent.session.actions import Action, Commit, Complete, Deliver, Fail, StartDrafting, StopDrafting
from pipesd_agent.session.counts import Counts
from pipesd_agent.session.records import RequestRecord
from pipesd_agent.session.session import EdgeSession
from pipesd_agent.session.settings import SessionSettings
from pipesd_agent.session.state.acknowledgements import ACK_BYTES, ACK_EVERY
from pipesd_agent.session.state.drafting import RUN_WITHOUT_DRAFTS
from pipesd_core.errors import ConfigError, EngineFailed, ProtocolError, Unavailable
from pipesd_core.protocol.messages import (
    FOREVER,
    MAX_DRAFTS_PER_MESSAGE,
    MAX_UNACKED,
    VERSION,
    Ack,
    Close,
    Desync,
    Draft,
    EdgeMessage,
    End,
    Endpoint,
    Event,
    Failed,
    Open,
    Opened,
    Progress,
    Reason,
    Resume,
    Run,
    SessionMessage,
    Verdict,
)
from pipesd_core.sampling.params import SamplingParams

BODY = b'{"prompt":"x"}'
PROMPT = (1, 2, 3, 4)
BASE = len(PROMPT)
EOS = 9
PARAMS = SamplingParams(seed=5)
NEVER = DualSettings(r1=0, r2=0)


class Bench:
    """A session on the bench. Commit numbers that the lane reports with are those of the actions taken."""

    def __init__(
        self,
        *,
        trigger: TriggerSettings = NEVER,
        batcher: str = "immediate",
        window: int = 20,
        max_tokens: int = 1000,
        max_context: int = 5000,
        collaborative: bool = True,
        opened: bool = True,
        free_start: int | None = None,
    ) -> None:
        self.now = 50.0
        self.record = RequestRecord("req")
        self.session = EdgeSession(
            Open(3, VERSION, Endpoint.COMPLETIONS, BODY, b"" if collaborative else None, "req"),
            replace(fixed(trigger, batcher)(), observer=self.record),
            SessionSettings(window=window, verification_timeout_s=4, silence_timeout_s=30, free_start=free_start),
            max_context=max_context,
            now=self.now,
        )
        self.request = self.session.next_message(self.now)
        self.commits = 0
        self.seq = 0
        self.opened = Opened(3, bytes(16), PROMPT, PARAMS, max_tokens, (EOS,), "toy")
        self.first = self.receive(self.opened) if opened else []

    @property
    def accepted(self) -> list[bool]:
        """For each output token: was it drafted, sent and accepted?"""
        return [accepted for _, accepted in self.record.record()["tokens"]]

    def receive(self, message: SessionMessage) -> list[Action]:
        self.session.receive(message, self.now)
        return self.take()

    def take(self) -> list[Action]:
        actions = self.session.take_actions()
        self.commits += sum(isinstance(a, Commit) for a in actions)
        return actions

    def verdict(self, *tokens: int, accepted: int = 0, reason: Reason = Reason.VERIFICATION) -> list[Action]:
        self.seq += 1
        start = len(self.session.committed)
        return self.receive(Verdict(3, self.seq, start, accepted, accepted, tokens, reason, 0, 0, 0))

    def event(self, payload: bytes = b"{}", *, usage: bool = False) -> list[Action]:
        self.seq += 1
        return self.receive(Event(3, self.seq, len(self.session.committed), payload, usage))

    def drafted(self, position: int, *tokens: int, commit: int | None = None, confidence: float = 0.5) -> None:
        for offset, token in enumerate(tokens):
            draft = DraftToken(position + offset, token, confidence)
            self.session.drafted(self.commits if commit is None else commit, draft, self.now)

    def sent(self) -> list[EdgeMessage]:
        messages = []
        while (message := self.session.next_message(self.now)) is not None:
            messages.append(message)
            assert len(messages) < 1000, "it never stops talking"
        return messages

    def tick(self, seconds: float) -> list[Action]:
        self.now += seconds
        self.session.tick(self.now)
        return self.take()

    @property
    def counts(self) -> Counts:
        return self.session.counts


# Opening.


def test_nothing_is_said_before_the_session_is_opened() -> None:
    assert Bench(opened=False).sent() == []


def test_an_opened_session_starts_its_lane_and_lets_the_free_run_go_on() -> None:
    bench = Bench(window=6)
    assert bench.first == [StartDrafting(PROMPT, PARAMS, frozenset({EOS})), Commit((), BASE + 6)]
    assert bench.sent() == []
    assert bench.session.opened is bench.opened


@pytest.mark.parametrize(
    "bench",
    [Bench(collaborative=False), Bench(max_context=BASE), Bench(max_tokens=1)],
    ids=["cloud-only", "prompt as long as the drafter's context", "one token"],
)
def test_where_nothing_can_be_drafted_the_free_run_just_goes_on(bench: Bench) -> None:
    assert bench.first == []
    assert bench.verdict(10) == []
    assert bench.sent() == []
    bench.drafted(BASE + 1, 11)
    assert bench.sent() == []


def test_no_lane_means_cloud_only() -> None:
    bench = Bench()
    bench.session.drafting_ended(DraftingOff.CAPACITY)
    assert bench.take() == [StopDrafting()]
    assert bench.sent() == [Run(3, FOREVER)]
    bench.session.drafting_ended(DraftingOff.CAPACITY)
    assert bench.take() == []
    assert bench.sent() == []


def test_a_second_opened_and_a_verdict_that_does_not_fit_are_faults_of_the_gateway() -> None:
    bench = Bench()
    with pytest.raises(ProtocolError, match="opened a session twice"):
        bench.receive(bench.opened)
    with pytest.raises(ProtocolError, match=f"verdict from {BASE + 1}, but {BASE} ids are committed"):
        bench.receive(Verdict(3, 1, BASE + 1, 0, 0, (10,), Reason.RUN, 0, 0, 0))


def test_a_verdict_before_opened_is_a_fault_of_the_gateway() -> None:
    with pytest.raises(ProtocolError):
        Bench(opened=False).receive(Verdict(3, 1, 0, 0, 0, (10,), Reason.RUN, 0, 0, 0))


# Drafting and verifications.


def test_drafts_are_sent_as_they_come_without_a_wish() -> None:
    bench = Bench()
    bench.drafted(BASE, 10)
    assert bench.sent() == [Draft(3, 0, BASE, (10,), None)]
    bench.drafted(BASE + 1, 11, 12)
    assert bench.sent() == [Draft(3, 0, BASE + 1, (11, 12), None)]
    assert bench.sent() == []
    assert (bench.counts.drafted, bench.counts.sent, bench.counts.requests) == (3, 3, 0)


def test_the_batcher_may_hold_drafts_back_but_not_a_wish() -> None:
    bench = Bench(batcher="single", trigger=FixedSettings(length=3))
    bench.drafted(BASE, 10, 11)
    assert bench.sent() == []
    bench.drafted(BASE + 2, 12)
    assert bench.sent() == [Draft.wishing(3, 0, BASE, (10, 11, 12), BASE + 2)]


def test_the_trigger_s_wish_goes_with_the_drafts() -> None:
    bench = Bench(trigger=FixedSettings(length=2))
    bench.drafted(BASE, 10)
    assert bench.sent() == [Draft(3, 0, BASE, (10,), None)]
    bench.drafted(BASE + 1, 11)
    assert bench.sent() == [Draft.wishing(3, 0, BASE + 1, (11,), BASE + 1)]
    assert bench.counts.requests == 1


def test_drafting_goes_on_while_a_verification_is_out() -> None:
    """The paper's Rule 2."""
    bench = Bench(trigger=FixedSettings(length=2))
    bench.drafted(BASE, 10, 11)
    bench.sent()
    bench.drafted(BASE + 2, 12)
    assert bench.sent() == [Draft(3, 0, BASE + 2, (12,), None)]
    bench.verdict(10, 11, 12, accepted=2)
    bench.drafted(BASE + 3, 13)
    assert bench.sent() == [Draft.wishing(3, 0, BASE + 3, (13,), BASE + 3)], (
        "the trigger counts from the last verification"
    )
    assert bench.session.epoch == 0


def test_a_full_window_forces_a_wish() -> None:
    bench = Bench(window=3)
    bench.drafted(BASE, 10, 11)
    assert all(m.verify_through is None for m in bench.sent() if isinstance(m, Draft))
    bench.drafted(BASE + 2, 12)
    assert bench.sent() == [Draft.wishing(3, 0, BASE + 2, (12,), BASE + 2)]


def test_a_drafted_eos_forces_a_wish() -> None:
    bench = Bench()
    bench.drafted(BASE, 10, EOS)
    assert bench.sent() == [Draft.wishing(3, 0, BASE, (10, EOS), BASE + 1)]


@pytest.mark.parametrize(("max_tokens", "max_context"), [(4, 5000), (1000, BASE + 3)], ids=["answer", "context"])
def test_the_last_draftable_position_forces_a_wish(max_tokens: int, max_context: int) -> None:
    bench = Bench(max_tokens=max_tokens, max_context=max_context)
    assert bench.first[1] == Commit((), BASE + 3)
    bench.drafted(BASE, 10, 11, 12)
    assert bench.sent() == [Draft.wishing(3, 0, BASE, (10, 11, 12), BASE + 2)]


def test_past_the_drafter_s_context_the_target_goes_on_alone() -> None:
    bench = Bench(max_context=BASE + 2)
    bench.drafted(BASE, 10, 11)
    bench.sent()
    assert bench.verdict(10, 11, 12, accepted=2) == [Commit((10, 11, 12), BASE + 2), StopDrafting()]
    assert bench.sent() == [Run(3, FOREVER)]


def test_the_commit_moves_the_limit_of_the_lane() -> None:
    bench = Bench(window=6)
    assert bench.verdict(10) == [Commit((10,), BASE + 1 + 6)]
    assert bench.verdict(11, 12) == [Commit((11, 12), BASE + 3 + 6)]


def test_long_windows_go_in_several_messages_and_the_wish_with_the_last() -> None:
    bench = Bench(window=600, batcher="single")
    bench.drafted(BASE, *([7] * 600))
    messages = bench.sent()
    assert [len(m.ids) for m in messages if isinstance(m, Draft)] == [MAX_DRAFTS_PER_MESSAGE] * 2 + [88]
    assert [m.verify_through for m in messages if isinstance(m, Draft)] == [None, None, BASE + 599]


def test_a_wish_that_was_not_sent_yet_is_dropped_when_a_verdict_fulfils_it() -> None:
    bench = Bench(trigger=FixedSettings(length=2))
    bench.drafted(BASE, 10, 11)
    bench.verdict(10, 11)
    assert bench.sent() == []
    assert bench.session.deadline() == bench.now + 30


def test_tokens_drafted_out_of_order_are_a_bug_that_shows() -> None:
    with pytest.raises(ProtocolError, match=f"drafted position {BASE + 1}, expected {BASE}"):
        Bench().drafted(BASE + 1, 11)


# Verdicts, rejections, epochs.


def test_a_rejection_discards_the_window_and_raises_the_epoch() -> None:
    bench = Bench(trigger=FixedSettings(length=2))
    bench.drafted(BASE, 10, 11)
    bench.sent()
    bench.drafted(BASE + 2, 12, 13)
    assert bench.verdict(10, 50, accepted=1) == [Commit((10, 50), BASE + 2 + 20)]
    assert bench.session.epoch == 1
    assert bench.counts.discards == 1
    assert bench.sent() == [], "the wish and the unsent drafts are gone"
    bench.drafted(BASE + 2, 51)
    assert bench.sent() == [Draft(3, 1, BASE + 2, (51,), None)]


def test_the_trigger_learns_what_verifications_accepted() -> None:
    bench = Bench(trigger=SequenceSettings(r1=0.6, decay=0.5))
    bench.drafted(BASE, 10)  # confidence 0.5
    assert bench.sent() == [Draft.wishing(3, 0, BASE, (10,), BASE)]
    bench.verdict(10, 11, accepted=1)
    bench.drafted(BASE + 2, 12, 13)  # r1 is 0.3 now
    assert [message.verify_through for message in bench.sent()] == [BASE + 3]  # type: ignore[union-attr]


def test_the_free_start_is_as_long_as_was_asked_for() -> None:
    bench = Bench(free_start=3)
    assert isinstance(bench.request, Open)
    assert bench.request.free_start == 3
    assert bench.sent() == []
    without = Bench()
    assert isinstance(without.request, Open)
    assert without.request.free_start == FOREVER
    for wrong in (0, -1, FOREVER + 1):
        with pytest.raises(ConfigError, match=f"free_start.*{wrong}"):
            SessionSettings(free_start=wrong)


def test_a_drafter_that_is_dry_in_a_short_free_start_gets_a_run_of_its_own() -> None:
    bench = Bench(free_start=1)
    bench.session.drafted(bench.commits, None, bench.now)
    assert bench.sent() == [Run(3, BASE + RUN_WITHOUT_DRAFTS - 1)]


def test_without_a_drafter_the_free_start_has_no_end() -> None:
    alone = Bench(free_start=1, collaborative=False)
    assert isinstance(alone.request, Open)
    assert alone.request.free_start == FOREVER
    assert alone.sent() == []
    bench = Bench(free_start=1)
    bench.session.drafting_ended(DraftingOff.CAPACITY)
    assert bench.sent() == [Run(3, FOREVER)]


def test_a_prompt_that_the_drafter_cannot_hold_is_left_to_the_target() -> None:
    assert Bench(free_start=1, max_context=BASE).sent() == [Run(3, FOREVER)]
    assert Bench(max_context=BASE).sent() == []


def test_a_run_that_was_lost_with_the_link_is_asked_for_again() -> None:
    bench = Bench(free_start=1, max_context=BASE)
    bench.sent()
    bench.session.suspended(Unavailable("gone"), bench.now)
    bench.session.resumed()
    assert bench.sent()[1:] == [Run(3, FOREVER)]


def test_a_rejection_starts_the_trigger_anew() -> None:
    bench = Bench(trigger=FixedSettings(length=3))
    bench.drafted(BASE, 10, 11)
    bench.verdict(50)
    bench.drafted(BASE + 1, 51)
    assert bench.sent() == [Draft(3, 1, BASE + 1, (51,), None)]


def test_the_epoch_rises_also_where_only_unsent_drafts_are_discarded() -> None:
    bench = Bench(batcher="single")
    bench.drafted(BASE, 10)
    bench.verdict(50)
    assert bench.session.epoch == 1
    assert bench.counts.sent == bench.counts.rejected == 0


def test_the_rejected_token_may_be_all_there_is_and_the_epoch_rises_still() -> None:
    """Else the gateway, whose path is dead, would drop everything from then on."""
    bench = Bench()
    bench.drafted(BASE, 10)
    bench.sent()
    bench.verdict(50)
    assert bench.session.epoch == 1


def test_a_verdict_longer_than_the_window_is_no_rejection() -> None:
    bench = Bench()
    bench.drafted(BASE, 10)
    bench.verdict(10, 11, 12, accepted=1)
    assert bench.session.epoch == 0
    bench.drafted(BASE + 3, 13)
    assert bench.sent() == [Draft(3, 0, BASE + 3, (13,), None)]


def test_tokens_that_the_lane_drafted_before_it_knew_of_a_rejection_are_dropped() -> None:
    bench = Bench()
    before = bench.commits
    bench.drafted(BASE, 10, 11)
    bench.verdict(50)
    bench.drafted(BASE + 1, 12, commit=before)  # it continues [.., 10, 11] or so
    assert bench.counts.drafted == 2
    bench.drafted(BASE + 1, 51)
    assert bench.sent() == [Draft(3, 1, BASE + 1, (51,), None)]


def test_late_tokens_that_turned_out_right_are_skipped_and_those_after_them_kept() -> None:
    bench = Bench()
    before = bench.commits
    bench.verdict(10, 11)
    bench.drafted(BASE, 10, 11, 12, commit=before)
    assert bench.sent() == [Draft(3, 0, BASE + 2, (12,), None)]


def test_late_tokens_that_turned_out_wrong_take_with_them_what_was_drafted_after() -> None:
    bench = Bench()
    before = bench.commits
    bench.verdict(10, 11)
    after = bench.commits
    bench.verdict(12)
    bench.drafted(BASE, 10, 77, 12, 13, commit=before)  # 77 against 11
    assert bench.sent() == [], "13 was drafted after 77"
    # The commit that decided 11 corrected the lane, so what it drafts after that one counts.
    bench.drafted(BASE + 2, 12, 13, commit=after)
    assert bench.sent() == [Draft(3, 0, BASE + 3, (13,), None)]
    assert bench.session.epoch == 0, "nothing that was in the window is discarded"


def test_a_late_wrong_token_is_corrected_by_the_very_commit_that_decided_its_position() -> None:
    bench = Bench()
    for n in range(6):
        bench.verdict(10 + n)
    decided_second = 3  # commits: opening, BASE, BASE + 1
    bench.drafted(BASE + 1, 77, commit=1)
    bench.drafted(BASE + 2, 78, 79, 80, 81, 82, commit=decided_second - 1)
    assert bench.counts.drafted == 0
    bench.drafted(BASE + 6, 16, commit=decided_second)
    assert bench.counts.drafted == 1


# Desync.


def test_after_a_desync_the_window_is_sent_again_in_a_new_epoch() -> None:
    bench = Bench()
    bench.drafted(BASE, 10, 11, 12)
    bench.sent()
    bench.verdict(10)
    bench.receive(Desync(3, 0, BASE, "a hole"))
    assert bench.sent() == [Draft.wishing(3, 1, BASE + 1, (11, 12), BASE + 2)]
    assert bench.counts.sent == 3, "sent twice, counted once"
    bench.verdict(11, 12, 13, accepted=2)
    assert (bench.counts.accepted, bench.counts.rejected) == (3, 0)


def test_a_desync_of_an_epoch_that_is_over_means_nothing() -> None:
    bench = Bench()
    bench.drafted(BASE, 10)
    bench.sent()
    bench.verdict(50)
    bench.receive(Desync(3, 0, BASE, "a hole"))
    assert bench.session.epoch == 1
    assert bench.sent() == []


def test_a_desync_with_nothing_drafted_only_raises_the_epoch() -> None:
    bench = Bench()
    bench.receive(Desync(3, 0, BASE, "a hole"))
    assert bench.session.epoch == 1
    assert bench.sent() == []
    bench.drafted(BASE, 10)
    assert bench.sent() == [Draft(3, 1, BASE, (10,), None)]


# A drafter that has nothing to propose.


def test_a_dry_drafter_has_what_there_is_verified() -> None:
    bench = Bench()
    bench.drafted(BASE, 10)
    bench.sent()
    bench.session.drafted(bench.commits, None, bench.now)
    assert bench.sent() == [Draft.wishing(3, 0, BASE + 1, (), BASE)]
    bench.session.drafted(bench.commits, None, bench.now)
    assert bench.sent() == [], "it is on its way already"


def test_a_dry_drafter_leaves_the_free_run_at_the_start_alone() -> None:
    bench = Bench()
    bench.verdict(10)
    bench.session.drafted(bench.commits, None, bench.now)
    assert bench.sent() == []


def test_a_dry_drafter_has_the_target_run_on_and_renews_the_run_in_time() -> None:
    bench = Bench()
    bench.drafted(BASE, 10)
    bench.sent()
    bench.verdict(50)
    bench.session.drafted(bench.commits, None, bench.now)
    assert bench.sent() == [Run(3, BASE + 1 + RUN_WITHOUT_DRAFTS - 1)]
    for token in range(RUN_WITHOUT_DRAFTS // 2):
        assert bench.sent() == []
        bench.verdict(token)
        bench.session.drafted(bench.commits, None, bench.now)
    assert bench.sent() == [Run(3, BASE + 1 + RUN_WITHOUT_DRAFTS // 2 + RUN_WITHOUT_DRAFTS - 1)]


def test_a_run_that_a_verdict_has_overtaken_is_not_sent() -> None:
    """It would stop the run that is under way."""
    bench = Bench()
    bench.drafted(BASE, 10)
    bench.sent()
    bench.verdict(50)
    bench.session.drafted(bench.commits, None, bench.now)
    bench.verdict(*range(20, 20 + RUN_WITHOUT_DRAFTS))
    assert bench.sent() == []


def test_a_drafter_stays_dry_until_the_target_has_gone_past_the_end_of_its_path() -> None:
    bench = Bench()
    bench.drafted(BASE, 10)
    bench.sent()
    bench.session.drafted(bench.commits, None, bench.now)
    bench.sent()
    bench.verdict(10)  # a free step decided it: the end of the path is where it was
    assert bench.sent() == [Run(3, BASE + RUN_WITHOUT_DRAFTS)]
    bench.verdict(11)  # now there is something new to look up
    assert bench.sent() == []


def test_a_rejection_gives_a_dry_drafter_a_new_path() -> None:
    bench = Bench()
    bench.drafted(BASE, 10, 11)
    bench.session.drafted(bench.commits, None, bench.now)
    bench.sent()
    bench.verdict(50)
    assert bench.sent() == []


# Clocks.


def test_a_nav_that_stays_unanswered_turns_the_session_cloud_only() -> None:
    bench = Bench()
    bench.drafted(BASE, EOS)
    bench.sent()
    assert bench.session.deadline() == bench.now + 4
    assert bench.tick(3.9) == []
    assert bench.tick(0.1) == [StopDrafting()]
    assert bench.sent() == [Run(3, FOREVER)]
    bench.drafted(BASE + 1, 11)
    assert bench.sent() == []
    assert bench.session.deadline() == 50 + 30


def test_drafts_that_were_sent_before_the_end_of_drafting_still_count_when_they_are_right() -> None:
    bench = Bench(batcher="single", trigger=FixedSettings(length=2))
    bench.drafted(BASE, 10, 11)
    bench.sent()
    bench.drafted(BASE + 2, 12)  # never sent
    bench.tick(4)
    assert bench.sent() == [Run(3, FOREVER)]
    bench.verdict(10, 11, 12, accepted=2)
    assert (bench.counts.accepted, bench.counts.sent) == (2, 2)
    assert bench.accepted == [True, True, False]
    assert bench.sent() == []


def test_the_nav_timeout_counts_from_the_last_sign_of_life() -> None:
    bench = Bench(trigger=FixedSettings(length=2))
    bench.drafted(BASE, 10, 11)
    bench.sent()
    bench.tick(3)
    bench.verdict(10)
    assert bench.session.deadline() == bench.now + 4
    bench.verdict(11)
    assert bench.session.deadline() == bench.now + 30, "answered"


def test_a_wish_that_still_waits_for_the_socket_has_no_timeout() -> None:
    bench = Bench()
    bench.drafted(BASE, EOS)
    bench.tick(10)
    assert bench.sent() == [Draft.wishing(3, 0, BASE, (EOS,), BASE)]
    assert bench.session.deadline() == bench.now + 4


@pytest.mark.parametrize("opened", [True, False])
def test_a_gateway_that_stays_silent_fails_the_request(opened: bool) -> None:
    bench = Bench(opened=opened)
    assert bench.tick(29.9) == []
    actions = bench.tick(0.1)
    fail = actions[-1]
    assert isinstance(fail, Fail)
    assert isinstance(fail.error, Unavailable)
    assert "silent for 30 s" in str(fail.error)
    assert actions[:-1] == ([StopDrafting()] if opened else [])
    assert bench.tick(0.0) == []
    assert not bench.session.ended, "the gateway's End has yet to come"
    assert bench.sent() == [Close(3)]
    ended = [bench.session.ended, bench.tick(30.0), bench.session.ended]
    assert ended == [False, [], True], "the channel is the gateway's to give back, but not for ever"
    assert bench.session.deadline() is None


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("window", 0, r"session\.window must lie between 1 and 1024, but is 0"),
        ("window", 1025, "1025"),
        ("verification_timeout_s", 0, r"must lie between 0\.001 and 3600, but is 0"),
        ("silence_timeout_s", -1, "but is -1"),
        ("silence_timeout_s", float("nan"), "but is nan"),
        ("verification_timeout_s", float("inf"), "but is inf"),
        ("grace_s", 1e300, r"session\.grace_s must lie between 0 and 3600, but is 1e\+300"),
    ],
)
def test_settings_check_themselves(field: str, value: float, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        msgspec.structs.replace(SessionSettings(), **{field: value})


# The client, acks and the end.


def test_payloads_are_delivered_as_they_are_and_end_completes_the_answer() -> None:
    bench = Bench()
    bench.verdict(10)
    assert bench.event(b'{"a": 1}', usage=True) == [Deliver(2, b'{"a": 1}', True), StopDrafting()]
    assert bench.receive(End(3, 3)) == [Complete()]
    assert bench.session.ended
    assert bench.sent() == []
    assert bench.session.deadline() is None
    assert bench.event() == []


def test_a_failed_session_fails_the_request_with_the_gateway_s_own_error() -> None:
    bench = Bench(opened=False)
    body = msgspec.json.encode(EngineFailed("out of memory").body())
    (fail,) = bench.receive(Failed(3, "engine_failed", 500, body, 7))
    assert isinstance(fail, Fail)
    assert fail.error.status == 500
    assert fail.error.body() == EngineFailed("out of memory").body()
    assert 7 <= int(fail.error.headers()["retry-after"]) <= 11
    assert bench.session.ended


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b'{"error"'])
def test_an_error_without_a_sensible_body_gets_one(body: bytes) -> None:
    (fail,) = Bench(opened=False).receive(Failed(3, "odd", 503, body))
    assert isinstance(fail, Fail)
    assert fail.error.body()["error"]["code"] == "odd"
    assert fail.error.headers() == {}


def test_a_client_that_leaves_closes_the_session_and_hears_nothing_more() -> None:
    bench = Bench()
    bench.drafted(BASE, 10)
    bench.session.client_left()
    assert bench.take() == [StopDrafting()]
    assert bench.sent() == [Close(3)]
    assert not bench.session.ended, "the channel is not free before the gateway's last word"
    assert bench.verdict(10) == []
    assert bench.event() == []
    bench.drafted(BASE + 1, 11)
    bench.session.client_left()
    assert bench.sent() == []
    assert bench.receive(End(3, 3)) == []
    assert bench.session.ended


def test_a_client_that_leaves_before_opened_closes_the_session_too() -> None:
    bench = Bench(opened=False)
    bench.session.client_left()
    assert bench.sent() == [Close(3)]
    assert bench.receive(bench.opened) == [], "no lane for nobody"


def test_a_lost_link_fails_the_request_and_says_nothing_more() -> None:
    bench = Bench()
    error = Unavailable("link lost")
    bench.session.link_lost(error)
    assert bench.take() == [StopDrafting(), Fail(error)]
    assert bench.session.ended
    assert bench.sent() == []


def test_a_request_fails_once_and_never_after_it_was_complete() -> None:
    bench = Bench()
    bench.receive(End(3, 1))
    bench.session.fail(Unavailable("too late"))
    bench.session.link_lost(Unavailable("too late"))
    assert bench.take() == []
    assert bench.sent() == []


def test_acks_wait_for_the_client_to_take_the_events() -> None:
    bench = Bench(collaborative=False)
    for n in range(ACK_EVERY):
        bench.verdict(n)
        bench.event()
    assert bench.sent() == [], "the client has taken nothing, so only the first verdict could be acknowledged"
    bench.session.taken(2 * (ACK_EVERY // 2), bench.now)
    assert bench.sent() == [Ack(3, ACK_EVERY + 1)], "up to before the first event that was not taken"
    bench.session.taken(2 * ACK_EVERY, bench.now)
    assert bench.sent() == [], "too few for an ack"
    bench.verdict(1)
    assert bench.sent() == [Ack(3, 2 * ACK_EVERY + 1)]


def test_verdicts_without_text_are_acknowledged_by_themselves() -> None:
    bench = Bench(collaborative=False)
    acks = []
    for n in range(1000):
        bench.verdict(n)
        acks += bench.sent()
        assert bench.seq - (acks[-1].seq if acks and isinstance(acks[-1], Ack) else 0) <= MAX_UNACKED
    assert len(acks) == 1000 // ACK_EVERY


def test_drafts_go_before_acks_and_run_before_drafts() -> None:
    bench = Bench()
    for n in range(ACK_EVERY):
        bench.verdict(n)
    bench.drafted(BASE + ACK_EVERY, 70)
    assert [type(m) for m in bench.sent()] == [Draft, Ack]
    bench = Bench()
    bench.drafted(BASE, 10)
    bench.sent()
    bench.verdict(50)
    bench.session.drafted(bench.commits, None, bench.now)
    bench.drafted(BASE + 1, 11)
    assert [type(m) for m in bench.sent()] == [Run, Draft]


def test_a_slow_client_does_not_turn_its_session_cloud_only() -> None:
    """While flow control holds the gateway up, a verification cannot be answered: its clock starts when it can."""
    bench = Bench()
    for n in range(MAX_UNACKED):
        bench.verdict(n % EOS)
        bench.event()
    bench.drafted(BASE + MAX_UNACKED, 10)
    bench.sent()
    assert bench.tick(20.0) == []
    bench.session.taken(2 * MAX_UNACKED, bench.now)
    assert bench.tick(0.1) == []
    assert StopDrafting() in bench.tick(10.0), "but not for ever"


# Counts.


@pytest.mark.parametrize("choices", [b"", b'{"finish_reason":"stop"}'])
def test_nothing_is_drafted_once_the_answer_has_said_how_much_was(choices: bytes) -> None:
    bench = Bench()
    bench.drafted(BASE, 10, 11)
    bench.sent()
    bench.drafted(BASE + 2, 12)
    going_on = bench.event(b'{"usage":{},"choices":[{"finish_reason":null}]}', usage=True)
    assert not any(isinstance(action, StopDrafting) for action in going_on), "vLLM's usage in every chunk"
    actions = bench.event(b'{"usage":{},"choices":[' + choices + b"]}", usage=True)
    assert [type(action) for action in actions] == [Deliver, StopDrafting]
    before = copy(bench.counts)
    bench.drafted(BASE + 3, 13)
    assert bench.sent() == []
    assert bench.counts == before


def test_counts_and_which_tokens_were_accepted() -> None:
    bench = Bench(batcher="single", trigger=FixedSettings(length=3))
    bench.verdict(10, reason=Reason.RUN)  # the free run at the start
    bench.drafted(BASE + 1, 11, 12, 13)
    bench.sent()
    bench.drafted(BASE + 4, 14)  # right, but not sent
    bench.verdict(11, 12, 13, 14, accepted=3)
    bench.drafted(BASE + 5, 15, 16, 17)
    bench.sent()
    bench.verdict(15, 50, accepted=1)
    assert bench.accepted == [False, True, True, True, False, True, False]
    counts = bench.counts
    assert (counts.forwards, counts.verifications, counts.requests) == (3, 2, 2)
    assert (counts.drafted, counts.sent) == (7, 6)
    assert (counts.accepted, counts.rejected, counts.discards) == (4, 2, 1)


def test_a_bonus_token_that_was_drafted_and_sent_counts_as_accepted() -> None:
    bench = Bench(trigger=FixedSettings(length=1))
    bench.drafted(BASE, 10)
    bench.sent()
    bench.drafted(BASE + 1, 11)
    bench.sent()
    bench.verdict(10, 11, accepted=1)
    assert (bench.counts.accepted, bench.counts.rejected) == (2, 0)


# Without a link.


def unknown() -> Failed:
    return Failed(3, "session_unknown", 410, b'{"error":{"message":"gone"}}')


LOST = Unavailable("the link is lost")


def chunk(text: str, end: str | None = None, name: str = "first") -> bytes:
    return msgspec.json.encode({"id": name, "choices": [{"index": 0, "text": text, "finish_reason": end}]})


def test_a_session_is_suspended_and_resumed() -> None:
    bench = Bench(window=4)
    assert bench.request == Open(3, VERSION, Endpoint.COMPLETIONS, BODY, b"", "req")
    bench.drafted(BASE, 10, 11, 12, 13)
    assert bench.sent() == [Draft.wishing(3, 0, BASE, (10, 11, 12, 13), BASE + 3)]
    bench.verdict(10, accepted=1)
    bench.event(chunk("a"))
    bench.session.suspended(LOST, bench.now)
    bench.drafted(BASE + 4, 14)
    assert bench.sent() == []
    assert bench.take() == []
    bench.session.resumed()
    assert bench.sent() == [Resume(3, bytes(16), 2), Draft.wishing(3, 1, BASE + 1, (11, 12, 13, 14), BASE + 4)]
    # Said again, and new: only the new counts.
    event = Event(3, 2, BASE + 1, chunk("a"))
    assert bench.receive(event) == []
    assert bench.verdict(11, 12, accepted=2) != []
    assert list(bench.session.committed) == [*PROMPT, 10, 11, 12]
    with pytest.raises(ProtocolError, match="came after 3"):
        bench.receive(Event(3, 5, BASE + 1, b"{}"))


def test_a_run_that_may_be_lost_is_said_again() -> None:
    bench = Bench()
    bench.session.drafting_ended(DraftingOff.CAPACITY)
    assert bench.sent() == [Run(3, FOREVER)]
    bench.session.suspended(LOST, bench.now)
    bench.session.resumed()
    assert bench.sent() == [Resume(3, bytes(16), 0), Run(3, FOREVER)]


def test_a_request_that_was_not_answered_is_sent_again() -> None:
    bench = Bench(opened=False)
    bench.session.suspended(LOST, bench.now)
    bench.session.resumed()
    assert bench.sent() == [bench.request]


def test_without_the_link_for_the_grace_time_the_client_is_told() -> None:
    bench = Bench()
    bench.session.suspended(LOST, bench.now)
    bench.session.suspended(LOST, bench.now + 1)
    due = bench.session.deadline()
    assert due == bench.now + SessionSettings().grace_s
    bench.session.tick(due - 0.1)
    assert bench.take() == []
    bench.session.tick(due)
    assert bench.take() == [StopDrafting(), Fail(LOST)]
    assert bench.session.ended


@pytest.mark.parametrize("opened", [True, False])
@pytest.mark.parametrize("before", [True, False])
def test_a_client_that_leaves_without_a_link_is_closed_with_the_next(opened: bool, before: bool) -> None:
    bench = Bench(opened=opened)
    if before:
        bench.session.client_left()
    bench.session.suspended(LOST, bench.now)
    bench.session.client_left()
    bench.session.resumed()
    assert bench.sent() == ([Resume(3, bytes(16), 0), Close(3)] if opened else [])
    assert bench.session.ended is not opened
    bench.receive(unknown())
    assert bench.session.ended


@pytest.mark.parametrize("collaborative", [True, False])
def test_a_gateway_that_does_not_know_the_session_is_asked_again(collaborative: bool) -> None:
    bench = Bench(window=2, collaborative=collaborative)
    bench.verdict(10)
    bench.verdict(11)
    bench.event(chunk("ab"))
    if collaborative:
        bench.drafted(BASE + 2, 12, 13, commit=3)
    bench.session.suspended(LOST, bench.now)
    bench.session.resumed()
    bench.sent()
    assert bench.receive(unknown()) == []
    (again,) = bench.sent()
    body = b'{"prompt":"x","seed":5}'
    assert again == Open(3, VERSION, Endpoint.COMPLETIONS, body, b"", "req")
    assert bench.receive(msgspec.structs.replace(bench.opened, session=b"s" * 16)) == []
    told, following = bench.sent()
    assert isinstance(told, Draft)
    assert (told.start, told.ids, told.verify_through) == (BASE, (10, 11), BASE + 1)
    if collaborative:
        assert isinstance(following, Draft)
        assert (following.start, following.ids) == (BASE + 2, (12, 13))
        assert following.epoch == told.epoch > 0
    else:
        assert following == Run(3, FOREVER)
    assert bench.receive(Verdict(3, 1, BASE, 2, 2, (10, 11, 12), Reason.VERIFICATION, 0, 0, 0)) == (
        [Commit((12,), BASE + 5)] if collaborative else []
    )
    assert list(bench.session.committed) == [*PROMPT, 10, 11, 12]
    (delivered,) = bench.receive(Event(3, 2, BASE + 3, chunk("abc", name="second")))
    assert isinstance(delivered, Deliver)
    assert delivered.seq == 5, "after those of the first gateway"
    assert delivered.payload == chunk("c")
    assert bench.receive(End(3, 3))[-1] == Complete()


REFUSED = Failed(3, "unavailable", 503, b'{"error":{"message":"shutting down"}}')


def test_a_session_whose_link_is_given_up_is_asked_again_at_once() -> None:
    bench = Bench(window=2)
    bench.verdict(10)
    bench.event(chunk("a"))
    assert bench.session.can_hand_off
    bench.session.relocated()
    assert bench.sent() == [Open(3, VERSION, Endpoint.COMPLETIONS, b'{"prompt":"x","seed":5}', b"", "req")]
    bench.receive(msgspec.structs.replace(bench.opened, session=b"s" * 16))
    (told,) = bench.sent()
    assert isinstance(told, Draft)
    assert (told.start, told.ids) == (BASE, (10,))


def test_a_request_that_was_not_answered_yet_moves_as_it_is() -> None:
    bench = Bench(opened=False)
    bench.sent()
    assert bench.session.can_hand_off
    bench.session.relocated()
    assert bench.sent() == [bench.request]


def test_a_client_that_has_left_is_not_moved() -> None:
    bench = Bench()
    bench.session.client_left()
    bench.session.relocated()
    assert bench.session.ended
    assert bench.sent() == []
    bench.session.relocated()  # harmless


def test_more_than_text_cannot_be_moved() -> None:
    bench = Bench()
    bench.verdict(10)
    bench.event(b'{"id":"first","choices":[{"index":0,"text":"a","logprobs":{"tokens":["a"]}}]}')
    assert not bench.session.can_hand_off


def test_a_gateway_that_is_about_to_end_is_not_asked_again_but_the_next_one() -> None:
    bench = Bench()
    bench.verdict(10)
    bench.session.suspended(LOST, bench.now)
    bench.session.resumed()
    bench.receive(unknown())
    assert [type(message) for message in bench.sent()] == [Open]
    assert bench.receive(REFUSED) == []
    assert bench.sent() == []
    bench.session.suspended(LOST, bench.now + 1)
    bench.session.resumed()
    assert [type(message) for message in bench.sent()] == [Open]
    bench.receive(REFUSED)
    due = bench.session.deadline()
    assert due == bench.now + SessionSettings().grace_s
    bench.session.tick(due)
    (failure,) = [action for action in bench.take() if isinstance(action, Fail)]
    assert failure.error.status == 503
    assert failure.error.body() == {"error": {"message": "shutting down"}}


@pytest.mark.parametrize("left", [True, False])
def test_a_request_that_is_put_off_and_refused_by_all_is_told(left: bool) -> None:
    bench = Bench(opened=False)
    bench.sent()
    bench.session.refused()
    assert bench.take() == [], "it was not put off"
    if left:
        bench.session.client_left()
    bench.session.postponed(LOST, bench.now)
    assert bench.session.ended is left
    bench.session.refused()
    assert bench.session.ended
    assert bench.take() == ([] if left else [Fail(LOST)])


@pytest.mark.parametrize("change", [{"prompt_ids": (1, 2)}, {"params": SamplingParams(seed=6)}, {"max_tokens": 7}])
def test_another_prompt_or_seed_ends_the_move(change: dict[str, object]) -> None:
    bench = Bench()
    bench.verdict(10)
    bench.session.suspended(LOST, bench.now)
    bench.session.resumed()
    bench.receive(unknown())
    bench.sent()
    (failure,) = [a for a in bench.receive(msgspec.structs.replace(bench.opened, **change)) if isinstance(a, Fail)]
    assert "parameters" in str(failure.error)
    assert bench.sent() == [Close(3)]


def test_a_token_that_differs_ends_the_move() -> None:
    bench = Bench()
    bench.verdict(10)
    bench.session.suspended(LOST, bench.now)
    bench.session.resumed()
    bench.receive(unknown())
    bench.sent()
    bench.receive(bench.opened)
    actions = bench.receive(Verdict(3, 1, BASE, 0, 0, (77,), Reason.RUN, 0, 0, 0))
    (failure,) = [a for a in actions if isinstance(a, Fail)]
    assert "tokens are not the same" in str(failure.error)
    assert list(bench.session.committed) == [*PROMPT, 10]


def test_large_payloads_are_acknowledged_sooner() -> None:
    bench = Bench(collaborative=False)
    bench.verdict(10)
    bench.event(bytes(ACK_BYTES))
    assert bench.sent() == []
    bench.session.taken(2, bench.now)
    assert bench.sent() == [Ack(3, 2)]


def test_signs_of_life_keep_a_session_waiting_for_a_long_prompt() -> None:
    """Neither the silence (30 s) nor the wish without a verdict (4 s) is measured over a whole prompt."""
    bench = Bench()
    bench.drafted(BASE, 1, 2, 3)
    bench.session.drafted(bench.commits, None, bench.now)  # asks for a verification
    bench.sent()
    for _ in range(100):
        assert bench.tick(1.0) == []
        assert bench.receive(Progress(3)) == []
    assert not bench.session.ended
    assert bench.sent() == []
    bench.tick(4.0)
    assert bench.sent() == [Run(3, FOREVER)]
    (fail,) = (action for action in bench.tick(30.0) if isinstance(action, Fail))
    assert "silent for 30 s" in str(fail.error)


# Why nothing is drafted.


def test_a_session_that_drafts_to_its_end_has_no_reason() -> None:
    for bench in (Bench(), Bench(max_tokens=1), Bench(max_tokens=3)):
        assert bench.session.drafting_off is None
        bench.verdict(*range(10, 10 + bench.opened.max_tokens), reason=Reason.RUN)
        bench.event(b'{"choices": [], "usage": {}}', usage=True)
        assert bench.session.drafting_off is None


def test_every_end_of_drafting_in_a_session_has_its_reason() -> None:
    too_long, filled, unanswered, ended = Bench(max_context=BASE), Bench(max_context=BASE + 2), Bench(), Bench()
    filled.verdict(10, 11, reason=Reason.RUN)
    unanswered.session.drafted(0, None, 50.0)
    unanswered.drafted(BASE, 1)
    unanswered.session.drafted(unanswered.commits, None, 50.0)
    assert unanswered.sent()
    unanswered.tick(4.0)
    ended.session.drafting_ended(DraftingOff.CAPACITY)
    found = [bench.session.drafting_off for bench in (too_long, filled, unanswered, ended)]
    assert found == [DraftingOff.CONTEXT, DraftingOff.CONTEXT, DraftingOff.NO_VERDICT, DraftingOff.CAPACITY]


def test_a_mode_that_has_the_target_write_alone_is_a_reason_until_it_drafts_again_and_stays_one_at_the_end() -> None:
    bench = Bench()
    drafting = bench.session._drafting
    found = []
    drafting._start_rest(BASE, 3)  # a short run of the target is a part of drafting
    found.append(bench.session.drafting_off)
    drafting._start_rest(BASE, FOREVER)
    found.append(bench.session.drafting_off)
    drafting.run.end_rest()
    drafting._wake()
    found.append(bench.session.drafting_off)
    drafting._start_rest(BASE, FOREVER)
    bench.event(b'{"choices": [], "usage": {}}', usage=True)
    found.append(bench.session.drafting_off)
    assert found == [None, DraftingOff.TARGET_ONLY, None, DraftingOff.TARGET_ONLY]
