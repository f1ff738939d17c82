"""The gateway's side of a session, rule by rule (architecture §4)."""

from __future__ import annotations

import msgspec
import pytest

from pipesd_core.engine.interface import Opening, Payload, StepDone
from pipesd_core.errors import EngineFailed, OutOfState, Overloaded
from pipesd_core.protocol.messages import (
    FOREVER,
    MAX_FRAME_BYTES,
    MAX_STAMPS,
    MAX_UNACKED,
    MAX_UNACKED_BYTES,
    STAMP_PERIOD_US,
    Ack,
    Close,
    Desync,
    Draft,
    End,
    Event,
    Failed,
    Opened,
    Reason,
    Run,
    Verdict,
    decode_gateway,
    encode,
)
from pipesd_core.sampling.params import SamplingParams
from pipesd_gateway.limits import SessionLimits
from pipesd_gateway.orders import Abort, Output, Step
from pipesd_gateway.session import MAX_AHEAD, MAX_PATH, MAX_PAYLOAD_BYTES, GatewaySession, failed

PROMPT = (1, 2, 3, 4)
BASE = len(PROMPT)
EOS = 9
N_VOCAB = 100
MAX_DRAFTS = 5
LIMITS = SessionLimits(park_timeout_s=5, stall_timeout_s=60)


class Bench:
    """A session on the bench: `say` is the edge, `step` the engine, each returns what came out."""

    def __init__(
        self,
        *,
        max_tokens: int = 1000,
        collaborative: bool = True,
        limits: SessionLimits = LIMITS,
        free_start: int = FOREVER,
    ) -> None:
        self.now = 50.0
        self.session = GatewaySession(
            3,
            bytes(16),
            Opening(PROMPT, SamplingParams(seed=5), max_tokens, (EOS,), "toy", ("\n",)),
            collaborative=collaborative,
            n_vocab=N_VOCAB,
            max_drafts=MAX_DRAFTS,
            limits=limits,
            now=self.now,
            free_start=free_start,
        )
        self.first = self.session.take_outputs()

    def send(self, message: Draft | Run | Ack | Close) -> list[Output]:
        self.session.receive(message, self.now)
        return self.session.take_outputs()

    def draft(self, start: int, *ids: int, epoch: int = 0, verify: int | None = None) -> list[Output]:
        return self.send(Draft.wishing(3, epoch, start, ids, verify))

    def step(self, *tokens: int, verified: int = 0, accepted: int = 0, ends: bool = False) -> list[Output]:
        self.session.step_done(StepDone(tokens, verified, accepted, 11, 22, ends), self.now)
        return self.session.take_outputs()

    def tick(self, seconds: float) -> list[Output]:
        self.now += seconds
        self.session.tick(self.now)
        return self.session.take_outputs()

    @property
    def committed(self) -> list[int]:
        return list(self.session.committed)[BASE:]


def test_a_free_start_ends_after_the_tokens_that_the_edge_asked_for() -> None:
    bench = Bench(free_start=2)
    assert steps(bench.first) == [()]
    assert steps(bench.step(10)) == [()]
    assert steps(bench.step(11)) == []
    assert steps(bench.draft(BASE + 2, 12, verify=BASE + 2)) == [(12,)]


def test_a_draft_ends_the_free_start_sooner_and_a_silent_edge_does_not_end_the_answer() -> None:
    bench = Bench(free_start=5)
    bench.draft(BASE, 10)
    assert steps(bench.step(10)) == []
    assert steps(bench.tick(LIMITS.park_timeout_s)) == [()]


@pytest.fixture
def parked() -> Bench:
    """Free run ended by the edge; one token (10) is committed, so that the next position is BASE + 1."""
    bench = Bench()
    bench.send(Run(3, 0))
    assert not steps(bench.step(10))
    return bench


NEXT = BASE + 1


def orders(outputs: list[Output]) -> list[Step]:
    return [o for o in outputs if isinstance(o, Step)]


def steps(outputs: list[Output]) -> list[tuple[int, ...]]:
    return [order.drafts for order in orders(outputs)]


def verdict(outputs: list[Output]) -> Verdict:
    (found,) = [o for o in outputs if isinstance(o, Verdict)]
    return found


def desync(outputs: list[Output]) -> Desync:
    (found,) = [o for o in outputs if isinstance(o, Desync)]
    return found


# Opening and free run.


