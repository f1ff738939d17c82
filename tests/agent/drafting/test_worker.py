"""The drafting thread, over a drafter that follows a script instead of a model."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from pipesd_agent.drafting.drafter import AnswerForm, DraftToken, NoDraft
from pipesd_agent.drafting.worker import DraftLane, DraftWorker
from pipesd_core.sampling.params import SamplingParams

Script = Callable[[Sequence[int]], int | None]

V = 7
EOS = 0
PARAMS = SamplingParams()


def unexpected(error: Exception) -> None:
    raise error


def scripted(path: Sequence[int]) -> int:
    """The fake drafter's next token: a function of the whole path, so that a wrong path shows."""
    return hash(tuple(path)) % (V - 1) + 1


def ends_at_times(path: Sequence[int]) -> int:
    return EOS if scripted(path) == 3 and len(path) % 2 else scripted(path)


def dries_up_at_times(path: Sequence[int]) -> int | None:
    return None if scripted(path) == 3 and len(path) % 2 else scripted(path)


class FakeDrafter:
    """A `Drafter` that checks how it is called; `chunk` ids are fed per call."""

    fingerprint = b"f" * 16

    def __init__(
        self, capacity: int = 2, max_context: int = 1000, script: Script = scripted, n_vocab: int | None = None
    ) -> None:
        self.n_vocab = n_vocab
        self.capacity = capacity
        self.max_context = max_context
        self.script = script
        self.chunk = 8
        self.delay_s = 0.0
        self.gate: threading.Semaphore | None = None  # a forward waits for one permit
        self.waiting = threading.Event()
        self.aborted = threading.Event()
        self.error: Exception | None = None
        self.paths: dict[int, list[int]] = {}
        self.forms: dict[int, AnswerForm] = {}
        self.fed: dict[int, int] = {}
        self.calls: list[tuple[list[int], list[int]]] = []
        self.extended: list[list[int]] = []
        self.stops = 0
        self.released = 0

    def open(self, lane: int, prompt_ids: Sequence[int], params: SamplingParams) -> None:
        assert params is PARAMS
        assert lane not in self.paths
        assert 0 < len(prompt_ids) <= self.max_context
        assert self.n_vocab is None or max(prompt_ids) < self.n_vocab
        self.paths[lane] = list(prompt_ids)
        self.fed[lane] = 0

    def constrain(self, lane: int, form: AnswerForm) -> None:
        assert self.fed[lane] == 0
        self.forms[lane] = form

    def close(self, lane: int) -> None:
        del self.paths[lane]

    def extend(self, lane: int, ids: Sequence[int]) -> None:
        assert ids
        self.extended.append(list(ids))
        assert self.n_vocab is None or max(ids) < self.n_vocab
        self.paths[lane].extend(ids)
        assert len(self.paths[lane]) <= self.max_context

    def truncate(self, lane: int, length: int) -> None:
        assert 1 <= length < len(self.paths[lane])
        del self.paths[lane][length:]
        self.fed[lane] = min(self.fed[lane], length)

    def behind(self, lane: int) -> bool:
        return self.fed[lane] < len(self.paths[lane]) - 1

    def draft(self, lanes: Sequence[int], feed: Sequence[int] = ()) -> list[DraftToken | NoDraft]:
        self.calls.append((list(lanes), list(feed)))
        self.aborted.clear()
        if self.error:
            raise self.error
        if self.gate:
            self.waiting.set()
            while not self.gate.acquire(timeout=0.002):
                if self.aborted.is_set():
                    return [NoDraft.UNFINISHED] * len(lanes)
        if self.delay_s and self.aborted.wait(self.delay_s):
            return [NoDraft.UNFINISHED] * len(lanes)
        for lane in feed:
            self._feed(lane)
        return [self._next(lane) for lane in lanes]

    def _feed(self, lane: int) -> bool:
        self.fed[lane] = min(len(self.paths[lane]), self.fed[lane] + self.chunk)
        return self.fed[lane] == len(self.paths[lane])

    def _next(self, lane: int) -> DraftToken | NoDraft:
        path = self.paths[lane]
        assert len(path) < self.max_context
        if not self._feed(lane):
            return NoDraft.UNFINISHED
        token = self.script(path)
        if token is None:
            return NoDraft.NOTHING
        path.append(token)
        return DraftToken(position=len(path) - 1, token=token, confidence=0.5)

    def stop(self) -> None:
        self.stops += 1
        self.aborted.set()

    def release(self) -> None:
        self.released += 1


