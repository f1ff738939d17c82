"""The tuners of one agent: greedy and sampled answers have other confidences, so each its own (architecture §6)."""

from __future__ import annotations

from collections.abc import Callable

from pipesd_agent.tuning.recorder import DraftRecorder
from pipesd_agent.tuning.replay import Pair, PipelineCosts, UploadStrategy
from pipesd_agent.tuning.search import Proposer
from pipesd_agent.tuning.store import ThresholdStore, store_key
from pipesd_agent.tuning.thresholds import Thresholds, TunedTrigger
from pipesd_agent.tuning.tuner import Tuner, TunerFigures


class Tuners:
    """To be driven, all on the event loop and none of it waits but `save`:

    - `thresholds` for each session's trigger, and `recorder(trigger)` for its observer;
    - `costs(...)` whenever the monitor has new ones, once a second, say; nothing is tuned before the first;
    - `gateway(...)` when the link is up, also to another one;
    - `moved(...)` when the monitor says that conditions have;
    - `save()` now and then (in a thread: it may write a file), and at the end, then `close()`.

    Args:
        first: thresholds to begin with where none are kept.
        proposer: makes one, `Background(WorkerProcess(...)).proposer`: each tuner has its own, over one process.
        window: `SessionSettings.window`. upload: what the sessions' batcher does.
        verification_cost_ms: of a verification; 0: latency is all that counts.
        kept, draft: the store of thresholds, and the drafter's name there.
    """

    def __init__(
        self,
        first: Pair,
        proposer: Callable[[], Proposer],
        *,
        window: int,
        upload: UploadStrategy,
        verification_cost_ms: float,
        kept: ThresholdStore | None,
        draft: str = "",
    ) -> None:
        self._verification_cost_ms = verification_cost_ms
        self._kept = kept
        self._draft = draft
        self._gateway: str | None = None
        self._proposers = {sampled: proposer() for sampled in (False, True)}
        self._tuners = {
            sampled: Tuner(
                first,
                self._proposers[sampled],
                window=window,
                upload=upload,
                verification_cost_s=verification_cost_ms / 1000,
            )
            for sampled in (False, True)
        }

    @property
    def thresholds(self) -> Thresholds:
        """The thresholds that a session's trigger begins with; its recorder replaces them where answers are sampled."""
        return self._tuners[False].thresholds

    def recorder(self, trigger: TunedTrigger) -> DraftRecorder:
        """The observer of a new session with this trigger."""
        return DraftRecorder(self._tuners, trigger)

    def costs(self, costs: PipelineCosts) -> None:
        for tuner in self._tuners.values():
            tuner.costs(costs)

    def gateway(self, address: str) -> None:
        """The link is up, to this one. The first time, or where it is another one than before: begin with what was good
        there."""
        before, self._gateway = self._gateway, address
        if address == before:
            return
        for sampled, tuner in self._tuners.items():
            pair = self._kept.get(self._key(sampled)) if self._kept else None
            if pair is not None:
                tuner.begin_with(pair)
            if before is not None:
                tuner.moved(f"the gateway is {address}")

    def moved(self, why: str, *, text: bool = False, sampled: bool | None = None) -> None:
        """text: acceptance is another. sampled: of which answers; None: of all."""
        for which, tuner in self._tuners.items():
            if sampled is None or which == sampled:
                tuner.moved(why, text=text)

    def save(self) -> None:
        """Keep what is good."""
        if self._kept is None or self._gateway is None:
            return
        for sampled, tuner in self._tuners.items():
            if (pair := tuner.good) is not None:
                self._kept.put(self._key(sampled), pair)

    def close(self) -> None:
        """End all searches; no more are begun."""
        for proposer in self._proposers.values():
            proposer.close()

    @property
    def state(self) -> tuple[int, ...]:
        """Another one whenever thresholds in force have changed."""
        return tuple(tuner.thresholds.version for tuner in self._tuners.values())

    def figures(self) -> dict[str, TunerFigures]:
        """By kind of text: "greedy", "sampled"."""
        return {"sampled" if sampled else "greedy": tuner.figures() for sampled, tuner in self._tuners.items()}

    def _key(self, sampled: bool) -> str:
        return store_key(self._draft, self._gateway or "", self._verification_cost_ms, sampled=sampled)
