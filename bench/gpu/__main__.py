"""Run the checks of the vLLM plugin that need a GPU, on a machine that has one (docs/gpu_box.md).

    python -m bench.gpu --out DIR [--only PART] [--model PATH] [--bed]

With the Python that vLLM and the plugin are installed in. Writes DIR/report.json, DIR/summary.txt and the output of
each part. Exit code 1: a part has failed.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import msgspec

from bench.gpu.machine import Machine, machine
from bench.gpu.part import Outcome, Part, run, stop_running
from bench.gpu.parts import DEMO_TARGET, LIMIT_S, NAMES, VECTORS, parts
from bench.gpu.summary import succeeded, summary

CORES_OF_A_PART = 3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where everything is written")
    parser.add_argument("--only", choices=NAMES, action="append", metavar="PART", help=f"one of {', '.join(NAMES)}")
    parser.add_argument("--model", default=str(DEMO_TARGET), help="of the traffic: a folder (default: the demo target)")
    parser.add_argument("--vectors", type=Path, default=VECTORS, metavar="FILE", help="the kernels' launches")
    parser.add_argument("--limit", type=float, default=LIMIT_S, metavar="S", help="seconds for all parts together")
    parser.add_argument("--bed", action="store_true", help="try it without a GPU, on the test bed: times mean nothing")
    args = parser.parse_args()
    folder: Path = args.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    here = machine()
    chosen = parts(here.lacks, args.model, args.vectors.resolve(), bed=args.bed, only=args.only or NAMES)
    at_once = 1 if args.bed else max(1, here.cores // CORES_OF_A_PART)
    outcomes = carry_out(chosen, folder, time.monotonic() + args.limit, at_once, here)
    text = summary(here, outcomes)
    (folder / "summary.txt").write_text(text)
    print(text, end="")
    return 0 if succeeded(outcomes) else 1


def carry_out(chosen: Sequence[Part], folder: Path, until: float, at_once: int, here: Machine) -> list[Outcome]:
    """All parts: those that measure nothing beside each other, then the others one by one. The report is written anew
    after each."""
    found: dict[str, Outcome] = {}
    writing = Lock()

    def one(part: Part) -> None:
        outcome = run(part, folder, until - time.monotonic())
        with writing:
            found[part.name] = outcome
            outcomes = [found[other.name] for other in chosen if other.name in found]
            report = {"machine": here, "command": sys.argv, "parts": outcomes}
            beside = folder / "report.new"
            beside.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))
            beside.replace(folder / "report.json")
            print(f"{part.name}: {outcome.state}", flush=True)

    try:
        for alone in (False, True):
            pool = ThreadPoolExecutor(1 if alone else at_once)
            try:
                list(pool.map(one, [part for part in chosen if part.alone == alone]))
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
    except BaseException:  # Ctrl-C and SIGTERM too: no part goes on without us
        stop_running()
        raise
    return [found[part.name] for part in chosen]


if __name__ == "__main__":
    sys.exit(main())