class Session:
    """The other side of a lane: what it committed, and a model of what the path must be."""

    def __init__(self, worker: DraftWorker, prompt: Sequence[int], script: Script = scripted) -> None:
        self.script = script
        self.prompt = list(prompt)
        self.commits: list[tuple[list[int], int]] = []
        self.path = list(prompt)  # as of the first `applied` commits and the tokens reported since
        self.committed = len(self.path)
        self.applied = 0
        self.tokens: list[DraftToken] = []
        self.dry_at: list[int] = []
        self.failures: list[Exception] = []
        lane = worker.open(prompt, PARAMS, frozenset({EOS}), self.on_token, self.failures.append)
        assert isinstance(lane, DraftLane)
        self.lane = lane

    def commit(self, tokens: Sequence[int], limit: int) -> None:
        self.commits.append((list(tokens), limit))
        assert self.lane.commit(tokens, limit) == len(self.commits)

    def apply(self, n: int) -> None:
        while self.applied < n:
            for token in self.commits[self.applied][0]:
                if self.path[self.committed : self.committed + 1] != [token]:
                    self.path = [*self.path[: self.committed], token]
                self.committed += 1
            self.applied += 1

    def on_token(self, n: int, token: DraftToken | None) -> None:
        assert self.applied <= n <= len(self.commits)
        assert n > 0
        self.apply(n)
        if token is None:
            assert self.script(self.path) is None
            assert self.dry_at != self.path
            self.dry_at = list(self.path)
            return
        assert token.position == len(self.path) < self.commits[n - 1][1]
        assert len(self.path) == self.committed or self.path[-1] != EOS
        assert token.token == self.script(self.path)
        self.path.append(token.token)
        self.tokens.append(token)


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "what the test waits for did not come"
        await asyncio.sleep(0.002)


@pytest.fixture
def drafter() -> FakeDrafter:
    return FakeDrafter()


@pytest.fixture
async def worker(drafter: FakeDrafter) -> AsyncIterator[DraftWorker]:
    worker = DraftWorker(drafter)
    yield worker
    await worker.aclose()


async def test_prefills_at_open_but_drafts_nothing_before_the_first_commit(
    worker: DraftWorker, drafter: FakeDrafter
) -> None:
    session = Session(worker, [1] * 30)
    await until(lambda: drafter.fed.get(0, 0) >= 29)
    await asyncio.sleep(0.02)
    assert all(not lanes for lanes, _ in drafter.calls)
    assert session.tokens == []


async def test_drafts_up_to_the_limit_and_goes_on_when_it_moves(worker: DraftWorker) -> None:
    session = Session(worker, [1, 2, 3])
    session.commit([], 8)
    await until(lambda: len(session.tokens) == 5)
    session.commit([], 10)
    await until(lambda: len(session.tokens) == 7)
    await asyncio.sleep(0.02)
    assert [t.position for t in session.tokens] == list(range(3, 10))


async def test_agreeing_commit_loses_nothing(worker: DraftWorker, drafter: FakeDrafter) -> None:
    session = Session(worker, [1, 2, 3])
    session.commit([], 8)
    await until(lambda: len(session.tokens) == 5)
    session.commit(session.path[3:6], 9)
    await until(lambda: len(session.tokens) == 6)
    assert drafter.extended == []


async def test_contradiction_cuts_the_path(worker: DraftWorker, drafter: FakeDrafter) -> None:
    session = Session(worker, [1, 2, 3])
    session.commit([], 8)
    await until(lambda: len(session.tokens) == 5)
    other = session.path[4] % (V - 1) + 1
    session.commit([session.path[3], other], 8)
    await until(lambda: len(session.path) == 8 and session.applied == 2)
    assert drafter.extended == [[other]]


