"""`python -m bench.proving [--quick] [--cell WORKLOAD/SCENARIO/METHOD] [--out DIR]`: all cells, as JSONL.

Without `--out`, rows go to standard output. With it, DIR/rows.jsonl and DIR/manifest.json (seeds, versions, settings).
A part of `--cell` may be empty: `//ours` is ours in all scenarios and workloads. With `--traces DIR` the workload is
`live`: what an agent recorded there (`pipesd-agent start --trace DIR`).
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

from bench.proving.methods import schedules, triggers
from bench.proving.methods.cells import QUICK, Budget, Workload, names, run_all
from bench.proving.simulator.scenario import LONG, NARROW, PAPER, SCENARIOS, SWEEP, VARYING_SEED, Scenario
from bench.proving.traces.all_tables import MADE, MADE_SEED, made_up, tables
from bench.proving.traces.filled import live_table
from bench.proving.traces.recorded import TABLES
from bench.proving.traces.stochastic import FITTED
from bench.proving.traces.table import Table

PACKAGES = ("msgspec", "numpy", "scikit-optimize", "scikit-learn", "pipesd-agent", "pipesd-gateway")
"""That the rows may depend on."""
GIT_S = 10.0


def manifest(budget: Budget, workloads: list[Table], seconds: float) -> dict[str, Any]:
    """What is needed to get the same rows again."""
    return {
        "command": ["python", "-m", "bench.proving", *sys.argv[1:]],
        "seconds": round(seconds, 1),
        "commit": commit(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "budget": asdict(budget),
        "workloads": {table.name: [len(trace.tokens) for trace in table.traces] for table in workloads},
        "seeds": {MADE: MADE_SEED, "varying link": VARYING_SEED},
        "made-up text": asdict(FITTED),
        "scenarios": {scenario.name: _short(scenario) for scenario in (*SCENARIOS, *SWEEP)},
        "tpt": "from the request until the last token is at the edge, over output tokens, the target's own included",
    }


def commit() -> str:
    """Of the working tree, `-dirty` where it has changes besides; `unknown` outside a repository."""
    command = ["git", "-C", str(TABLES), "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=GIT_S).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _short(scenario: Scenario) -> dict[str, Any]:
    fields = asdict(scenario)
    for link in ("up", "down"):
        fields[link]["steps"] = [round(step) for step in fields[link]["steps"][:3]]
    return fields


def choose(what: str, have: list[str], wanted: str) -> list[str]:
    if wanted and wanted not in have:
        raise SystemExit(f"--cell: there is no {what} {wanted!r}; there are {', '.join(have)}")
    return [wanted] if wanted else have


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="made-up workload, scenarios 1-4 and three more, few trials"
    )
    parser.add_argument("--cell", default="//", metavar="WORKLOAD/SCENARIO/METHOD")
    parser.add_argument("--traces", type=Path, metavar="DIR", help="instead of the workloads: traces of a live agent")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    began = time.monotonic()
    budget = QUICK if args.quick else Budget()
    known: dict[str, float] = {}
    if args.traces:
        try:
            table, share = live_table(args.traces)
        except ValueError as error:
            raise SystemExit(f"--traces: {error}") from error
        all_tables, known = [table], {"known": share}
        print(f"{len(table.traces)} traces; the drafter is known at {share:.0%} of the positions", file=sys.stderr)
    else:
        all_tables = [made_up()] if args.quick else tables()
    scenarios = (*PAPER, NARROW[0], LONG[1], SCENARIOS[-1]) if args.quick else (*SCENARIOS, *SWEEP)
    parts = args.cell.split("/")
    if len(parts) != 3:
        raise SystemExit(f"--cell wants WORKLOAD/SCENARIO/METHOD, with parts left empty for all, but got {args.cell!r}")
    workload_names = choose("workload", [table.name for table in all_tables], parts[0])
    scenario_names = choose("scenario", [scenario.name for scenario in scenarios], parts[1])
    methods = choose("method", [*names(), schedules.NAME, *triggers.names()], parts[2]) if parts[2] else None
    with ExitStack() as stack:
        rows = sys.stdout
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            rows = stack.enter_context((args.out / "rows.jsonl").open("w"))
        for table in all_tables:
            if table.name not in workload_names:
                continue
            workload = Workload.of(table, budget)
            wanted = [scenario for scenario in scenarios if scenario.name in scenario_names]
            if table.name != MADE:
                wanted = [scenario for scenario in wanted if scenario not in SWEEP]
            found = run_all(workload, wanted, budget, methods)
            if table.name in schedules.WORKLOADS and parts[2] in ("", schedules.NAME):
                links = [link for link in schedules.LINKS if parts[1] in ("", link.name)]
                found = chain(found, schedules.rows(table.name, workload.report, links))
            for row in found:
                print(json.dumps(row | known), file=rows, flush=True)
        if not (args.quick or args.traces):

            def chosen(workload: str, scenario: str, method: str) -> bool:
                asked = workload in workload_names and scenario in scenario_names
                return asked and (methods is None or method in methods)

            for row in triggers.run_all(chosen):
                print(json.dumps(row), file=rows, flush=True)
        if args.out:
            text = json.dumps(manifest(budget, all_tables, time.monotonic() - began), indent=1)
            (args.out / "manifest.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
