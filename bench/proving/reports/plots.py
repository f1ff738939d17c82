"""The figures of docs/benchmarks.md, as SVG files that are the same bytes whenever the numbers are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bench.proving.methods.baselines import AUTHORS_SYSTEM, LEAN_SYSTEM, Play, System
from bench.proving.methods.calibration import DIAGNOSTIC_MS, METHODS, SWEEP_MS, measured
from bench.proving.methods.fixed import FIXED
from bench.proving.methods.frontier import families, frontier, spots
from bench.proving.reports.sections import Rows
from bench.proving.simulator.scenario import AUTHORS, FAST_EDGE, LAPTOP, PAPER, Scenario
from bench.proving.simulator.script import Script
from bench.proving.simulator.simulation import Simulation
from bench.proving.simulator.timeline import Lane, Timeline
from bench.proving.traces.all_tables import MADE

STYLE: Final[Any] = {
    "svg.hashsalt": "pipesd",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "legend.frameon": False,
}
COLOURS: Final = {
    "Vanilla": "#8c8c8c",
    "HSL": "#b8860b",
    "EdgeLLM": "#6a51a3",
    "PipeSD": "#c0392b",
    "ours": "#1f6fb2",
    "cloud-only": "#2e8b57",
}
LANES: Final[tuple[Lane, ...]] = ("drafting", "sending", "verifying")
USEFUL, USELESS, EVALUATION = "#1f6fb2", "#e08a7d", "#b5b5b5"
SENT, VERIFIED = "#b8860b", "#2e8b57"
LEAST_S: Final = 0.002
"""What is shorter is drawn as long as this: token ids are on the wire for some 30 µs."""


def draw_all(rows: Rows, scripts: Sequence[Script], folder: Path) -> None:
    """Write all of them. scripts: the made-up answers that are reported."""
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the reader has in a matplotlibrc
        matplotlib.rcParams.update(STYLE)
        for name, figure in (
            ("tpt", bars(rows)),
            ("frontier", frontiers(scripts)),
            ("sweep", sweep(rows)),
            ("timeline", timelines(scripts[0])),
        ):
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")


def bars(rows: Rows) -> Figure:
    """TPT of some methods in all scenarios of the made-up workload; none where a method is over its cap."""
    shown = {
        "pipesd+payload": ("PipeSD as published", "#e6a59d"),
        "pipesd": ("PipeSD, token ids only", COLOURS["PipeSD"]),
        "ours-forwards": ("ours, no more forwards than PipeSD's NAVs", COLOURS["ours"]),
        "clairvoyant": ("clairvoyant bound", "#c9c9c9"),
        "cloud-only": ("cloud-only", COLOURS["cloud-only"]),
    }
    scenarios = [name for name in rows.scenarios(MADE) if "@" not in name]
    figure = Figure(figsize=(10, 3.6))
    axes = figure.subplots()
    width = 0.8 / len(shown)
    for place, (method, (label, colour)) in enumerate(shown.items()):
        points = [
            (x + (place - (len(shown) - 1) / 2) * width, row["tpt_ms"])
            for x, name in enumerate(scenarios)
            if (row := rows.cells.get((MADE, name, method), {})) and row.get("within_cap", True)
        ]
        axes.bar([x for x, _ in points], [tpt for _, tpt in points], width, color=colour, label=label)
    axes.set_xticks(range(len(scenarios)), scenarios, rotation=20)
    axes.set_yscale("log")
    axes.set_yticks([5, 10, 20, 50, 100, 200], ["5", "10", "20", "50", "100", "200"])
    axes.set_ylabel("TPT, ms (log)")
    axes.grid(visible=False, axis="x")
    axes.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def frontiers(scripts: Sequence[Script]) -> Figure:
    """TPT against NAVs per token over each family's thresholds, token ids only."""
    scenarios = (*PAPER[:3], FAST_EDGE)
    figure = Figure(figsize=(10, 3.4))
    for axes, scenario in zip(figure.subplots(1, len(scenarios)), scenarios, strict=True):
        for name, settings in families().items():
            found = list(spots(settings, scripts, scenario))
            _line(axes, frontier(found), COLOURS[name], "-", name)
            if name == "ours":
                _line(axes, frontier(found, by_forwards=True), COLOURS[name], ":", "ours, by forwards per token")
        axes.set_title(scenario.name, fontsize=9)
        axes.set_xlabel("NAVs per token")
        axes.set_xlim(0, 0.42)
        axes.set_ylim(0.9 * axes.get_ylim()[0], min(axes.get_ylim()[1], 3 * axes.get_ylim()[0]))
    figure.axes[0].set_ylabel("TPT, ms")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=len(labels), loc="lower center", bbox_to_anchor=(0.5, 0.96))
    figure.tight_layout()
    return figure


def _line(axes: Axes, points: Sequence[tuple[float, float]], colour: str, style: str, label: str) -> None:
    axes.plot(*zip(*points, strict=True), style, color=colour, label=label, linewidth=1.4, marker=".", markersize=4)