def test_it_says_what_was_opened_and_starts_in_free_run() -> None:
    bench = Bench()
    opened = Opened(3, bytes(16), PROMPT, SamplingParams(seed=5), 1000, (EOS,), "toy", ("\n",))
    assert bench.first == [opened, Step(())]
    outputs = bench.step(10)
    assert verdict(outputs).reason is Reason.RUN
    assert steps(outputs) == [()], "and goes on by itself"


def test_the_first_draft_ends_the_free_run_at_the_start() -> None:
    bench = Bench()
    assert bench.draft(BASE, 10) == [], "the step under way is finished first"
    assert not steps(bench.step(10))
    assert bench.session.held == 0


def test_an_ack_does_not_end_it() -> None:
    bench = Bench()
    bench.send(Ack(3, 0))
    assert steps(bench.step(10)) == [()]


@pytest.mark.parametrize("until", [0, BASE - 1])
def test_run_up_to_a_committed_position_means_stop(until: int) -> None:
    bench = Bench()
    bench.send(Run(3, until))
    assert not steps(bench.step(10))


def test_run_until_a_position_never_parks_before_it() -> None:
    bench = Bench()
    bench.send(Run(3, BASE + 2))
    assert orders(bench.step(10)) == [Step((), ahead=1)]
    assert not steps(bench.step(11)), "ordered already"
    assert not steps(bench.step(12)), "BASE + 2 is committed now"


def test_run_starts_a_parked_session(parked: Bench) -> None:
    assert steps(parked.send(Run(3, NEXT))) == [()]
    assert not steps(parked.step(11))


def test_the_edge_s_own_run_uses_drafts_that_arrive_in_it_and_goes_on(parked: Bench) -> None:
    assert orders(parked.send(Run(3, FOREVER))) == [Step((), ahead=MAX_AHEAD)]
    for token in range(MAX_AHEAD):
        assert not steps(parked.step(token)), "ordered already"
    parked.draft(NEXT + MAX_AHEAD, 11, 12, 13)
    outputs = parked.step(11)
    assert orders(outputs) == [Step((12, 13))], "with drafts at hand, step by step"
    assert verdict(outputs).reason is Reason.RUN
    assert orders(parked.step(12, 13, 14, verified=2, accepted=2)) == [Step((), ahead=MAX_AHEAD)]


def test_without_an_edge_that_drafts_many_steps_are_ordered_at_once() -> None:
    bench = Bench(collaborative=False)
    bench.step(10)
    assert orders(bench.first) == [Step((), ahead=MAX_AHEAD)]
    for token in range(1, MAX_AHEAD):
        assert not steps(bench.step(token))
    assert orders(bench.step(10)) == [Step((), ahead=MAX_AHEAD)]


def test_an_answer_that_ends_ahead_of_time_orders_no_more() -> None:
    bench = Bench(collaborative=False)
    bench.step(10)
    assert not steps(bench.step(EOS, ends=True))
    bench.session.finished()
    assert isinstance(bench.session.take_outputs()[-1], End)


# Drafts.


def test_drafts_alone_start_nothing(parked: Bench) -> None:
    assert parked.draft(NEXT, 11, 12) == []
    assert parked.session.held == 2


def test_an_older_epoch_is_dropped(parked: Bench) -> None:
    parked.draft(NEXT, 11, epoch=4)
    assert parked.draft(NEXT, 77, 78, epoch=3, verify=NEXT + 1) == []
    assert parked.draft(NEXT + 50, 77, epoch=3) == [], "not even a hole in it matters"
    assert parked.session.held == 1
    assert steps(parked.draft(NEXT + 1, epoch=4, verify=NEXT)) == [(11,)]


def test_a_newer_epoch_takes_the_place_of_the_path(parked: Bench) -> None:
    parked.draft(NEXT, 11, 12, 13)
    assert steps(parked.draft(NEXT, 21, epoch=7, verify=NEXT)) == [(21,)]


def test_a_newer_epoch_forgets_the_wish_for_the_path_before(parked: Bench) -> None:
    parked.send(Run(3, NEXT))  # a step is under way, so the wish has to wait
    parked.draft(NEXT, 11, 12, 13, verify=NEXT + 2)
    parked.draft(NEXT, 21, 22, epoch=1)
    assert not steps(parked.step(21)), "nobody wants 22 verified yet"
    assert parked.session.held == 1


