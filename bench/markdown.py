"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown(head: Sequence[str], body: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table; its first `left` columns are text."""
    marks = ["---"] * left + ["--:"] * (len(head) - left)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, marks, *body))


def ms(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
