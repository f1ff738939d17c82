"""The figures of the demo as text: those that count up below two answers, and those at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from examples.demo.pair import CUT_S
from examples.demo.race import Piece, Progress, Scene

ALONE: Final = "the target alone"
THROUGH: Final = "through the agent"
HEADINGS: Final = ("", "tokens", "target passes", "per token", "TTFT", "TPOT", "bytes up", "down")
WIDTHS: Final = (18, 8, 15, 11, 9, 9, 10, 9)
LAST_HEADINGS: Final = ("alone → agent", "tokens", "passes/token", "TPOT, ms", "TTFT, s", "bytes up", "equal")
LAST_WIDTHS: Final = (27, 7, 14, 12, 14, 15, 7)
OPEN, CLOSE = "«", "»"
"""Around accepted tokens, where there are no colours."""


def row(cells: Sequence[str], widths: Sequence[int] = WIDTHS) -> str:
    """A line of a table; its first cell begins at the left, the others end at the right."""
    first, *others = zip(cells, widths, strict=True)
    return (f"{first[0]:<{first[1]}}" + "".join(f"{cell:>{width}}" for cell, width in others)).rstrip()


def seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{1000 * value:.0f} ms"


def cells(name: str, progress: Progress) -> tuple[str, ...]:
    """Figures of a side, below `HEADINGS`."""
    return (
        name,
        str(progress.tokens),
        str(progress.passes),
        f"{progress.passes_per_token:.2f}" if progress.tokens else "-",
        seconds(progress.ttft_s),
        milliseconds(progress.tpot_s),
        f"{progress.up:,}",
        f"{progress.down:,}",
    )


def table(scene: Scene) -> list[str]:
    """Three lines: headings, and the figures of both sides."""
    return [row(HEADINGS), row(cells(ALONE, scene.alone)), row(cells(THROUGH, scene.through_agent))]


def marked(pieces: Sequence[Piece]) -> str:
    """Text of an answer with its accepted tokens between marks, for where there are no colours."""
    marks = "".join(f"{OPEN}{piece.text}{CLOSE}" if piece.accepted and piece.text else piece.text for piece in pieces)
    return marks.replace(f"{CLOSE}{OPEN}", "")


def printable(text: str) -> str:
    """The text without what would move a terminal's cursor."""
    text = text.replace("\t", "    ")
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def summary(scenes: Sequence[Scene]) -> list[str]:
    """What the questions come to, in words."""
    own, shared = (sum(side.passes for side in sides) for sides in zip(*map(_sides, scenes), strict=True))
    equal = "every text is byte for byte the target's own" if all(s.same for s in scenes) else "A TEXT DIFFERS"
    lines = [f"{shared} target passes instead of {own}; {equal}."]
    for scene in scenes:
        if scene.question.cut_at is not None:
            how = (
                f"was cut for {CUT_S:.0f} s in mid-answer"
                if scene.was_cut
                else "was NOT cut: the answer was over first"
            )
            lines.append(f'The link of "{scene.question.title}" {how}.')
    return lines


def _sides(scene: Scene) -> tuple[Progress, Progress]:
    return scene.alone, scene.through_agent


def last_table(scenes: Sequence[Scene]) -> list[str]:
    """A line for each question, below headings; of two figures the first is that of the target alone."""
    lines = [row(LAST_HEADINGS, LAST_WIDTHS)]
    for number, scene in enumerate(scenes, start=1):
        own, shared = scene.alone, scene.through_agent
        lines.append(
            row(
                (
                    f"{number} {scene.question.title}",
                    str(shared.tokens),
                    f"{own.passes_per_token:.2f} → {shared.passes_per_token:.2f}",
                    f"{1000 * (own.tpot_s or 0):.0f} → {1000 * (shared.tpot_s or 0):.0f}",
                    f"{own.ttft_s or 0:.2f} → {shared.ttft_s or 0:.2f}",
                    f"{own.up:,} → {shared.up:,}",
                    "yes" if scene.same else "NO",
                ),
                LAST_WIDTHS,
            )
        )
    return lines