async def test_tokens_that_ran_ahead_are_fed_in_one_batch(worker: DraftWorker, drafter: FakeDrafter) -> None:
    session = Session(worker, [1, 2, 3])
    await until(lambda: drafter.fed.get(0, 0) > 0)
    session.commit([4, 5, 6, 1, 2], 10)
    await until(lambda: len(session.path) == 10)
    assert drafter.extended == [[4, 5, 6, 1, 2]]


async def test_a_forward_whose_token_is_decided_is_aborted_once(drafter: FakeDrafter) -> None:
    """And the next one, which does its work too, is not: a target that writes by itself would never let one end."""
    drafter.gate = threading.Semaphore(0)
    worker = DraftWorker(drafter)
    session = Session(worker, [1])
    session.commit([], 9)
    drafter.gate.release(2)
    await until(lambda: len(session.tokens) == 2 and drafter.waiting.is_set())
    await until(lambda: len(drafter.calls) == 3)
    worker._abort_cost.forward_s = 60.0  # the third is under way, and far from its end
    bonus = scripted(session.path)
    session.commit([*session.path[1:], bonus], 9)
    await until(lambda: len(drafter.calls) == 4)
    assert drafter.stops == 1
    session.commit([scripted([*session.path[:3], bonus])], 9)
    await asyncio.sleep(0.02)
    assert (drafter.stops, len(drafter.calls)) == (1, 4)
    drafter.gate.release(10)
    await until(lambda: len(session.path) == 9)
    assert worker._abort_cost.recompute_s is not None
    await worker.aclose()


async def test_a_prefill_goes_on_while_the_target_writes(drafter: FakeDrafter) -> None:
    drafter.gate = threading.Semaphore(0)
    worker = DraftWorker(drafter)
    worker._abort_cost.forward_s = 60.0
    session = Session(worker, [1] * 30)
    session.commit([], 40)
    await until(drafter.waiting.is_set)
    session.commit([2], 40)
    session.commit([3], 40)
    drafter.gate.release(60)
    await until(lambda: len(session.path) == 40)
    assert drafter.stops == 0
    await worker.aclose()


async def test_stops_behind_a_drafted_eos_until_it_is_contradicted(drafter: FakeDrafter) -> None:
    drafter.script = lambda path: EOS if len(path) == 5 else 1
    worker = DraftWorker(drafter)
    tokens: list[DraftToken] = []
    lane = worker.open([1, 2, 3], PARAMS, frozenset({EOS}), lambda _, t: tokens.append(t) if t else None, unexpected)
    assert lane
    lane.commit([], 20)
    await until(lambda: len(tokens) == 3)
    lane.commit([1], 21)
    await asyncio.sleep(0.02)
    assert [t.token for t in tokens] == [1, 1, EOS]
    lane.commit([1, 2], 10)
    await until(lambda: len(tokens) == 7)
    assert [t.position for t in tokens[3:]] == [6, 7, 8, 9]
    await worker.aclose()


async def test_drafts_nothing_behind_the_targets_eos(drafter: FakeDrafter) -> None:
    """The answer is over; but a prompt may well end in one."""
    worker = DraftWorker(drafter)
    tokens: list[DraftToken] = []
    lane = worker.open([1, 2, EOS], PARAMS, frozenset({EOS}), lambda _, t: tokens.append(t) if t else None, unexpected)
    assert lane
    lane.commit([], 5)
    await until(lambda: len(tokens) == 2)
    lane.commit([EOS], 20)
    await asyncio.sleep(0.02)
    assert len(tokens) == 2
    await worker.aclose()


async def test_nothing_to_propose_waits_for_another_path_without_spinning(drafter: FakeDrafter) -> None:
    drafter.script = script = lambda path: None if len(path) < 6 else scripted(path)
    worker = DraftWorker(drafter)
    session = Session(worker, [1, 2, 3], script)
    session.commit([], 8)
    await until(lambda: session.dry_at == [1, 2, 3])
    session.commit([], 8)
    await asyncio.sleep(0.05)
    assert len(drafter.calls) <= 2
    session.commit([2], 8)
    await until(lambda: session.dry_at == [1, 2, 3, 2])
    session.commit([2, 2], 8)
    await until(lambda: len(session.tokens) == 2)
    await worker.aclose()