def sweep(rows: Rows) -> Figure:
    """The paper's figure 5: left the models beside the authors' points, right the same uplinks with token ids only."""
    figure = Figure(figsize=(10, 3.4))
    left, right = figure.subplots(1, 2)
    labels = {"vanilla": "Vanilla", "hsl": "HSL", "edgellm": "EdgeLLM", "pipesd": "PipeSD"}
    papers = dict(sorted({20: DIAGNOSTIC_MS, **SWEEP_MS}.items()))
    for name, label in labels.items():
        model = [measured(METHODS[name], AUTHORS[0].uplink(mbit)).tpt_ms for mbit in papers]
        left.plot(list(papers), model, "-", color=COLOURS[label], label=label)
        left.plot(list(papers), [four[name] for four in papers.values()], "o", color=COLOURS[label], markersize=4)
    left.set_title("290,308 bytes per drafted token: models (lines), authors (points)", fontsize=9)
    places = {10: "1-laptop@10", 20: LAPTOP.name, 40: "1-laptop@40", 80: "1-laptop@80"}
    for label, method in (
        ("Vanilla", "vanilla-6"),
        ("HSL", "hsl"),
        ("EdgeLLM", "edgellm"),
        ("PipeSD", "pipesd"),
        ("ours", "ours-forwards"),
        ("cloud-only", "cloud-only"),
    ):
        points = [(mbit, tpt) for mbit, name in places.items() if (tpt := rows.tpt(MADE, name, method)) is not None]
        right.plot(*zip(*points, strict=True), ".-", color=COLOURS[label], label=label)
    right.set_title("the same methods with token ids only, and ours", fontsize=9)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xticks([10, 20, 40, 80], ["10", "20", "40", "80"])
        axes.set_xticks([], minor=True)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("uplink, Mbit/s")
        axes.set_ylabel("TPT, ms")
        axes.legend()
    figure.tight_layout()
    return figure


FROM_S: Final = 4.0
SECONDS: Final = 2.0


def timelines(script: Script) -> Figure:
    """Two seconds of the same answer in scenario 1: PipeSD as published, with token ids only, and ours."""
    figure = Figure(figsize=(10, 5.2))
    panels = figure.subplots(3, 1)
    for axes, (title, timeline) in zip(panels, timelines_of(script, LAPTOP).items(), strict=True):
        _gantt(axes, timeline, FROM_S, FROM_S + SECONDS)
        axes.set_title(title, fontsize=9, loc="left")
    panels[-1].set_xlabel("seconds since the request (the same stretch of time, not of text)")
    legend = {
        "drafted: the right token": USEFUL,
        "drafted: wrong, or after a wrong one": USELESS,
        "evaluated only": EVALUATION,
        "sent (number of tokens)": SENT,
        "verified (number of drafts)": VERIFIED,
    }
    handles = [Patch(color=colour, label=label) for label, colour in legend.items()]
    figure.legend(handles=handles, ncols=len(legend), loc="lower center", bbox_to_anchor=(0.5, 0.97))
    figure.tight_layout()
    return figure


def timelines_of(script: Script, scenario: Scenario) -> dict[str, Timeline]:
    """By title."""

    def published(system: System) -> Timeline:
        timeline = Timeline()
        Play(script, METHODS["pipesd"], scenario, system, timeline=timeline).run()
        return timeline

    ours = Timeline()
    Simulation(script, FIXED, scenario, timeline=ours).run()
    return {
        "PipeSD as published (290,308 bytes per drafted token)": published(AUTHORS_SYSTEM),
        "PipeSD, token ids only": published(LEAN_SYSTEM),
        "ours": ours,
    }


def _gantt(axes: Axes, timeline: Timeline, begin: float, end: float) -> None:
    colours = {"sending": SENT, "verifying": VERIFIED}
    for span in timeline.within(begin, end):
        height = len(LANES) - LANES.index(span.lane)
        drafted = EVALUATION if not span.tokens else USEFUL if span.useful else USELESS
        colour = drafted if span.lane == "drafting" else colours[span.lane]
        length = max(span.end - span.begin, LEAST_S)
        edge = 0.4 if length > LEAST_S else 0.0
        axes.barh(height, length, 0.62, span.begin, color=colour, edgecolor="white", linewidth=edge)
        middle = span.begin + length / 2
        if span.lane != "drafting" and span.tokens and begin < middle < end:
            inside = length > 0.03
            axes.text(
                middle,
                height if inside else height + 0.33,
                str(span.tokens),
                ha="center",
                va="center" if inside else "bottom",
                fontsize=6,
                color="white" if inside else "black",
            )
    axes.set_yticks(range(len(LANES), 0, -1), LANES)
    axes.set_xlim(begin, end)
    axes.set_ylim(0.4, len(LANES) + 0.8)
    axes.grid(visible=False, axis="y")