def test_a_newer_epoch_revives_a_dead_path(parked: Bench) -> None:
    parked.draft(NEXT, 11, verify=NEXT)
    parked.step(50, verified=1)
    assert parked.draft(NEXT + 1, 12, verify=NEXT + 1) == [], "dead: dropped"
    assert steps(parked.draft(NEXT + 1, 51, epoch=1, verify=NEXT + 1)) == [(51,)]


def test_the_same_epoch_appends(parked: Bench) -> None:
    parked.draft(NEXT, 11)
    parked.draft(NEXT + 1, 12, 13)
    assert steps(parked.draft(NEXT + 3, 14, verify=NEXT + 3)) == [(11, 12, 13, 14)]


def test_duplicates_and_overlaps_change_nothing(parked: Bench) -> None:
    parked.draft(NEXT, 11, 12)
    assert parked.draft(NEXT, 11, 12) == []
    parked.draft(NEXT + 1, 12, 13)
    assert parked.session.held == 3
    assert steps(parked.draft(NEXT, 11, verify=NEXT + 2)) == [(11, 12, 13)]


def test_ids_at_committed_positions_are_compared_and_what_follows_counts(parked: Bench) -> None:
    assert steps(parked.draft(BASE - 1, 4, 10, 11, verify=NEXT)) == [(11,)]


def test_a_difference_from_the_committed_kills_the_path(parked: Bench) -> None:
    parked.draft(NEXT, 11)
    assert parked.draft(BASE, 66, 11, 12, verify=NEXT + 1) == [], "no Desync: the verdict tells the edge"
    assert parked.session.held == 0
    assert parked.draft(NEXT, 11, verify=NEXT) == []


def test_a_hole_is_a_desync_and_kills_the_path(parked: Bench) -> None:
    parked.draft(NEXT, 11, epoch=2)
    fault = desync(parked.draft(NEXT + 2, 13, epoch=2, verify=NEXT + 2))
    assert (fault.channel, fault.epoch, fault.expected) == (3, 2, NEXT)
    assert f"start at {NEXT + 2}, but {NEXT + 1} is the next" in fault.message
    assert parked.session.held == 0
    assert parked.draft(NEXT, 11, epoch=2, verify=NEXT) == [], "dead until the next epoch, and said only once"


def test_drafts_of_one_epoch_that_contradict_each_other_are_a_desync(parked: Bench) -> None:
    parked.draft(NEXT, 11, 12)
    assert "contradict each other" in desync(parked.draft(NEXT + 1, 99, 13)).message
    assert parked.session.held == 0


def test_more_drafts_than_can_be_held_are_a_desync() -> None:
    bench = Bench(max_tokens=MAX_PATH + 100)
    bench.draft(BASE, *([7] * 200))
    for start in range(BASE + 200, BASE + MAX_PATH, 200):
        outputs = bench.draft(start, *([7] * 200))
        assert bench.session.held <= MAX_PATH
    assert str(MAX_PATH) in desync(outputs).message


def test_the_path_follows_what_is_committed_in_a_free_run() -> None:
    bench = Bench()
    bench.draft(BASE, 10, 11, 12)
    bench.step(10)
    assert bench.session.held == 2
    assert steps(bench.draft(BASE + 3, verify=BASE + 2)) == [(11, 12)]


def test_a_token_committed_without_drafts_leaves_the_path_alive() -> None:
    """In-flight drafts are compared when they arrive; a session that is in its first free run must stay draftable."""
    bench = Bench()
    bench.step(10)
    bench.draft(BASE, 10, 11)
    bench.step(11)
    assert steps(bench.draft(BASE + 2, 12, verify=BASE + 2)) == [(12,)]


def test_a_bonus_token_that_was_drafted_already_leaves_the_rest_in_place(parked: Bench) -> None:
    parked.draft(NEXT, 11, verify=NEXT)
    parked.draft(NEXT + 1, 12, 13)  # on, while the verification runs
    parked.step(11, 12, verified=1, accepted=1)  # 12: the bonus token
    assert parked.session.held == 1
    assert steps(parked.draft(NEXT + 3, 14, verify=NEXT + 3)) == [(13, 14)]


def test_a_bonus_token_against_what_was_drafted_kills_the_rest(parked: Bench) -> None:
    parked.draft(NEXT, 11, verify=NEXT)
    parked.draft(NEXT + 1, 12, 13, verify=NEXT + 2)
    assert not steps(parked.step(11, 50, verified=1, accepted=1)), "the wish died with the path"
    assert parked.session.held == 0
    assert parked.draft(NEXT + 3, 14, verify=NEXT + 3) == []