async def test_idle_worker_does_not_spin(worker: DraftWorker, drafter: FakeDrafter) -> None:
    session = Session(worker, [1, 2, 3])
    session.commit([], 5)
    await until(lambda: len(session.tokens) == 2)
    await asyncio.sleep(0.01)
    before, calls = time.thread_time(), len(drafter.calls)
    cpu = time.process_time()
    await asyncio.sleep(0.2)
    assert len(drafter.calls) == calls
    assert time.process_time() - cpu - (time.thread_time() - before) < 0.05


async def test_nothing_is_drafted_past_the_drafters_context() -> None:
    drafter = FakeDrafter(max_context=10)
    worker = DraftWorker(drafter)
    session = Session(worker, [1] * 6)
    session.commit([], 100)
    await until(lambda: len(session.tokens) == 4)
    session.commit([*session.path[6:], 1, 2, 3, 4], 100)  # the target goes on past the drafter's context
    await asyncio.sleep(0.02)
    assert len(session.tokens) == 4
    assert worker.open([1] * 10, PARAMS, frozenset(), lambda *_: None, unexpected) is None
    assert worker.open([1] * 9, PARAMS, frozenset(), lambda *_: None, unexpected) is not None
    await worker.aclose()


async def test_an_id_outside_the_drafters_vocabulary_closes_its_lane_alone() -> None:
    worker = DraftWorker(FakeDrafter(n_vocab=V))
    assert worker.open([1, V], PARAMS, frozenset(), lambda *_: None, unexpected) is None
    one, two = Session(worker, [1, 2]), Session(worker, [V - 1])
    one.commit([], 40)
    two.commit([], 40)
    await until(lambda: len(one.tokens) > 2 and len(two.tokens) > 2)
    seen = len(two.tokens)
    assert two.lane.commit([1, V, 2], 40) is None
    two.lane.close()
    three = Session(worker, [3])  # in the lane that has become free
    three.commit([V - 1], 30)
    await until(lambda: len(one.path) == 40 and len(three.path) == 30)
    assert len(two.tokens) == seen
    assert [s.failures for s in (one, two, three)] == [[], [], []]
    await worker.aclose()


async def test_without_a_limit_any_id_is_drafted_from(worker: DraftWorker) -> None:
    session = Session(worker, [2**31 - 1])
    session.commit([2**31 - 1], 5)
    await until(lambda: len(session.path) == 5)


async def test_capacity_and_reuse_of_a_closed_lane(worker: DraftWorker) -> None:
    first, second = Session(worker, [1, 2]), Session(worker, [3, 4])
    assert worker.open([5], PARAMS, frozenset(), lambda *_: None, unexpected) is None
    first.lane.close()
    first.lane.close()
    third = Session(worker, [5, 6])
    third.commit([], 6)
    second.commit([], 6)
    await until(lambda: len(third.tokens) == 4 and len(second.tokens) == 4)
    assert first.lane.commit([1], 9) == 1
    await asyncio.sleep(0.02)
    assert first.tokens == []


async def test_nothing_is_reported_after_close(worker: DraftWorker, drafter: FakeDrafter) -> None:
    drafter.gate = threading.Semaphore(0)
    session = Session(worker, [1])
    session.commit([], 50)
    await until(drafter.waiting.is_set)
    drafter.gate.release()
    time.sleep(0.05)  # noqa: ASYNC251 - on purpose: the report is posted while the loop is busy
    session.lane.close()
    await asyncio.sleep(0.05)
    assert session.tokens == []
    assert drafter.stops == 1


async def test_contradiction_aborts_the_forward_of_its_lane_alone(worker: DraftWorker, drafter: FakeDrafter) -> None:
    session = Session(worker, [1])
    session.commit([], 4)
    await until(lambda: len(session.tokens) == 3)
    drafter.gate = threading.Semaphore(0)
    session.commit([], 50)
    await until(drafter.waiting.is_set)
    session.commit([session.path[1]], 50)
    assert drafter.stops == 0
    session.commit([session.path[2] % (V - 1) + 1], 50)
    assert drafter.stops == 1
    drafter.gate.release(60)
    await until(lambda: len(session.path) == 50)


