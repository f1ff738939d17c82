"""`python -m bench.proving.real [--repeats N] [--answers N] [--cell NAME] [--out DIR] [--page FILE]`: real time.

Plays cells of the proving ground with the real gateway, agent and link emulator, then the very same answers in virtual
time, and prints the ratios. Needs the demo pair's GGUF files (`make models`), and a machine that does nothing else.
Exit code 1: fewer than 6 cells agree within 5 %, or a text is not the table's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bench.proving.methods.contenders import Runner
from bench.proving.real.asking import WARMING_TOKENS, Question, questions
from bench.proving.real.cells import CELLS, CLOUD, PROBE, PROBING, Cell, Costs, costs_of
from bench.proving.real.report import Run, agreements, enough, page, table
from bench.proving.real.stack import Stack, gateway, stack
from bench.proving.simulator.figures import Figures
from bench.proving.simulator.scenario import Forward
from bench.proving.simulator.started import Started
from bench.proving.traces.live import read_all


def play(
    stack: Stack, cell: Cell, asked: Sequence[Question], costs: Costs, repeat: int, agents: tuple[Runner, Runner]
) -> Run:
    """All answers one after the other, in real time and then in virtual time. agents: with costs and without."""
    charged, uncharged = agents
    real, virtual, bare = Figures(), Figures(), Figures()
    same = True
    for question in asked:
        stack.ask(question.endpoint, question.warming)  # now: others of the same beginning would take its cache
        start = stack.now
        figures, tokens = stack.ask(question.endpoint, question.body)
        same = same and tokens == question.script.truth
        real.add(figures)
        virtual.add(charged(question.script, costs.charged(cell.scenario), start))
        bare.add(uncharged(question.script, cell.scenario, start))
    return Run(cell, repeat, real, virtual, bare, same)


def measure(gateway_url: str, folder: Path, step_s: float, count: int) -> Costs:
    """What the real parts need beyond the floors."""
    scenario = replace(PROBE.scenario, forward=Forward(step_s, 0.0))
    asked = questions(PROBE.workload, PROBE.temperature, count)
    short, long = Figures(), Figures()
    with stack(folder, gateway_url, scenario, CLOUD) as parts:
        for question in asked:
            parts.ask(question.endpoint, question.warming)
            short.add(parts.ask(question.endpoint, question.warming)[0])
            long.add(parts.ask(question.endpoint, question.body)[0])
    traces = folder / "traces"
    with stack(folder, gateway_url, scenario, PROBING, traces) as parts:
        for question in asked:
            parts.ask(question.endpoint, question.warming)
            parts.ask(question.endpoint, question.body)
    whole = [trace for trace in read_all(traces) if len(trace.tokens) > WARMING_TOKENS]
    return costs_of(short, long, whole, scenario)


def play_all(cells: Sequence[Cell], repeats: int, count: int, folder: Path) -> Iterator[Costs | Run]:
    """The costs, then every run. Cells with the same target come together."""
    costs: Costs | None = None
    for step_s, group in itertools.groupby(sorted(cells, key=_step_s), _step_s):
        with gateway(folder, step_s) as url:
            if costs is None:
                costs = measure(url, folder, step_s, count)
                yield costs
            for cell in group:
                asked = questions(cell.workload, cell.temperature, count)
                with stack(folder, url, cell.scenario, cell.ours) as parts:
                    agents = Started(None, cell.ours, tuned=False), Started(None, cell.ours, tuned=False)
                    for repeat in range(repeats):
                        yield play(parts, cell, asked, costs, repeat, agents)


def _step_s(cell: Cell) -> float:
    return cell.scenario.forward.base_s


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--answers", type=int, default=4, help="of each cell (%(default)s)")
    parser.add_argument("--cell", choices=[cell.name for cell in CELLS], action="append", help="repeated; (all)")
    parser.add_argument("--out", type=Path, help="for rows.jsonl")
    parser.add_argument("--page", type=Path, help="Markdown file to write")
    args = parser.parse_args()
    cells = [cell for cell in CELLS if args.cell is None or cell.name in args.cell]
    began = time.monotonic()
    runs: list[Run] = []
    costs: Costs | None = None
    lines = []
    with tempfile.TemporaryDirectory(prefix="pipesd-real-") as folder:
        for result in play_all(cells, args.repeats, args.answers, Path(folder)):
            lines.append(json.dumps(result.row()))
            if isinstance(result, Costs):
                costs = result
                print(f"costs: {result.row()}", flush=True)
            else:
                runs.append(result)
                text = "" if result.same_text else ", ANOTHER TEXT"
                print(f"{result.cell.name} #{result.repeat}: {result.ratio:.3f}{text}", flush=True)
    assert costs is not None, "there is at least one cell"
    found = agreements(runs)
    print("\n".join(table(found)))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "rows.jsonl").write_text("\n".join(lines) + "\n")
    if args.page:
        facts = {
            "answers": args.answers,
            "command": " ".join(("python -m bench.proving.real", *sys.argv[1:])),
            "cores": os.cpu_count(),
            "minutes": (time.monotonic() - began) / 60,
            "load": os.getloadavg()[0],
        }
        args.page.write_text(page(found, costs, facts))
    return 0 if enough(found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