def test_drafts_at_or_past_the_last_position_are_dropped() -> None:
    bench = Bench(max_tokens=3)  # positions BASE .. BASE + 2; the target decides the last by itself
    bench.draft(BASE, 10, 11, 12, 13, 14, verify=BASE + 4)
    assert bench.session.held == 2
    assert bench.draft(BASE + 2, 12) == []
    assert bench.draft(BASE + 7, 17) == [], "no hole: there is nothing to be held there"
    assert bench.session.held == 2


def test_no_draft_at_all_where_only_one_token_is_to_come() -> None:
    bench = Bench(max_tokens=1)
    bench.draft(BASE, 10, verify=BASE)
    assert bench.session.held == 0


def test_an_id_outside_the_vocabulary_is_refused_before_anything_changes(parked: Bench) -> None:
    with pytest.raises(OutOfState, match=r"draft id 100 is outside the vocabulary of 100"):
        parked.draft(NEXT, 11, N_VOCAB, verify=NEXT)
    assert parked.session.held == 0
    parked.session.protocol_failure(OutOfState("draft id 100"))
    abort, fault = parked.session.take_outputs()
    assert isinstance(abort, Abort)
    assert isinstance(fault, Failed)
    assert (fault.channel, fault.code, fault.status) == (3, "out_of_state", 502)
    assert "draft id 100" in msgspec.json.decode(fault.body)["error"]["message"]
    assert parked.session.ended
    assert parked.draft(NEXT, 11, verify=NEXT) == []


def test_a_draft_in_a_cloud_only_session_is_refused() -> None:
    bench = Bench(collaborative=False)
    with pytest.raises(OutOfState, match="without a vocabulary fingerprint"):
        bench.draft(BASE, 10)


# Verification.


def test_a_verification_takes_every_held_draft_not_only_those_wished_for(parked: Bench) -> None:
    assert steps(parked.draft(NEXT, 11, 12, 13, verify=NEXT)) == [(11, 12, 13)]


def test_it_takes_as_many_as_the_engine_can_and_goes_on_until_the_wish_is_fulfilled(parked: Bench) -> None:
    ids = tuple(range(20, 32))
    assert steps(parked.draft(NEXT, *ids, verify=NEXT + 11)) == [ids[:MAX_DRAFTS]]
    assert steps(parked.step(*ids[:6], verified=5, accepted=5)) == [ids[6:11]]
    assert not steps(parked.step(*ids[6:12], verified=5, accepted=5))
    assert parked.session.held == 0


def test_a_wish_beyond_the_path_is_for_all_of_it_and_the_token_after(parked: Bench) -> None:
    assert steps(parked.draft(NEXT, 11, verify=NEXT + 40)) == [(11,)]
    assert not steps(parked.step(11, 12, verified=1, accepted=1)), "no endless run on a wish"


def test_a_wish_for_committed_positions_is_fulfilled_already(parked: Bench) -> None:
    assert parked.draft(NEXT, 11, verify=NEXT - 1) == []
    assert parked.draft(NEXT + 1, verify=0) == []


def test_at_most_one_step_is_under_way_and_wishes_coalesce_to_the_furthest(parked: Bench) -> None:
    assert steps(parked.draft(NEXT, 11, verify=NEXT)) == [(11,)]
    assert parked.draft(NEXT + 1, 12, 13, 14, verify=NEXT + 3) == []
    assert parked.draft(NEXT + 4, 15, verify=NEXT + 1) == [], "an earlier position does not shorten the wish"
    assert steps(parked.step(11, verified=1, accepted=1)) == [(12, 13, 14, 15)]
    # Only 12 and 13 come back (a stop of the engine's own making, say): NEXT + 3 is still wanted.
    assert steps(parked.step(12, 13, verified=4, accepted=2)) == [(14, 15)]


def test_a_wish_is_fulfilled_by_a_step_that_was_taken_for_another_reason() -> None:
    bench = Bench()
    bench.draft(BASE, 10, verify=BASE)
    assert not steps(bench.step(10)), "the first free step decided it"


def test_a_verdict_says_what_the_step_did(parked: Bench) -> None:
    parked.draft(NEXT, 11, 12, verify=NEXT + 1)
    assert verdict(parked.step(11, 50, verified=2, accepted=1)) == Verdict(
        3, 2, NEXT, 2, 1, (11, 50), Reason.VERIFICATION, 11, 22, 50_000_000, 3, (50_000_000,)
    )
    assert parked.committed == [10, 11, 50]


