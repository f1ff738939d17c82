"""The step of the race: how long the target takes for one forward pass, its own time or an emulated one.

The target's own is taken where drafting wins with it on this machine, with the number of drafts that is best then. Else
every pass is made to last as long as one of a larger target would, by waiting.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Final

import numpy as np

from examples.demo.pair import Pair
from pipesd_core.llamacpp.runtime.rows import padded

if TYPE_CHECKING:
    from pipesd_core.llamacpp.binding import Model

LEAST_GAIN: Final = 1.05
OVERHEAD_MS: Final = 4.0
"""What a pass through the agent takes beside the target: both programs, HTTP and link, on this machine."""
MEASURING_S: Final = 1.5
LEAST_REPEATS: Final = 2
MOST_REPEATS: Final = 9
CONTEXT: Final = 64
"""Tokens before the rows that are measured."""


@dataclass(frozen=True)
class Step:
    """The step that was chosen, and why, in one line.

    floor_ms: how long an emulated one lasts; None: it is the target's own. drafts: how many go into one pass, at most;
    None: as the agent finds best. pass_ms: how long a pass is expected to take.
    """

    floor_ms: float | None
    drafts: int | None
    why: str
    pass_ms: float


def rows_of(drafts: int) -> int:
    """Rows of a pass with so many drafts, as the gateway computes it: never fewer than two."""
    return padded([1 + drafts])[0]


def choose(
    times_ms: Mapping[int, float], accepted: Mapping[int, float], emulated_ms: float, draft_ms: float = 0.0
) -> Step:
    """Choose the step.

    Args:
        times_ms: of a pass by its rows, with those of `rows_of` 0 and of each number in `accepted`.
        accepted: output tokens for each pass by its drafts.
        emulated_ms: what an emulated step takes at least.
        draft_ms: what drafting one token takes.
    """
    alone = times_ms[rows_of(0)]

    def gain(drafts: int) -> float:
        taken = times_ms[rows_of(drafts)] + drafts * draft_ms + OVERHEAD_MS
        return alone * accepted[drafts] / taken

    best = max(accepted, key=gain)
    if gain(best) >= LEAST_GAIN:
        drafts = "1 draft" if best == 1 else f"{best} drafts"
        faster = f"with {drafts} in each, tokens should come {gain(best):.2f} times as fast"
        return Step(None, best, f"the target's own, {alone:.0f} ms a pass here; {faster}", alone)
    why = f"at its own {alone:.0f} ms drafting gains less than {100 * (LEAST_GAIN - 1):.0f} %"
    return emulated(emulated_ms, times_ms, why)


def emulated(least_ms: float, times_ms: Mapping[int, float], why: str) -> Step:
    """An emulated step, as long as every pass that was measured, in whole 10 ms."""
    floor_ms = max(least_ms, *(10.0 * math.ceil(time_ms / 10) for time_ms in times_ms.values()))
    return Step(floor_ms, None, f"EMULATED, {floor_ms:.0f} ms a target pass; {why}", floor_ms)


def step_for(pair: Pair, target: Model) -> Step:
    """Measure target and draft model for a moment, and choose."""
    if pair.accepted is None:
        return emulated(pair.emulated_step_ms, {1: 0.0}, "the toy target is faster than any link")
    times_ms = measure(target, sorted({rows_of(drafts) for drafts in (0, *pair.accepted)}))
    from pipesd_core.llamacpp.binding import Model

    with Model(pair.draft) as draft:
        draft_ms = measure(draft, [1])[1]
    return choose(times_ms, pair.accepted, pair.emulated_step_ms, draft_ms)


def measure(model: Model, rows: Sequence[int]) -> dict[int, float]:
    """Milliseconds of a pass by its rows: the median, within about `MEASURING_S`."""
    from pipesd_core.llamacpp.binding import Context

    with Context(model, n_ctx=2 * CONTEXT, n_seq=1, n_batch=CONTEXT) as context:
        ids = np.arange(1000, 1000 + CONTEXT, dtype=np.int32) % model.n_vocab
        positions = np.arange(2 * CONTEXT, dtype=np.int32)
        context.decode(ids, positions[:CONTEXT], 0, False)

        def decode(count: int) -> None:
            context.truncate(0, CONTEXT)
            context.decode(ids[:count], positions[CONTEXT : CONTEXT + count], 0, True)

        return timed(decode, rows)


def timed(decode: Callable[[int], object], rows: Sequence[int]) -> dict[int, float]:
    """Milliseconds of `decode` for each argument, each in turn so that a busy moment of the machine meets them all."""
    times: dict[int, list[float]] = {count: [] for count in rows}
    deadline = time.monotonic() + MEASURING_S
    for repeat in range(MOST_REPEATS):
        if repeat >= LEAST_REPEATS and time.monotonic() > deadline:
            break
        for count in rows:
            began = time.monotonic()
            decode(count)
            times[count].append(1000 * (time.monotonic() - began))
    return {count: median(values) for count, values in times.items()}
