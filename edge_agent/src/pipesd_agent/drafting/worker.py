"""The drafting thread: it drafts lanes' paths on, while the event loop corrects them (architecture §4, §6).

The event loop changes a path in `commit`, under the lock; the thread appends to it, under the lock, after a forward.
Before each forward the thread brings up what the drafter has (`lane_path`), so there is no queue of commands.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from msgspec.structs import replace

from pipesd_agent.drafting.abort_cost import AbortCost
from pipesd_agent.drafting.drafter import AnswerForm, Drafter, DraftToken, NoDraft
from pipesd_agent.drafting.lane_path import CommitEffect, LanePath, PathEdit
from pipesd_core.sampling.params import SamplingParams

log = logging.getLogger(__name__)

IDLE_WAIT_S: Final = 5.0
"""Longest sleep of an idle thread; it is woken by every commit, so this only guards against a lost wake-up."""
JOIN_S: Final = 10.0
"""Longest wait for the thread to end."""

OnToken = Callable[[int, DraftToken | None], None]
OnFailure = Callable[[Exception], None]


class DraftLane:
    """The lane of one session. Made by `DraftWorker.open`; its methods belong to the event loop's thread.

    Attributes, all of them the worker's, under its lock:
        slot: number of the lane at the drafter.
        recomputes: a forward of its last token was aborted, so that the next one computes that as well.
    """

    def __init__(
        self,
        worker: DraftWorker,
        slot: int,
        path: LanePath,
        params: SamplingParams,
        form: AnswerForm | None,
        on_token: OnToken,
        on_failure: OnFailure,
    ) -> None:
        self.slot = slot
        self.path = path
        self.params = params
        self.form = form
        self.on_token = on_token
        self.on_failure = on_failure
        self.closed = False
        self.recomputes = False
        self._worker = worker

    def commit(self, tokens: Sequence[int], limit: int) -> int | None:
        """Apply the next tokens that the target decided (possibly none, to move only the limit).

        Args:
            limit: first absolute position that must not be drafted.

        Returns: the running number of this commit (1, 2, ...). A token that is reported with a number n was drafted
        from a path that agrees with the first n commits. None: one of the tokens is outside the drafter's vocabulary;
        the lane is closed.
        """
        return self._worker.commit(self, tokens, limit)

    def close(self) -> None:
        """Close the lane: nothing is reported after this call. Harmless when already closed."""
        self._worker.close(self)


Report = tuple[DraftLane, int, DraftToken | None]
"""A lane, its number of commits, and a draft; None: nothing to propose."""


class DraftWorker:
    """Runs a drafter on a thread of its own. One per agent; all methods belong to the event loop's thread.

    Args:
        on_broken: called with `broken` when the drafter broke.

    Attributes:
        broken: the error that ended the drafter; None: it drafts.
    """

    def __init__(self, drafter: Drafter, on_broken: Callable[[str], None] = lambda _: None) -> None:
        self.capacity = drafter.capacity
        self.max_context = drafter.max_context
        self.fingerprint = drafter.fingerprint
        self.broken: str | None = None
        self._n_vocab = drafter.n_vocab
        self._drafter = drafter
        self._on_broken = on_broken
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = threading.Condition(threading.Lock())
        # Under the lock:
        self._lanes: list[DraftLane | None] = [None] * self.capacity
        self._forward: list[int] = []
        """Slots with a share in the forward under way."""
        self._forward_of_one = False
        """Whether the last token of one path is all that it computes."""
        self._forward_began = 0.0
        self._abort_cost = AbortCost()
        self._work = False
        self._stopping = False
        # The thread only:
        self._held: list[DraftLane | None] = [None] * self.capacity
        """The lane that the drafter has in each slot."""
        self._thread = threading.Thread(target=self._run, name="drafter", daemon=True)
        self._thread.start()

    @property
    def fault(self) -> str | None:
        """Why nothing is drafted any more, though nobody closed the worker; None: it drafts."""
        if self.broken is None and not self._thread.is_alive() and not self._stopping:
            return "its thread ended"
        return self.broken

    @property
    def lanes_free(self) -> int:
        """Sessions that could be drafted for now, besides those that are."""
        with self._changed:
            return self._lanes.count(None)

    def open(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        eos_ids: frozenset[int],
        on_token: OnToken,
        on_failure: OnFailure,
        form: AnswerForm | None = None,
    ) -> DraftLane | None:
        """Open a lane for a session; its prefill starts now, drafting with the first `DraftLane.commit`.

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
            if not self._in_vocabulary(prompt_ids):
                return None
            slot = self._lanes.index(None)
            lane = DraftLane(self, slot, LanePath(prompt_ids, eos_ids), params, form, on_token, on_failure)
            self._lanes[slot] = lane
            self._wake()
            return lane

    def commit(self, lane: DraftLane, tokens: Sequence[int], limit: int) -> int | None:
        """See `DraftLane.commit`."""
        with self._changed:
            if not self._in_vocabulary(tokens):
                self._close(lane)
                return None
            effect = lane.path.commit(tokens, limit)
            if effect is CommitEffect.CONTRADICTED:
                self._stop_forward_of(lane.slot)
            elif effect is CommitEffect.EXTENDED and self._should_abort_forward_of(lane.slot):
                lane.recomputes = True
                self._stop_forward_of(lane.slot)
            self._wake()
            return lane.path.commits

    def close(self, lane: DraftLane) -> None:
        """See `DraftLane.close`."""
        with self._changed:
            self._close(lane)

    async def aclose(self) -> None:
        """Stop the thread and free the drafter; waits `JOIN_S` at most. Harmless when already closed."""
        with self._changed:
            self._stopping = True
            for lane in self._lanes:
                if lane:
                    lane.closed = True
            self._lanes = [None] * self.capacity
            self._stop_forward()
            self._wake()
        await asyncio.to_thread(self._thread.join, JOIN_S)
        if self._thread.is_alive():
            log.error("the drafter did not stop within %g s; its memory is freed when it does", JOIN_S)

    # Called with the lock held.

    def _close(self, lane: DraftLane) -> None:
        if lane.closed:
            return
        lane.closed = True
        if self._lanes[lane.slot] is lane:
            self._lanes[lane.slot] = None
            self._stop_forward_of(lane.slot)
            self._wake()

    def _in_vocabulary(self, ids: Sequence[int]) -> bool:
        """Whether the drafter can have these ids in a path. Any other would be the end of it, for all lanes."""
        return self._n_vocab is None or not ids or max(ids) < self._n_vocab

    def _wake(self) -> None:
        self._work = True
        self._changed.notify()

    def _stop_forward_of(self, slot: int) -> None:
        """Abort the forward under way if no other lane has a share in it: a stale one is not worth its time."""
        if self._forward == [slot]:
            self._stop_forward()

    def _should_abort_forward_of(self, slot: int) -> bool:
        """Whether a forward is under way for a token that has just been decided, and worth aborting.

        One that computes more is never aborted for that: a target that writes by itself would abort one after the
        other, and the drafter would never catch up. The one after an abort computes more.
        """
        lone = self._forward_of_one and self._forward == [slot]
        return lone and self._abort_cost.should_abort(time.perf_counter() - self._forward_began)

    def _stop_forward(self) -> None:
        try:
            self._drafter.stop()
        except Exception as error:  # on the event loop's thread, which has others to serve
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """End drafting, because the drafter broke: sessions that draft with it go on without."""
        if self.broken is None:
            self.broken = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        self._stopping = True
        self._changed.notify()
        lanes = [lane for lane in self._lanes if lane]
        self._lanes = [None] * self.capacity
        if lanes:
            self._post(self._deliver_failure, lanes, error)

    # On the drafting thread.

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
            if self.broken is not None and self._loop is not None:
                self._post(self._on_broken, self.broken)
            elif self.broken is not None:
                self._on_broken(self.broken)

    def _turn(self) -> bool:
        """Sleep until there may be work, then do one forward. False: the end."""
        with self._changed:
            while not (self._work or self._stopping):
                self._changed.wait(IDLE_WAIT_S)
            if self._stopping:
                return False
            self._work = False
            lanes = list(self._lanes)
            edits = [lane.path.edit(self.max_context) if lane else None for lane in lanes]
            within = {slot: lane.path for slot, lane in enumerate(lanes) if lane and len(lane.path) < self.max_context}
            drafting = {slot: path.version for slot, path in within.items() if path.wants_draft}
        for slot, (lane, edit) in enumerate(zip(lanes, edits, strict=True)):
            self._bring_up(slot, lane, edit)
        feeding = [slot for slot in within if slot not in drafting and self._drafter.behind(slot)]
        if not drafting and not feeding:
            return True
        # A forward that feeds more than a last id says nothing of how long a token takes.
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
                self._record_time(lanes[self._forward[0]], drafts[0], of_one=of_one)
            self._forward = []
            reports = [
                report
                for (slot, version), draft in zip(drafting.items(), drafts, strict=True)
                if (report := self._take(lanes[slot], version, draft, seconds))
            ]
        if reports:
            self._post(self._deliver, reports)
        return True

    def _bring_up(self, slot: int, lane: DraftLane | None, edit: PathEdit | None) -> None:
        """Give the drafter the path that a slot's lane has now."""
        held = self._held[slot]
        if held is not lane and held is not None:
            self._drafter.close(slot)
            self._held[slot] = None
        if lane is None or edit is None:
            return
        if held is not lane:
            self._drafter.open(slot, edit.ids, lane.params)
            if lane.form is not None:
                self._drafter.constrain(slot, lane.form)
            self._held[slot] = lane
            return
        if edit.truncates:
            self._drafter.truncate(slot, edit.keep)
        if edit.ids:
            self._drafter.extend(slot, edit.ids)

    def _record_time(self, lane: DraftLane | None, draft: DraftToken | NoDraft, *, of_one: bool) -> None:
        """Record the time of a lone lane's forward, if it says what an abort costs. Under the lock."""
        assert lane is not None
        if draft is NoDraft.UNFINISHED:
            return
        if of_one or lane.recomputes:
            self._abort_cost.record(time.perf_counter() - self._forward_began, recomputed=lane.recomputes)

    def _take(self, lane: DraftLane | None, version: int, draft: DraftToken | NoDraft, seconds: float) -> Report | None:
        """Take over a forward's result for a lane; None: there is nothing to report. Under the lock."""
        assert lane is not None
        if draft is NoDraft.UNFINISHED:
            return None
        lane.recomputes = False
        path = lane.path
        if draft is NoDraft.NOTHING:
            current = path.set_exhausted(version)
            return (lane, path.commits, None) if current and not lane.closed else None
        assert isinstance(draft, DraftToken)
        if not path.add_draft(draft, version) or lane.closed:
            return None
        return lane, path.commits, replace(draft, seconds=seconds)

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
            if not lane.closed:
                lane.on_token(commits, token)

    def _deliver_failure(self, lanes: Sequence[DraftLane], error: Exception) -> None:
        for lane in lanes:
            if not lane.closed:
                lane.closed = True
                lane.on_failure(error)