async def test_contradiction_leaves_a_shared_forward_alone(worker: DraftWorker, drafter: FakeDrafter) -> None:
    one, two = Session(worker, [1]), Session(worker, [2])
    one.commit([], 4)
    two.commit([], 4)
    await until(lambda: len(one.tokens) == len(two.tokens) == 3)
    drafter.gate = threading.Semaphore(0)
    one.commit([], 8)
    two.commit([], 8)
    await until(lambda: drafter.waiting.is_set() and len(drafter.calls[-1][0]) >= 1)
    drafter.gate.release()
    await until(lambda: drafter.calls[-1][0] == [0, 1])
    one.commit([one.path[1] % (V - 1) + 1], 8)
    assert drafter.stops == 0
    drafter.gate.release(60)
    await until(lambda: len(one.path) == len(two.path) == 8)


async def test_results_of_one_forward_are_posted_once(
    worker: DraftWorker, drafter: FakeDrafter, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    posted = []
    post = loop.call_soon_threadsafe

    def counted(callback: Callable[..., object], *args: object) -> asyncio.Handle:
        posted.append(args)
        return post(callback, *args)

    drafter.gate = threading.Semaphore(0)
    one, two = Session(worker, [1] * 4), Session(worker, [2] * 4)
    one.commit([], 8)
    two.commit([], 8)
    await until(drafter.waiting.is_set)
    monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
    drafter.gate.release(60)
    await until(lambda: len(one.tokens) == len(two.tokens) == 4)
    assert len(posted) <= 5  # the first forward may have had one lane


async def test_long_prefill_does_not_hold_up_another_lane(worker: DraftWorker, drafter: FakeDrafter) -> None:
    drafter.chunk = 4
    one = Session(worker, [1])
    one.commit([], 900)
    await until(lambda: len(one.tokens) > 2)
    two = Session(worker, [2] * 400)
    two.commit([], 402)
    await until(lambda: len(two.tokens) > 0)
    assert len(one.tokens) >= 90


async def test_broken_drafter_ends_every_lane_and_nothing_else(
    worker: DraftWorker, drafter: FakeDrafter, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = Session(worker, [1]), Session(worker, [2])
    drafter.error = RuntimeError("no more memory")
    one.commit([], 5)
    await until(lambda: one.failures != [] and two.failures != [])
    assert one.failures == [drafter.error]
    await until(lambda: "drafter broke" in caplog.text)
    assert one.lane.commit([1], 9) == 2
    one.lane.close()
    assert worker.open([1], PARAMS, frozenset(), lambda *_: None, unexpected) is None
    await until(lambda: drafter.released == 1)


class Breaking(FakeDrafter):
    """Breaks in one of its methods."""

    def __init__(self, method: str, error: Exception) -> None:
        super().__init__()

        def broken(*_: object) -> None:
            raise error

        setattr(self, method, broken)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("llama.cpp failed")])
@pytest.mark.parametrize("method", ["open", "behind", "draft", "extend", "truncate", "stop"])
async def test_wherever_it_breaks_its_lanes_are_told_and_it_says_so(method: str, error: Exception) -> None:
    drafter = Breaking(method, error)
    if method == "stop":
        drafter.gate = threading.Semaphore(0)  # a forward that a contradiction aborts
    told: list[str] = []
    worker = DraftWorker(drafter, told.append)
    failures: list[Exception] = []
    lane = worker.open([1, 2], PARAMS, frozenset(), lambda *_: None, failures.append)
    assert lane is not None
    lane.commit([], 9)
    if method == "stop":
        await until(drafter.waiting.is_set)
        lane.path._ids.append(3)  # as if drafted
        assert lane.commit([4], 9) == 2
        drafter.gate = None
        drafter.aborted.set()
    elif method in ("truncate", "extend"):
        await until(lambda: len(drafter.calls) > 1)
        lane.commit([EOS], 9)  # other than drafted
    await until(lambda: failures != [])
    assert failures == [error]
    assert worker.broken == ("MemoryError" if isinstance(error, MemoryError) else "RuntimeError: llama.cpp failed")
    assert worker.open([1], PARAMS, frozenset(), lambda *_: None, unexpected) is None
    await until(lambda: drafter.released == 1)
    await until(lambda: told != [])
    assert told == [worker.broken]
    await worker.aclose()


