"""Which trigger and window should the agent start with? A grid of them, played.

    python -m bench.proving.methods.defaults

On the demo pair's tables, with the costs of the toy demo: 1 ms for a draft, 40 ms for a step of the target, the link
1 ms each way and nothing per byte. (Where drafts are dear, other settings are better: docs/benchmarks.md.)
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

from bench.link.model import Rate
from bench.proving.simulator.figures import Figures
from bench.proving.simulator.scenario import MBIT, Forward, Scenario
from bench.proving.simulator.script import Script
from bench.proving.simulator.simulation import Ours, Simulation
from bench.proving.traces.recorded import TEMPERATURES, recorded
from pipesd_agent.control.triggers import DualSettings
from pipesd_agent.session.settings import SessionSettings

LINK: Final = Rate((1e6 * MBIT,))
DEMO: Final = Scenario("demo", 0.001, up=LINK, down=LINK, delay_s=0.001, forward=Forward(0.04, 0.0))
ANSWERS: Final = 10
"""Of each table."""
WINDOWS: Final = (8, 16, 32)
R1: Final = (0.0, 0.1, 0.3, 0.65)
R2: Final = (0.0, 0.2, 0.4, 0.6)


def play(scripts: Sequence[Script], ours: Ours) -> Figures:
    total = Figures()
    for script in scripts:
        total.add(Simulation(script, ours, DEMO).run())
    return total


def line(figures: Figures) -> str:
    """Forwards, TPT in ms, rejected drafts and NAVs, per output token."""
    rejected = figures.sent - figures.accepted
    counts = (figures.forwards, rejected, figures.navs)
    forwards, rejected_share, navs = (count / figures.tokens for count in counts)
    return f"{forwards:9.3f} {figures.tpt_ms:7.1f} {rejected_share:7.2f} {navs:6.2f}"


def main() -> None:
    scripts = {
        temperature: [
            Script(trace)
            for workload in ("humaneval", "chat")
            for trace in recorded(workload, temperature).traces[:ANSWERS]
        ]
        for temperature in TEMPERATURES
    }
    print("per output token:         " + "".join(f"T = {t:g}: forwards  TPT ms  rejected  NAVs  " for t in scripts))
    for window, r2, r1 in itertools.product(WINDOWS, R2, R1):
        ours = Ours(DualSettings(r1=r1, r2=r2), SessionSettings(window=window))
        figures = "      ".join(line(play(some, ours)) for some in scripts.values())
        print(f"window {window:2}  r1 {r1:4.2f}  r2 {r2:4.2f}  {figures}", flush=True)


if __name__ == "__main__":
    main()
