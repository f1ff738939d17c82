"""The automatic mode in real time: `python -m bench.proving.real.modes [--answers N]`, four points of its grid.

The real gateway, agent and link emulator, as in `real`, play the same answers cloud-only, collaborative and `auto`, the
last by an agent that starts without any knowledge. Floors are slept; both ends have the prompts in their caches.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bench.markdown import markdown
from bench.proving.real.asking import Question, questions
from bench.proving.real.cells import CLOUD, SLOW_STEP, STEP_S, emulated
from bench.proving.real.stack import gateway, stack
from bench.proving.simulator.figures import Figures
from bench.proving.simulator.scenario import FAST_EDGE, LAPTOP, LONG, NARROW, Scenario
from bench.proving.simulator.simulation import Ours

FREE: Final = Ours()
METHODS: Final = {"cloud-only": CLOUD, "collaborative": FREE, "auto": FREE}
POINTS: Final = (
    emulated(LAPTOP),
    emulated(FAST_EDGE, SLOW_STEP),
    replace(emulated(NARROW[2], SLOW_STEP), draft_s=FAST_EDGE.draft_s),
    replace(emulated(LONG[1], SLOW_STEP), draft_s=FAST_EDGE.draft_s),
)
"""A slow edge and a fast target; the reverse, over a fast link, over 100 kbit/s, and over a round trip of 300 ms."""


@dataclass(frozen=True)
class Measured:
    """By method: all answers, and those of the second half, when `auto` has learnt."""

    scenario: Scenario
    whole: dict[str, Figures]
    settled: dict[str, Figures]

    def row(self) -> list[str]:
        """Of `table`."""
        cells = [self.scenario.name, *(f"{self.whole[name].tpt_ms:.1f}" for name in METHODS)]
        for figures in (self.whole, self.settled):
            better = min(figures["cloud-only"].tpt_ms, figures["collaborative"].tpt_ms)
            cells.append(f"{100 * (figures['auto'].tpt_ms / better - 1):+.1f}")
        return cells


def play(folder: Path, gateway_url: str, scenario: Scenario, asked: Sequence[Question]) -> Measured:
    whole: dict[str, Figures] = {}
    settled: dict[str, Figures] = {}
    for name, ours in METHODS.items():
        whole[name], settled[name] = Figures(), Figures()
        with stack(folder, gateway_url, scenario, ours, auto=name == "auto") as parts:
            for number, question in enumerate(asked):
                if name != "auto":  # its warming would be learnt from
                    parts.ask(question.endpoint, question.warming)
                figures, tokens = parts.ask(question.endpoint, question.body)
                assert tokens == question.script.truth, f"{name} wrote another text"
                whole[name].add(figures)
                if number >= len(asked) // 2:
                    settled[name].add(figures)
    return Measured(scenario, whole, settled)


def play_all(folder: Path, answers: int) -> Iterator[Measured]:
    asked = questions("humaneval", 0, answers)
    for step_s in (STEP_S, SLOW_STEP):
        with gateway(folder, step_s) as url:
            for scenario in POINTS:
                if scenario.forward.base_s == step_s:
                    yield play(folder, url, scenario, asked)


def table(found: Sequence[Measured]) -> str:
    head = ["TPT, ms", *METHODS, "auto above the better, %", "second half, %"]
    return markdown(head, [measured.row() for measured in found])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=10, help="of 96 tokens (%(default)s)")
    answers = parser.parse_args().answers
    with tempfile.TemporaryDirectory(prefix="pipesd-real-") as folder:
        print(table(list(play_all(Path(folder), answers))))


if __name__ == "__main__":
    main()
