"""The drafting thread: lanes whose paths the event loop corrects while the worker draws them out (architecture §4, §6).

A lane's path = prompt + committed + its own drafts. The event loop changes it in `commit`, under the lock; the worker
appends to it, under the lock, after a forward. What the drafter has of a path may lag behind; before each forward the
worker cuts and extends it to what the path has become in the meantime. So there is no queue of commands: however many
commits come during a forward, what is left of them is one cut and one extension.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from msgspec.structs import replace

from pipesd_agent.drafting.abort_cost import Redo
from pipesd_agent.drafting.drafter import Drafter, DraftToken, NoDraft
from pipesd_core.sampling.params import SamplingParams

log = logging.getLogger(__name__)

IDLE_WAIT_S: Final = 5.0
"""Longest sleep of an idle worker; it is woken by every commit, so this only guards against a lost wake-up."""
JOIN_S: Final = 10.0

OnToken = Callable[[int, DraftToken | None], None]
OnFailure = Callable[[Exception], None]


class DraftLane:
    """One session's path. Made by `DraftWorker.open`; its methods belong to the event loop's thread."""

    def __init__(
        self,
        worker: DraftWorker,
        slot: int,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        eos_ids: frozenset[int],
        on_token: OnToken,
        on_failure: OnFailure,
    ) -> None:
        self._worker = worker
        self._slot = slot
        self._params = params
        self._eos_ids = eos_ids
        self._on_token = on_token
        self._on_failure = on_failure
        self._closed = False
        self._begin = len(prompt_ids)
        # The rest is shared with the worker's thread, under its lock.
        self._path = list(prompt_ids)
        self._committed = len(self._path)
        self._limit = 0
        self._commits = 0
        self._version = 0  # of the path: a forward's token counts only if it is still the one it was drafted from
        self._nothing_at = -1  # version for which the drafter had nothing to propose
        self._shared = 0  # leading ids that the drafter's path has as well
        self._drafter_length = 0
        self._again = False  # a forward of its last token was aborted: the next one does that too

    def commit(self, tokens: Sequence[int], limit: int) -> int | None:
        """The target decided these next tokens (possibly none, to move only the limit).

        Args:
            limit: first absolute position that must not be drafted.

        Returns: the running number of this commit (1, 2, ...). A token that is reported with a number n was drafted
        from a path that agrees with the first n commits. None: one of the tokens is outside the drafter's vocabulary;
        the lane is closed.
        """
        worker = self._worker
        with worker._changed:
            if not worker._knows(tokens):
                self._close()
                return None
            self._commits += 1
            self._limit = limit
            path = self._path
            at, end = self._committed, self._committed + len(tokens)
            for token in tokens:
                if at == len(path) or path[at] != token:
                    break
                at += 1
            self._committed = end
            if at < end:
                contradicted = at < len(path)
                del path[at:]
                path.extend(tokens[at - end :])
                self._shared = min(self._shared, at)
                self._version += 1
                if contradicted:
                    worker._stop_forward_of(self._slot)
                elif worker._superfluous(self._slot):
                    self._again = True
                    worker._stop_forward_of(self._slot)
            worker._wake()
            return self._commits

    def close(self) -> None:
        """Nothing is reported after this call. Harmless when already closed."""
        with self._worker._changed:
            self._close()

    def _close(self) -> None:
        """Under the lock."""
        worker = self._worker
        if self._closed:
            return
        self._closed = True
        if worker._lanes[self._slot] is self:
            worker._lanes[self._slot] = None
            worker._stop_forward_of(self._slot)
            worker._wake()

    def _wants_draft(self) -> bool:
        path = self._path
        ended = len(path) > self._begin and path[-1] in self._eos_ids  # drafted, or the target's: the answer is over
        return len(path) < self._limit and not ended and self._nothing_at != self._version


Report = tuple[DraftLane, int, DraftToken | None]


class DraftWorker:
    """Runs a drafter on a thread of its own. One per agent; all methods belong to the event loop's thread."""

    def __init__(self, drafter: Drafter) -> None:
        self.capacity = drafter.capacity
        self.max_context = drafter.max_context
        self.fingerprint = drafter.fingerprint
        self.broken: str | None = None
        """What the drafter broke of; nothing is drafted any more then."""
        self._n_vocab = drafter.n_vocab
        self._drafter = drafter
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = threading.Condition(threading.Lock())
        # Under the lock:
        self._lanes: list[DraftLane | None] = [None] * self.capacity
        self._forward: list[int] = []
        self._forward_of_one = False  # is the last token of a path all that it computes?
        self._forward_began = 0.0
        self._redo = Redo()
        self._work = False
        self._stopping = False
        # The worker's thread only: which lane the drafter has in each slot.
        self._held: list[DraftLane | None] = [None] * self.capacity
        self._thread = threading.Thread(target=self._run, name="drafter", daemon=True)
        self._thread.start()

    @property
    def lanes_free(self) -> int:
        """Sessions that could be drafted for now."""
        with self._changed:
            return self._lanes.count(None)

    def open(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        eos_ids: frozenset[int],
        on_token: OnToken,
        on_failure: OnFailure,
    ) -> DraftLane | None:
        """A lane for a session; its prefill starts now, drafting with the first `DraftLane.commit`.

        on_token(n, token) is called on the event loop, in order of position, n as `DraftLane.commit` returned it. token
        None: the drafter has nothing to propose at the end of the path; once for each such path.
        on_failure is called when the drafter broke; the lane is then closed.

        Returns: None if this session cannot be drafted for: at capacity, prompt longer than the drafter's context or
        with an id outside its vocabulary, or the drafter broke before.
        """
        self._loop = asyncio.get_running_loop()
        with self._changed:
            if self._stopping or None not in self._lanes or not 0 < len(prompt_ids) < self.max_context:
                return None
            if not self._knows(prompt_ids):
                return None
            slot = self._lanes.index(None)
            lane = DraftLane(self, slot, prompt_ids, params, eos_ids, on_token, on_failure)
            self._lanes[slot] = lane
            self._wake()
            return lane

    async def aclose(self) -> None:
        """Stop the thread and free the drafter; waits `JOIN_S` at most. Harmless when already closed."""
        with self._changed:
            self._stopping = True
            for lane in self._lanes:
                if lane:
                    lane._closed = True
            self._lanes = [None] * self.capacity
            self._stop_forward()
            self._wake()
        await asyncio.to_thread(self._thread.join, JOIN_S)
        if self._thread.is_alive():
            log.error("the drafter did not stop within %g s; its memory is freed when it does", JOIN_S)

    # Called with the lock held.

    def _knows(self, ids: Sequence[int]) -> bool:
        """Can the drafter have these ids in a path? To give it others would be the end of it, for all lanes."""
        return self._n_vocab is None or not ids or max(ids) < self._n_vocab

    def _wake(self) -> None:
        self._work = True
        self._changed.notify()

    def _stop_forward_of(self, slot: int) -> None:
        """Abort the forward under way if no other lane has a share in it: a stale one is not worth its time."""
        if self._forward == [slot]:
            self._stop_forward()

    def _superfluous(self, slot: int) -> bool:
        """Is a forward under way for a token that has just been decided, and worth aborting?

        One that computes more is never aborted for that: a target that writes by itself would abort one after the
        other, and the drafter would never catch up. The one after an abort computes more.
        """
        lone = self._forward_of_one and self._forward == [slot]
        return lone and self._redo.worth(time.perf_counter() - self._forward_began)

    def _stop_forward(self) -> None:
        try:
            self._drafter.stop()
        except Exception as error:  # on the event loop's thread, which has others to serve
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """The drafter broke: whoever drafts with it goes on without, and nobody else begins."""
        if self.broken is None:
            self.broken = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        self._stopping = True
        self._changed.notify()
        lanes = [lane for lane in self._lanes if lane]
        self._lanes = [None] * self.capacity
        if lanes:
            self._post(self._deliver_failure, lanes, error)

    # On the worker's thread.

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except Exception as error:
            with self._changed:
                self._give_up(error)  # before the log, which may take memory that is not there
            log.exception("the drafter broke; sessions go on without it")
        finally:
            try:
                self._drafter.release()
            except Exception:
                log.exception("the drafter could not be released; its memory is lost until the agent ends")

    def _turn(self) -> bool:
        """Sleep until there may be work, then do one forward. False: the end."""
        with self._changed:
            while not (self._work or self._stopping):
                self._changed.wait(IDLE_WAIT_S)
            if self._stopping:
                return False
            self._work = False
            lanes = list(self._lanes)
            cuts = [self._cut(lane) if lane else None for lane in lanes]
            within = {slot: lane for slot, lane in enumerate(lanes) if lane and len(lane._path) < self.max_context}
            drafting = {slot: lane._version for slot, lane in within.items() if lane._wants_draft()}
        for slot, (lane, cut) in enumerate(zip(lanes, cuts, strict=True)):
            self._bring_up(slot, lane, cut)
        feeding = [slot for slot in within if slot not in drafting and self._drafter.behind(slot)]
        if not drafting and not feeding:
            return True
        # What feeds more than a last id says nothing of how long a token takes.
        measured = not feeding and not any(map(self._drafter.behind, drafting))
        of_one = len(drafting) == 1 and measured
        with self._changed:
            self._forward = [*drafting, *feeding]
            self._forward_of_one = of_one
            self._forward_began = began = time.perf_counter()
        drafts = self._drafter.draft(list(drafting), feeding)
        seconds = time.perf_counter() - began if measured else 0.0
        with self._changed:
            self._work = True
            if len(self._forward) == 1 and drafts:
                self._time(lanes[self._forward[0]], drafts[0], of_one=of_one)
            self._forward = []
            reports = [
                report
                for (slot, version), draft in zip(drafting.items(), drafts, strict=True)
                if (report := self._take(lanes[slot], version, draft, seconds))
            ]
        if reports:
            self._post(self._deliver, reports)
        return True

    def _time(self, lane: DraftLane | None, draft: DraftToken | NoDraft, *, of_one: bool) -> None:
        """Take the time of a lone lane's forward, if it says what an abort costs."""
        assert lane is not None
        if draft is NoDraft.UNFINISHED:
            return
        if of_one or lane._again:
            self._redo.took(time.perf_counter() - self._forward_began, again=lane._again)

    def _cut(self, lane: DraftLane) -> tuple[int, list[int], bool]:
        """What the drafter needs to have the lane's path: (length to keep, ids to append, is there more to cut)."""
        keep, dropped = lane._shared, lane._drafter_length > lane._shared
        ids = lane._path[keep : self.max_context]
        lane._shared = lane._drafter_length = keep + len(ids)
        return keep, ids, dropped

    def _bring_up(self, slot: int, lane: DraftLane | None, cut: tuple[int, list[int], bool] | None) -> None:
        held = self._held[slot]
        if held is not lane and held is not None:
            self._drafter.close(slot)
            self._held[slot] = None
        if lane is None or cut is None:
            return
        keep, ids, dropped = cut
        if held is not lane:
            self._drafter.open(slot, ids, lane._params)
            self._held[slot] = lane
            return
        if dropped:
            self._drafter.truncate(slot, keep)
        if ids:
            self._drafter.extend(slot, ids)

    def _take(self, lane: DraftLane | None, version: int, draft: DraftToken | NoDraft, seconds: float) -> Report | None:
        assert lane is not None
        if draft is NoDraft.UNFINISHED:
            return None
        lane._again = False
        current = not lane._closed and lane._version == version
        if draft is NoDraft.NOTHING:
            lane._nothing_at = version
            return (lane, lane._commits, None) if current else None
        assert isinstance(draft, DraftToken)
        lane._drafter_length += 1
        if not current or draft.position >= lane._limit:
            return None  # what the drafter has too much is cut before its next forward
        lane._path.append(draft.token)
        lane._version += 1
        lane._shared += 1
        return lane, lane._commits, replace(draft, seconds=seconds)

    def _post(self, callback: Callable[..., None], *args: object) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            # The loop was closed without `aclose`: there is nobody left to draft for.
            self._stopping = True

    # Back on the event loop.

    def _deliver(self, reports: Sequence[Report]) -> None:
        for lane, commits, token in reports:
            if not lane._closed:
                lane._on_token(commits, token)

    def _deliver_failure(self, lanes: Sequence[DraftLane], error: Exception) -> None:
        for lane in lanes:
            if not lane._closed:
                lane._closed = True
                lane._on_failure(error)