def test_the_arrival_stamp_goes_with_the_step_that_its_drafts_can_be_in(parked: Bench) -> None:
    parked.now = 51.0
    parked.draft(NEXT, 11)
    parked.now = 52.0
    parked.draft(NEXT + 1, 12, verify=NEXT + 1)  # starts the step
    parked.now = 53.0
    parked.draft(NEXT + 2, 13)  # too late for it
    assert verdict(parked.step(11, 12, verified=2, accepted=2)).recv_us == 52_000_000, "the last draft before the step"
    parked.send(Run(3, NEXT + 2))
    assert verdict(parked.step(13, 14, verified=1, accepted=1)).recv_us == 53_000_000
    parked.send(Run(3, NEXT + 4))
    assert verdict(parked.step(15)).recv_us == 0, "no draft came in between"


def test_dropped_drafts_leave_no_stamp(parked: Bench) -> None:
    parked.draft(NEXT, 11, epoch=2, verify=NEXT)
    parked.step(50, verified=1)
    parked.draft(NEXT + 1, 12, epoch=2)  # dead
    parked.draft(NEXT + 1, 12, epoch=1)  # old
    parked.send(Run(3, NEXT + 1))
    assert verdict(parked.step(51)).recv_us == 0


def test_a_verdict_reports_every_arrival_once(parked: Bench) -> None:
    parked.now = 51.0
    parked.draft(NEXT, 11)
    parked.now = 51.25
    parked.draft(NEXT + 1, 12, verify=NEXT + 1)
    parked.now = 53.0
    parked.send(Ack(3, 1))
    reported = verdict(parked.step(11, 12, verified=2, accepted=2))
    assert (reported.heard, reported.stamps) == (5, (51_000_000, 250_000, 1_750_000)), (
        "the open and the run were told before"
    )
    parked.send(Run(3, NEXT + 4))
    parked.session.take_outputs()
    parked.send(Ack(3, 2))
    reported = verdict(parked.step(13))
    assert (reported.heard, reported.stamps) == (7, (53_000_000, 0))
    reported = verdict(parked.step(14))
    assert (reported.heard, reported.stamps) == (7, ())


def test_arrivals_are_bounded_and_the_clock_is_short(parked: Bench) -> None:
    for number in range(100):
        parked.now = 5000.0 + number
        parked.send(Ack(3, 0))
    parked.send(Run(3, NEXT))
    reported = verdict(parked.step(50))
    assert reported.heard == 103
    assert len(reported.stamps) == MAX_STAMPS
    last_us = 5_099_000_000  # the run came with the last ack
    assert sum(reported.stamps) % STAMP_PERIOD_US == last_us % STAMP_PERIOD_US
    assert reported.stamps[0] < STAMP_PERIOD_US
    assert decode_gateway(encode(reported)) == reported


def test_on_another_link_messages_are_counted_anew(parked: Bench) -> None:
    parked.draft(NEXT, 11, verify=NEXT)
    parked.session.suspended(parked.now)
    parked.step(11, 12, verified=1, accepted=1)
    parked.now = 60.0
    parked.session.resumed(7, 1, parked.now)
    again = verdict(parked.session.take_outputs())
    assert (again.heard, again.stamps) == (0, ())
    parked.send(Run(7, NEXT + 2))
    reported = verdict(parked.step(13))
    assert (reported.heard, reported.stamps) == (2, (60_000_000, 0))


# Order and the end.


def test_one_sequence_and_the_verdict_before_its_events() -> None:
    bench = Bench()
    bench.send(Run(3, 0))
    first = verdict(bench.step(10))
    bench.session.payload(Payload(b"{}", 1, usage=True))
    bench.session.finished()
    assert first.seq == 1
    assert bench.session.take_outputs() == [Event(3, 2, BASE + 1, b"{}", True), End(3, 3)]
    assert bench.session.ended


def test_a_verdict_goes_out_before_the_next_step_is_ordered() -> None:
    bench = Bench()
    assert [type(o) for o in bench.step(10)] == [Verdict, Step]


