"""Tables of docs/benchmarks.md that need no run: the models beside the authors' figures, ours with fixed thresholds."""

from __future__ import annotations

from bench.markdown import markdown, ms
from bench.proving.methods.calibration import (
    DIAGNOSTIC_ROLLBACKS,
    DIAGNOSTIC_ROUNDS,
    diagnostic,
    sweep,
    table_1,
    table_6,
)
from bench.proving.methods.fixed import compare, lean, ours
from bench.proving.simulator.scenario import LONG, NARROW, PAPER
from bench.proving.traces.all_tables import recorded_with
from bench.proving.traces.recorded import figures
from bench.proving.traces.table import Table
from bench.proving.traces.workloads import REAL_KINDS


def calibrated() -> str:
    """Scenario 1 and the sweep: times, then rounds."""
    body = [
        [line.what, line.method, ms(line.figures.tpt_ms), f"{line.paper_ms:g}", f"{line.deviation:+.1%}"]
        for line in (*diagnostic(), *sweep())
    ]
    times = markdown(["", "method", "model, ms", "authors, ms", "deviation"], body, left=2)
    rounds = []
    for line in diagnostic():
        row = line.figures.row()
        pairs = zip(("navs_per_token", "mean_draft", "acceptance"), DIAGNOSTIC_ROUNDS[line.method], strict=True)
        cells = [f"{row[key]:.3f} ({theirs:g})" for key, theirs in pairs]
        rounds.append([line.method, *cells, f"{1 - row['full_accept']:.3f} ({DIAGNOSTIC_ROLLBACKS[line.method]:g})"])
    head = ["model (authors)", "NAVs per token", "mean draft", "acceptance", "rollback rate"]
    return times + "\n\n" + markdown(head, rounds)


def papers_tables() -> str:
    """Table 1 line by line, then table 6."""
    body = []
    for line in table_1():
        model, theirs = line.speedups or (0.0, 0.0)
        times = [ms(line.figures.tpt_ms), f"{line.paper_ms:g}", f"{line.deviation:+.1%}"]
        body.append([line.what.removeprefix("table 1, "), line.method, *times, f"{model:.2f}", f"{theirs:.2f}"])
    head = ["table 1", "method", "model, ms", "authors, ms", "deviation", "speed-up over Vanilla", "authors'"]
    ablated = [
        [line.method, ms(line.figures.tpt_ms), f"{line.paper_ms:g}", f"{line.deviation:+.1%}"] for line in table_6()
    ]
    return (
        markdown(head, body, left=2) + "\n\n" + markdown(["table 6", "model, ms", "authors, ms", "deviation"], ablated)
    )


def uplinks() -> str:
    """The paper's figure 5 as speed-ups of PipeSD, the model's beside the authors'."""
    lines = [*diagnostic(), *sweep()]
    body = []
    for what in dict.fromkeys(line.what for line in lines):
        four = {line.method: line for line in lines if line.what == what}
        whole = four["pipesd"]
        cells = [
            f"{four[name].figures.tpt_ms / whole.figures.tpt_ms:.2f} ({four[name].paper_ms / whole.paper_ms:.2f})"
            for name in four
            if name != "pipesd"
        ]
        body.append([what.replace("diagnostic", "uplink 20 Mbit/s"), *cells])
    body.sort(key=lambda line: float(line[0].split()[1]))
    return markdown(["PipeSD's speed-up (authors')", "over Vanilla", "over HSL", "over EdgeLLM"], body)


def fixed_thresholds() -> str:
    """Ours with fixed thresholds against PipeSD as published, and what bounds both."""
    body = []
    for scenario in PAPER:
        one = compare(scenario)
        mine, published = one.ours.row(), one.published.row()
        uplink = 8000 * published["bytes_up_per_token"] / scenario.up.at(0) if len(scenario.up.steps) == 1 else None
        body.append(
            [
                scenario.name,
                f"**{one.ratio:.2f}**",
                ms(one.ours.tpt_ms),
                ms(one.published.tpt_ms),
                f"{mine['navs_per_token']:.3f} / {mine['forwards_per_token']:.3f}",
                f"{published['navs_per_token']:.3f}",
                ms(uplink),
                ms(one.drafting_ms),
                ms(one.bound_ms),
                f"{one.ours.tpt_ms / one.bound_ms:.2f}",
                ms(one.lean.tpt_ms),
            ]
        )
    head = ["scenario", "ratio", "ours, ms", "published, ms", "our NAVs / forwards", "its NAVs", "its uplink, ms"]
    head += ["our drafting, ms", "clairvoyant, ms", "ours over it", "PipeSD with ids, ms"]
    return markdown(head, body)


def links() -> str:
    """The same fixed thresholds on narrow and on long links."""
    body = []
    for scenario in (*NARROW, *LONG):
        immediate, single, theirs = ours(scenario), ours(scenario, "single"), lean(scenario)
        free = (immediate.forwards - immediate.navs) / immediate.answers
        body.append(
            [
                scenario.name,
                *(ms(figures.tpt_ms) for figures in (immediate, single, theirs)),
                *(f"{figures.bytes_up / figures.tokens:.0f}" for figures in (immediate, single, theirs)),
                f"{2000 * scenario.delay_s:g}",
                f"{free:.0f} of {immediate.tokens / immediate.answers:.0f}",
                f"{immediate.navs / immediate.tokens:.3f} / {immediate.forwards / immediate.tokens:.3f}",
                f"{theirs.navs / theirs.tokens:.3f}",
            ]
        )
    head = ["", "immediate, ms", "single, ms", "PipeSD's DP, ms", "bytes up: immediate", "single", "DP", "trip, ms"]
    return markdown([*head, "tokens of free runs", "our NAVs / forwards", "PipeSD's NAVs"], body)


def kinds() -> str:
    """How often the real pair's draft is right, by temperature and kind of prompt."""
    body = []
    for table in recorded_with("real"):
        for kind in (*REAL_KINDS, ""):
            some = Table(table.name, tuple(trace for trace in table.traces if trace.name.startswith(kind)))
            found = figures(some)
            cells = [found["sequences"], found["tokens"], f"{found['acceptance']:.3f}", f"{found['run']:.2f}"]
            body.append([f"{table.name}, {kind or 'all'}", *map(str, cells)])
    return markdown(["workload, prompts", "answers", "tokens", "first draft right", "right drafts in a row"], body)