@pytest.mark.parametrize("method", ["stop", "release"])
async def test_a_drafter_that_breaks_at_its_end_is_no_bother(method: str, caplog: pytest.LogCaptureFixture) -> None:
    worker = DraftWorker(Breaking(method, MemoryError()))
    await worker.aclose()
    await worker.aclose()
    assert ("could not be released" in caplog.text) == (method == "release")


async def test_closing_the_worker_ends_the_thread_in_mid_forward(drafter: FakeDrafter) -> None:
    drafter.gate = threading.Semaphore(0)
    worker = DraftWorker(drafter)
    session = Session(worker, [1])
    session.commit([], 9)
    await until(drafter.waiting.is_set)
    await worker.aclose()
    await worker.aclose()
    assert not worker._thread.is_alive()
    assert drafter.released == 1
    assert session.tokens == []
    session.lane.close()
    assert worker.open([1], PARAMS, frozenset(), lambda *_: None, unexpected) is None


def test_loop_closed_without_aclose_ends_the_thread(drafter: FakeDrafter) -> None:
    drafter.gate = threading.Semaphore(0)
    workers: list[DraftWorker] = []

    async def abandon() -> None:
        workers.append(DraftWorker(drafter))
        Session(workers[0], [1]).commit([], 9)
        await until(drafter.waiting.is_set)

    asyncio.run(abandon())
    drafter.gate.release(60)
    workers[0]._thread.join(5)
    assert not workers[0]._thread.is_alive()


async def commit_at_random(worker: DraftWorker, rng: random.Random, script: Script) -> None:
    session = Session(worker, [rng.randrange(1, V) for _ in range(rng.randrange(1, 40))], script)
    truth = list(session.prompt)
    for _ in range(60):
        for _ in range(rng.randrange(3)):
            await asyncio.sleep(rng.choice([0, 0, 0.001]))
        ahead = session.path[len(truth) :] if session.path[: len(truth)] == truth else []
        tokens = ahead[: rng.randrange(len(ahead) + 1)]
        if rng.random() < 0.3:
            tokens += [rng.randrange(1, V) for _ in range(rng.randrange(4))]
        if len(truth) + len(tokens) > 360:
            break
        truth += tokens
        session.commit(tokens, len(truth) + rng.randrange(12))
    limit = len(truth) + 20  # beyond all limits so far, so there is something left to draft
    session.commit([], limit)
    await until(lambda: len(session.path) == limit or session.path[-1] == EOS or session.dry_at == session.path)
    if len(session.path) == limit:
        assert session.path[: len(truth)] == truth
        assert session.applied == len(session.commits)
    session.lane.close()


@pytest.mark.parametrize("seed", range(12))
async def test_random_commits_against_a_model_of_the_path(seed: int) -> None:
    """Right and wrong commits, far ahead and behind, in the middle of forwards; `Session.on_token` is the judge."""
    rng = random.Random(seed)
    script = rng.choice([scripted, ends_at_times, dries_up_at_times])
    drafter = FakeDrafter(3, 400, script)
    drafter.chunk = rng.choice([2, 8, 64])
    drafter.delay_s = rng.choice([0.0, 0.0002, 0.001])
    worker = DraftWorker(drafter)

    async def client() -> None:
        for _ in range(3):
            await commit_at_random(worker, rng, script)

    try:
        await asyncio.gather(*(client() for _ in range(3)))
    finally:
        await worker.aclose()
    assert drafter.released == 1


async def test_the_form_of_an_answer_reaches_the_drafter_with_its_lane(
    worker: DraftWorker, drafter: FakeDrafter
) -> None:
    form = AnswerForm({"type": "json_object"}, 2)
    for prompt, asked in (([1, 2], form), ([1, 2, 3], None)):
        assert worker.open(prompt, PARAMS, frozenset({EOS}), lambda *_: None, unexpected, asked)
    await until(lambda: len(drafter.paths) == 2)
    assert drafter.forms == {0: form}