@pytest.mark.parametrize("message", [Draft.wishing(3, 0, BASE + 1, (11,), BASE + 1), Run(3, FOREVER), Ack(3, 1)])
def test_after_the_last_step_no_other_is_ordered(message: Draft | Run | Ack) -> None:
    """Messages may come between the last StepDone and Finished."""
    bench = Bench()
    assert steps(bench.step(EOS, ends=True)) == []
    assert steps(bench.send(message)) == []
    assert bench.session.deadline() is None
    assert steps(bench.tick(1000)) == []
    bench.session.finished()
    assert isinstance(bench.session.take_outputs()[-1], End)


def test_close_aborts_and_ends(parked: Bench) -> None:
    assert parked.send(Close(3)) == [Abort(), End(3, 2)]
    assert parked.session.ended
    assert parked.session.deadline() is None
    assert parked.send(Run(3, FOREVER)) == []
    assert parked.step(11) == []
    parked.session.payload(Payload(b"{}", 1))
    parked.session.finished()
    parked.session.broken(EngineFailed("x"))
    parked.session.suspended(parked.now)
    assert parked.session.take_outputs() == []
    assert not parked.session.can_resume(2)


# Without a link.


def test_after_the_grace_time_a_lost_link_aborts_and_says_nothing(parked: Bench) -> None:
    parked.session.suspended(parked.now)
    assert parked.session.take_outputs() == []
    assert parked.session.deadline() == parked.now + 30
    assert parked.tick(29.9) == []
    parked.session.suspended(parked.now)
    assert parked.tick(0.1) == [Abort()]
    assert parked.session.ended
    assert parked.session.gone
    assert parked.session.deadline() is None
    assert parked.tick(100) == []


def test_without_a_grace_time_a_lost_link_aborts_at_once() -> None:
    bench = Bench(limits=SessionLimits(grace_s=0))
    bench.session.suspended(bench.now)
    assert bench.session.take_outputs() == [Abort()]
    assert not bench.session.can_resume(0)


def test_without_a_link_nothing_is_computed_beyond_the_step_under_way(parked: Bench) -> None:
    assert steps(parked.draft(BASE + 1, 11, 12, verify=BASE + 2)) == [(11, 12)]
    parked.session.suspended(parked.now)
    assert parked.step(11, 20, verified=2, accepted=1) == []
    assert parked.tick(20) == [], "neither the wish nor the park timeout goes on"
    assert parked.committed == [10, 11, 20]
    assert parked.session.held == 0


@pytest.mark.parametrize("collaborative", [True, False])
def test_without_a_link_a_run_that_no_draft_could_end_goes_on_to_the_bound(collaborative: bool) -> None:
    bench = Bench(collaborative=collaborative)
    if collaborative:
        bench.send(Run(3, FOREVER))
    bench.session.suspended(bench.now)
    done = 0
    while bench.session._steps_due:
        assert all(isinstance(output, Step) for output in bench.step(7))
        done += 1
    assert MAX_UNACKED < done <= MAX_UNACKED + MAX_AHEAD + 1
    bench.session.resumed(3, 0, bench.now)
    replay = bench.session.take_outputs()
    assert [m.seq for m in replay if isinstance(m, Verdict)] == list(range(1, done + 1))
    assert steps(bench.send(Ack(3, done)))


def test_a_run_of_the_start_or_of_a_timeout_waits_for_the_link() -> None:
    bench = Bench()
    bench.session.suspended(bench.now)
    assert bench.step(7) == []
    bench.session.resumed(3, 0, bench.now)
    verdict, step = bench.session.take_outputs()
    assert isinstance(verdict, Verdict)
    assert step == Step(())


def test_a_timeout_run_does_not_outlive_the_link(parked: Bench) -> None:
    assert steps(parked.tick(5)) == [()]
    parked.session.suspended(parked.now)
    assert parked.step(11) == []
    parked.session.resumed(3, 1, parked.now)
    assert [type(m) for m in parked.session.take_outputs()] == [Verdict]
    assert steps(parked.tick(4.9)) == []
    assert steps(parked.tick(0.1)) == [()]


def test_a_resumed_session_says_again_what_was_missed_and_drops_the_path(parked: Bench) -> None:
    parked.session.payload(Payload(b"a", 1))
    sent = parked.session.take_outputs()
    parked.draft(BASE + 1, 11, 12)
    parked.session.suspended(parked.now)
    parked.session.payload(Payload(b"b", 1))
    assert parked.session.take_outputs() == []
    parked.session.resumed(7, 1, parked.now)
    replay = parked.session.take_outputs()
    assert replay == [Event(7, 2, BASE + 1, b"a"), Event(7, 3, BASE + 1, b"b")]
    assert sent == [Event(3, 2, BASE + 1, b"a")]
    assert parked.session.held == 0
    assert parked.draft(BASE + 1, 11, verify=BASE + 1) == [], "of the path that was dropped"
    assert steps(parked.draft(BASE + 1, 11, epoch=1, verify=BASE + 1)) == [(11,)]


