"""The two optimizers of the tuner's searches, on recorded text: `python -m bench.proving.reports.optimizers`.

A case is RECORDED_DRAFTS drafts of a recorded table in a row, and what things cost in a scenario, with a price for a
NAV. Every position of an answer is one judged draft, so that the search gets what an agent would have recorded. Both
begin with the same grid and may ask for equally many pairs more; each is judged by the search's own objective, beside
the best of a dense grid. `--tuner` plays the whole tuner with either instead, as `bench.proving.regret` does. `--page`
puts the table into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from bench.markdown import markdown
from bench.page import between
from bench.proving.methods.defaults import DEMO
from bench.proving.methods.regret import BUDGET, PRICE_MS, Ground, Setting, tuned
from bench.proving.reports.report import PAGE
from bench.proving.simulator.scenario import FAST_EDGE, LAPTOP, PAPER, Scenario
from bench.proving.simulator.script import Script
from bench.proving.traces.recorded import TEMPERATURES, recorded
from bench.proving.traces.table import Table
from pipesd_agent.session.settings import SessionSettings
from pipesd_agent.tuning.optimizers.choice import MAKERS, OptimizerName
from pipesd_agent.tuning.recorder import KEPT_DISCARDED
from pipesd_agent.tuning.replay import Judged, Pair, PipelineCosts
from pipesd_agent.tuning.search import ASKS, GRID, SearchResult, SearchTask, search, to_pair
from pipesd_agent.tuning.tuner import RECORDED_DRAFTS

PART: Final = "optimizers"
TUNER_PART: Final = "optimizers of the tuner"
SEEDS: Final = 5
"""Of the whole tuner."""
SCENARIOS: Final = (LAPTOP, PAPER[1], PAPER[2], FAST_EDGE, DEMO)
PRICES_MS: Final = (0.0, 20.0, 200.0)
PIECES: Final = 2
"""Of each table."""
MANY: Final = 16
"""Pairs after the grid, instead of ASKS."""
SIDE: Final = 24
DENSE: Final = tuple(to_pair((x / (SIDE - 1), y / (SIDE - 1))) for x in range(SIDE) for y in range(SIDE))
WINDOW: Final = SessionSettings().window
NAMES: Final[tuple[OptimizerName, OptimizerName]] = ("bayes", "search")


@dataclass(frozen=True)
class Case:
    """A text and what things cost."""

    table: str
    scenario: str
    price_ms: float
    task: SearchTask


@dataclass(frozen=True)
class Outcome:
    """Of one case with so many asks. found: the objective of the best pair, by optimizer; cpu_s: of its study. grid:
    of the best pair of the grid that both begin with. dense: of the best pair of the dense grid."""

    case: Case
    asks: int
    found: dict[str, float]
    cpu_s: dict[str, float]
    grid: float
    dense: float


def judged(table: Table) -> Iterator[Judged]:
    """All answers of a table, position by position, as an agent records them."""
    for script in map(Script, table.traces):
        for at, right in enumerate(script.right):
            token = script.draft(at, at)
            if token is None:
                continue
            beyond = (script.draft(at, at + more) for more in range(1, KEPT_DISCARDED + 1)) if not right else ()
            yield Judged(token.confidence, right, tuple(one.confidence for one in beyond if one is not None))


def costs(scenario: Scenario) -> PipelineCosts:
    """As a monitor would measure them."""
    rate = scenario.up.at(0)
    step_s = scenario.queue_s + scenario.forward.base_s
    message_s = 8 * (scenario.overhead_up + 12) / rate
    return PipelineCosts(scenario.draft_s, 2 * scenario.delay_s, step_s, scenario.forward.row_s, message_s, 16 / rate)


def cases(tables: Iterable[Table], scenarios: Sequence[Scenario] = SCENARIOS, pieces: int = PIECES) -> Iterator[Case]:
    """Every table's pieces with everything that costs may be."""
    for table in tables:
        text = tuple(judged(table))
        for piece in range(pieces):
            begin = piece * max(0, len(text) - RECORDED_DRAFTS) // max(1, pieces - 1)
            part = text[begin : begin + RECORDED_DRAFTS]
            for scenario in scenarios:
                for price_ms in PRICES_MS:
                    task = SearchTask(part, costs(scenario), WINDOW, "planned", price_ms / 1000, (), {}, piece)
                    yield Case(table.name, scenario.name, price_ms, task)


def least(studied: SearchResult, pairs: Iterable[Pair] | None = None) -> float:
    """The objective of the best pair."""
    return min(statistics.fmean(studied.replayed[pair]) for pair in pairs or studied.replayed)


