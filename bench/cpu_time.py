"""CPU time of another process, or of one of its threads. Linux only (/proc)."""

from __future__ import annotations

import os
from pathlib import Path


def cpu_s(stat: Path) -> float:
    """Seconds so far, user's and system's, by a `stat` file below /proc; in steps of 10 ms as a rule."""
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
