"""Full CUDA graphs of an engine with the plugin: which were captured, and which steps are replayed by one.

The running engine is asked: the keys of its graphs, and what its dispatcher answers for each step. A step that has the
same number of tokens for all its requests, 1 (ordinary decoding, free runs) or 1 + K (sessions with all drafts of a
round), must be a full graph; other mixes are counted, and may be piecewise or none.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from msgspec import Struct

from bench.gpu.part import SKIPPED_CODE, write_figures

FULL: Final = "FULL"
STREAMS: Final = (1, 8, 32)
LENGTH: Final = 48


class Step(Struct, frozen=True):
    """What the runner asked for, and got. uniform: tokens of each request where all have as many, else None."""

    requests: int
    tokens: int
    uniform: int | None
    mode: str
    padded: int


class Traffic(Struct, frozen=True):
    """A kind of traffic, its steps, and the number of tokens a request that its uniform steps are to have."""

    name: str
    uniform: int
    steps: list[Step]


def dispatched(manager: Any, steps: list[Step]) -> Callable[..., Any]:
    """The manager's dispatcher, which also notes what it answers."""
    original = manager.dispatch

    def dispatch(num_reqs: int, num_tokens: int, uniform_token_count: int | None, *args: Any, **kwargs: Any) -> Any:
        found = original(num_reqs, num_tokens, uniform_token_count, *args, **kwargs)
        steps.append(Step(num_reqs, num_tokens, uniform_token_count, found.cg_mode.name, found.num_tokens))
        return found

    return dispatch


def captured(graphs: Iterable[Any]) -> dict[str, list[int]]:
    """Sizes in tokens of the full graphs, by their tokens a request."""
    sizes: dict[str, set[int]] = {}
    for graph in graphs:
        if graph.cg_mode.name == FULL:
            sizes.setdefault(str(graph.uniform_token_count), set()).add(graph.num_tokens)
    return {uniform: sorted(of_it) for uniform, of_it in sorted(sizes.items())}


def counted(traffic: Traffic) -> tuple[Counter[str], str]:
    """Steps by shape and mode, and a line that says them."""
    shapes: Counter[str] = Counter()
    for step in traffic.steps:
        shapes[f"{'mixed' if step.uniform is None else step.uniform} {step.mode}"] += 1
    return shapes, f"{traffic.name}: {', '.join(f'{n} steps {shape}' for shape, n in sorted(shapes.items()))}"


def shortcomings(sizes: dict[str, list[int]], most_drafts: int, all_traffic: Sequence[Traffic]) -> list[str]:
    """What is not as it should be."""
    wanted = (1, 1 + most_drafts)
    found = [f"no full graph for {uniform} tokens a request" for uniform in wanted if str(uniform) not in sizes]
    for traffic in all_traffic:
        uniform = [step for step in traffic.steps if step.uniform == traffic.uniform]
        largest = max(sizes.get(str(traffic.uniform), [0]))
        other = [step for step in uniform if step.mode != FULL and step.tokens <= largest]
        if not uniform:
            found.append(f"{traffic.name}: no step has {traffic.uniform} tokens for each request")
        if other:
            found.append(f"{traffic.name}: {len(other)} of {len(uniform)} uniform steps are no full graph: {other[0]}")
    return found


def run(llm: Any, runner: Any, most_drafts: int, streams: Sequence[int]) -> list[Traffic]:
    """Ordinary requests, then sessions whose drafts are all right, as many of each as `streams` says."""
    from in_process import PROMPTS, texts
    from scripted_edges import ScriptedEdge, drive
    from vllm.sampling_params import SamplingParams

    steps: list[Step] = []
    runner.cudagraph_manager.dispatch = dispatched(runner.cudagraph_manager, steps)
    rng = random.Random(11)
    # Two rounds with all drafts are in it, whatever the free run at the start has written.
    params = SamplingParams(temperature=0, max_tokens=LENGTH + 3 * most_drafts, ignore_eos=True)
    all_traffic = []
    for n in streams:
        prompts = [f"{number} {PROMPTS[number % len(PROMPTS)]}" for number in range(n)]
        steps.clear()
        answers = texts(llm, prompts, [params] * n)
        all_traffic.append(Traffic(f"{n} ordinary", 1, list(steps)))
        edges = [
            ScriptedEdge(llm, f"{n}/{number}", prompt, params, answer, rng, 0.0, (0,), (most_drafts,))
            for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
        ]
        steps.clear()
        drive(llm, edges, rng)
        all_traffic.append(Traffic(f"{n} sessions", 1 + most_drafts, list(steps)))
    return all_traffic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bed", action="store_true", help="no graphs are there: only count the steps")
    args = parser.parse_args()

    from in_process import core
    from in_process import runner as runner_of
    from scripted_edges import plugin_engine

    from pipesd_vllm.cli import DEFAULT_DRAFTS

    streams = STREAMS[:2] if args.bed else STREAMS
    llm = plugin_engine(DEFAULT_DRAFTS, enforce_eager=args.bed, max_num_seqs=32)
    runner = runner_of(llm)
    sizes = captured(runner.cudagraph_manager.graphs)
    all_traffic = run(llm, runner, DEFAULT_DRAFTS, streams)
    counts = [counted(traffic) for traffic in all_traffic]
    found = [] if args.bed else shortcomings(sizes, DEFAULT_DRAFTS, all_traffic)
    lines = [f"full graphs of {uniform} tokens a request: {', '.join(map(str, n))}" for uniform, n in sizes.items()]
    lines += [line for _, line in counts] + found
    steps = {traffic.name: shapes for traffic, (shapes, _) in zip(all_traffic, counts, strict=True)}
    write_figures({"captured": sizes, "steps": steps, "shortcomings": found, "lines": lines})
    loop = "asynchronous" if core(llm).async_scheduling else "synchronous"
    if args.bed:
        n = sum(len(traffic.steps) for traffic in all_traffic)
        print(f"the test bed has no CUDA graphs; {n} steps were counted, loop {loop}")
        sys.exit(SKIPPED_CODE)
    if found:
        sys.exit("; ".join(found))
    print(f"all uniform steps of 1 and of {1 + DEFAULT_DRAFTS} tokens a request are full graphs, loop {loop}")


if __name__ == "__main__":
    main()
