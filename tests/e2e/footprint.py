"""What a process holds of the machine, over time, as Linux tells it."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

NAMES: Final = ("rss_kib", "fds", "threads")
WORKER_FDS: Final = 2
"""Descriptors that an agent has more when it has learnt: two pipes to the process of its tuners."""


@dataclass(frozen=True)
class Footprint:
    """rss_kib: memory that is in RAM. fds: open descriptors, sockets included."""

    rss_kib: int
    fds: int
    threads: int


def footprint(pid: int) -> Footprint:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().strip().split("\n"))
    return Footprint(int(status["VmRSS"].split()[0]), len(os.listdir(f"/proc/{pid}/fd")), int(status["Threads"]))


@dataclass
class Course:
    """Footprints of one process with their times, seconds from the first."""

    times: list[float] = field(default_factory=list)
    footprints: list[Footprint] = field(default_factory=list)

    def thirds(self, name: str) -> tuple[float, float]:
        """The medians of the first third of the samples and of the last."""
        values = [getattr(one, name) for one in self.footprints]
        third = len(values) // 3
        return statistics.median(values[:third]), statistics.median(values[-third:])

    def slope(self, name: str) -> float:
        """Of the line through all samples, per minute."""
        return 60 * statistics.linear_regression(self.times, [getattr(one, name) for one in self.footprints]).slope

    def line(self) -> str:
        """All of it on one line, for people."""
        parts = []
        for name in NAMES:
            first, last = self.thirds(name)
            parts.append(f"{name} {first:g} -> {last:g} ({self.slope(name):+.1f}/min)")
        return ", ".join(parts)


def watch(pids: dict[str, int], seconds: float, go_on: Callable[[], bool], every_s: float = 0.5) -> dict[str, Course]:
    """The courses of processes for so long, or until `go_on` is false."""
    courses = {name: Course() for name in pids}
    began = time.monotonic()
    while (now := time.monotonic() - began) < seconds and go_on():
        for name, pid in pids.items():
            courses[name].times.append(now)
            courses[name].footprints.append(footprint(pid))
        time.sleep(every_s)
    return courses