def test_only_what_is_kept_can_be_resumed(parked: Bench) -> None:
    for payload in (b"a", b"b", b"c"):
        parked.session.payload(Payload(payload, 1))
    parked.send(Ack(3, 2))
    assert [parked.session.can_resume(seq) for seq in range(6)] == [False, False, True, True, True, False]


@pytest.mark.parametrize("how", ["finished", "broken"])
def test_an_answer_that_ends_without_a_link_is_kept(parked: Bench, how: str) -> None:
    parked.session.suspended(parked.now)
    if how == "finished":
        parked.session.finished()
    else:
        parked.session.broken(EngineFailed("out of memory"))
    assert parked.session.take_outputs() == []
    assert parked.session.ended
    parked.session.resumed(4, 1, parked.now)
    (last,) = parked.session.take_outputs()
    assert isinstance(last, End | Failed)
    assert last.channel == 4
    parked.session.suspended(parked.now)
    assert parked.session.can_resume(1)
    assert parked.tick(30) == []
    assert parked.session.gone


def test_a_session_with_too_many_unacknowledged_bytes_parks_after_its_step() -> None:
    bench = Bench(collaborative=False)
    for _ in range(3):
        bench.step(7)
        bench.session.payload(Payload(bytes(MAX_UNACKED_BYTES // 2), 1))
    bench.session.take_outputs()
    while bench.session._steps_due:
        assert steps(bench.step(7)) == []
    assert steps(bench.send(Ack(3, 1))) == []
    assert steps(bench.send(Ack(3, 2)))


def test_a_payload_that_fits_no_frame_ends_its_session_alone() -> None:
    bench = Bench(collaborative=False)
    bench.step(7)
    bench.session.payload(Payload(bytes(MAX_PAYLOAD_BYTES), 1))
    (event,) = (output for output in bench.session.take_outputs() if isinstance(output, Event))
    assert len(encode(event)) <= MAX_FRAME_BYTES
    bench.session.payload(Payload(bytes(MAX_PAYLOAD_BYTES + 1), 1))
    abort, refusal = bench.session.take_outputs()
    assert abort == Abort()
    assert isinstance(refusal, Failed)
    assert (refusal.status, refusal.code) == (400, "answer_too_large")
    assert str(MAX_PAYLOAD_BYTES).encode() in refusal.body
    assert bench.session.ended


def test_the_stall_clock_stands_while_there_is_no_link() -> None:
    bench = Bench(collaborative=False)
    while bench.session._steps_due:
        bench.step(7)
    assert bench.session.deadline() == bench.now + 60
    bench.now += 50
    bench.session.suspended(bench.now)
    bench.now += 20
    bench.session.resumed(3, 0, bench.now)
    assert bench.session.deadline() == bench.now + 60


def test_a_broken_engine_ends_the_session_with_its_error() -> None:
    bench = Bench()
    bench.session.broken(EngineFailed("out of memory"))
    (fault,) = bench.session.take_outputs()
    assert isinstance(fault, Failed)
    assert (fault.code, fault.status, fault.retry_after_s) == ("engine_failed", 500, 0)
    assert msgspec.json.decode(fault.body) == EngineFailed("out of memory").body()
    assert bench.session.ended


def test_an_error_with_a_retry_after_keeps_it() -> None:
    assert failed(3, Overloaded("full", retry_after_s=8)).retry_after_s == 8


def test_what_an_engine_says_unasked_is_ignored(parked: Bench) -> None:
    assert parked.step(11) == []
    assert parked.committed == [10]


# Park timeout.


def test_a_silent_edge_s_session_goes_on_by_itself(parked: Bench) -> None:
    parked.draft(NEXT, 11)
    assert parked.session.deadline() == parked.now + 5
    assert parked.tick(4.9) == []
    assert steps(parked.tick(0.1)) == [(11,)], "with the drafts that it holds"
    outputs = parked.step(50, verified=1)
    assert verdict(outputs).reason is Reason.TIMEOUT
    assert steps(outputs) == [()], "and on, and on"
    assert parked.session.deadline() is None


def test_anything_that_is_heard_puts_the_park_timeout_off(parked: Bench) -> None:
    for message in (Ack(3, 1), Draft(3, 0, NEXT, (11,)), Draft(3, 0, NEXT, ())):
        assert parked.tick(4) == []
        parked.send(message)
    assert parked.tick(4.9) == []
    assert steps(parked.tick(0.2)) != []


@pytest.mark.parametrize("message", [Draft(3, 0, NEXT, (50,)), Draft(3, 0, BASE, ()), Run(3, 0)])
def test_the_edge_s_next_draft_or_run_ends_the_timeout_run(parked: Bench, message: Draft | Run) -> None:
    parked.tick(5)
    parked.send(message)
    assert not steps(parked.step(50))
    assert parked.session.deadline() == parked.now + 5


def test_an_ack_does_not_end_the_timeout_run(parked: Bench) -> None:
    """It says that the client reads, not that anybody drafts: else such a session would crawl from pause to pause."""
    parked.tick(5)
    parked.send(Ack(3, 1))
    assert steps(parked.step(50)) == [()]


def test_a_run_of_the_edge_s_own_is_not_ended_by_its_drafts(parked: Bench) -> None:
    parked.tick(5)
    parked.send(Run(3, FOREVER))
    parked.draft(NEXT, 11, 12)
    outputs = parked.step(11)
    assert verdict(outputs).reason is Reason.TIMEOUT, "the step under way was the timeout's"
    assert steps(outputs) == [(12,)]
    assert verdict(parked.step(12, 13, verified=1, accepted=1)).reason is Reason.RUN


def test_a_session_that_is_stepping_has_no_deadline() -> None:
    assert Bench().session.deadline() is None


@pytest.mark.parametrize("field", ["park_timeout_s", "stall_timeout_s"])
def test_timeouts_must_be_positive(field: str) -> None:
    with pytest.raises(ValueError, match="positive"):
        SessionLimits(**{field: 0})


# Flow control.


def stalled() -> Bench:
    """In free run, MAX_UNACKED + 1 verdicts unacknowledged."""
    bench = Bench(max_tokens=10_000)
    for _ in range(MAX_UNACKED):
        assert steps(bench.step(10)) == [()]
    assert not steps(bench.step(10))
    return bench


def test_a_session_with_too_many_unacknowledged_messages_parks_after_its_step() -> None:
    bench = stalled()
    assert bench.send(Run(3, FOREVER)) == []
    assert bench.draft(BASE + MAX_UNACKED + 1, 10, verify=BASE + MAX_UNACKED + 1) == [], "neither run nor wish moves it"


def test_events_count_as_unacknowledged_too() -> None:
    bench = Bench(max_tokens=10_000)
    for n in range(MAX_UNACKED // 2):
        assert steps(bench.step(10)) == [()]
        bench.session.payload(Payload(b"{}", n + 1))
    assert not steps(bench.step(10))


def test_one_ack_gets_it_going_again() -> None:
    bench = stalled()
    assert steps(bench.send(Ack(3, 1))) == [()]
    assert not steps(bench.step(10))
    assert bench.session.deadline() == bench.now + 60


def test_old_acks_do_not_count_twice_nor_take_back_newer_ones() -> None:
    bench = stalled()
    assert steps(bench.send(Ack(3, 10))) == [()]
    bench.send(Ack(3, 2))
    for _ in range(9):
        assert steps(bench.step(10)) == [()]
    assert not steps(bench.step(10))


def test_an_ack_of_what_was_never_sent_is_refused(parked: Bench) -> None:
    with pytest.raises(OutOfState, match="ack of 2, but only 1"):
        parked.send(Ack(3, 2))


def test_a_stall_that_lasts_ends_the_session_whatever_the_edge_says_in_between() -> None:
    bench = stalled()
    assert bench.tick(59) == []
    bench.send(Run(3, FOREVER))  # heard, but nothing was taken
    assert bench.session.deadline() == bench.now + 1
    abort, fault = bench.tick(1)
    assert isinstance(abort, Abort)
    assert isinstance(fault, Failed)
    assert f"limits {MAX_UNACKED} and" in msgspec.json.decode(fault.body)["error"]["message"]
    assert bench.session.ended


def test_a_stall_that_ends_in_time_starts_its_clock_anew() -> None:
    bench = stalled()
    bench.tick(59)
    bench.send(Ack(3, 1))
    bench.step(10)  # stalled again
    assert bench.tick(59) == []
    assert not bench.session.ended