def outcomes(case: Case, asks: Sequence[int] = (ASKS, MANY)) -> Iterator[Outcome]:
    """Both optimizers on one case."""
    task = case.task
    everywhere = search(
        SearchTask(
            task.text, task.costs, task.window, task.upload, task.verification_cost_s, (*GRID, *DENSE), {}, task.seed
        ),
        MAKERS["search"](task.seed),
        0,
    )
    for some in asks:
        found: dict[str, float] = {}
        cpu_s: dict[str, float] = {}
        for name in NAMES:
            optimizer = MAKERS[name](task.seed)
            began = time.thread_time()
            found[name] = least(search(task, optimizer, some))
            cpu_s[name] = time.thread_time() - began
        yield Outcome(case, some, found, cpu_s, least(everywhere, GRID), least(everywhere, DENSE))


def section(done: Sequence[Outcome]) -> str:
    """The table: all cases, then by recorded text, then by scenario."""
    groups: dict[str, Callable[[Outcome], bool]] = {"all": lambda _: True}
    for table in dict.fromkeys(one.case.table for one in done):
        groups[table] = lambda one, table=table: one.case.table == table  # type: ignore[misc]
    for scenario in dict.fromkeys(one.case.scenario for one in done):
        groups[scenario] = lambda one, scenario=scenario: one.case.scenario == scenario  # type: ignore[misc]
    lines = []
    for group, belongs in groups.items():
        for asks in dict.fromkeys(one.asks for one in done):
            some = [one for one in done if one.asks == asks and belongs(one)]
            over = [one.found["search"] / one.found["bayes"] - 1 for one in some]
            line = [group, f"{len(GRID)} + {asks}", str(len(some))]
            line += [_percent(value) for value in (statistics.median(over), max(over), min(over))]
            for name in NAMES:
                line.append(_spread([one.found[name] / one.dense - 1 for one in some]))
            line.append(_spread([one.grid / one.dense - 1 for one in some]))
            line += [f"{1000 * statistics.median(one.cpu_s[name] for one in some):.0f}" for name in NAMES]
            lines.append(line)
    head = ["cases", "pairs looked at", "n", "search over bayes: median", "worst", "best"]
    head += ["bayes over the dense grid", "search over it", "the 15 alone over it", "CPU ms: bayes", "search"]
    return markdown(head, lines, left=2)


def whole(some: Iterable[Setting], seeds: int = SEEDS, tokens: int = BUDGET) -> str:
    """The table of the whole tuner: regret of the pair settled for after so many tokens, and of all that was spent."""
    lines = []
    for setting in some:
        ground = Ground(setting)
        line = [f"{setting.table.name}, {setting.scenario.name}, {setting.price_ms:g} ms a NAV"]
        for name in NAMES:
            curves = [tuned(ground, seed, tokens, MAKERS[name])[0] for seed in range(seeds)]
            line += [_spread([curve.simple[-1] for curve in curves])]
            line += [_spread([curve.cumulative[-1] for curve in curves])]
        lines.append(line)
        print(line[0], file=sys.stderr, flush=True)
    head = [f"after {tokens:,} tokens", "bayes: regret", "all it cost", "search: regret", "all it cost"]
    return markdown(head, lines)


def _percent(value: float) -> str:
    return f"{round(100 * value, 1) + 0.0:.1f} %"  # no "-0.0"


def _spread(values: Sequence[float]) -> str:
    """Median and worst."""
    return f"{_percent(statistics.median(values))} ({_percent(max(values))})"


def tell(text: str, part: str, page: bool) -> None:
    """To the page, or to the terminal."""
    if page:
        PAGE.write_text(between(PAGE.read_text("utf-8"), part, text), encoding="utf-8")
    else:
        print(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one piece of one table, two scenarios")
    parser.add_argument("--tuner", action="store_true", help="play the whole tuner with either")
    parser.add_argument("--page", action="store_true", help=f"into {PAGE.name}, instead of to the terminal")
    args = parser.parse_args()
    tables = [recorded(workload, temperature) for workload in ("humaneval", "chat") for temperature in TEMPERATURES]
    if args.tuner:
        settings = [Setting(table, LAPTOP, PRICE_MS) for table in tables] + [Setting(tables[1], FAST_EDGE, PRICE_MS)]
        tell(whole(settings[:1], 2) if args.quick else whole(settings), TUNER_PART, args.page)
        return
    some = cases(tables[:1], SCENARIOS[:2], 1) if args.quick else cases(tables)
    MAKERS["bayes"](0)  # what it imports is no part of a study
    began = time.monotonic()
    done: list[Outcome] = []
    for number, case in enumerate(some, 1):
        done += outcomes(case)
        print(f"\r{number} cases, {time.monotonic() - began:.0f} s", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    tell(section(done), PART, args.page)


if __name__ == "__main__":
    main()
