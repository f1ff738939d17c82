"""The pages: lines that a diff can show, words of the field, figures that a command made, and files that exist."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from repository import ROOT

from bench.proving.reports.report import REAL_TABLES

WIDTH: Final = 120
SOURCES: Final = ("", "core/src/pipesd_core", "gateway/src/pipesd_gateway", "edge_agent/src/pipesd_agent")
GENERATED: Final = ("docs/benchmarks_real.md", "docs/benchmarks/")
"""Written by programs from their first line to their last."""
OF_THE_PAPERS: Final = ("docs/notes/", "docs/benchmarks")
"""Pages about published work, in its own words."""
PAGES: Final = sorted(
    page
    for page in (
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *ROOT.glob("*/README.md"),
        *(ROOT / "examples").rglob("*.md"),
    )
    if not page.relative_to(ROOT).as_posix().startswith(GENERATED)
)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """The lines of a page, with their numbers, that are no table, no code and not written by a program."""
    code = generated = False
    for number, line in enumerate(page.read_text("utf-8").splitlines(), start=1):
        if line.startswith("<!-- begin"):
            generated = True
        elif line.startswith("<!-- end"):
            generated = False
        elif line.lstrip().startswith("```"):
            code = not code
        elif not (code or generated or line.startswith("|")):
            yield number, line


def test_there_are_pages() -> None:
    assert {"README.md", "docs/architecture.md", "docs/notes/papers.md"} <= {name(page) for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_lines_are_short(page: Path) -> None:
    """`python scripts/wrap_pages.py PAGE` wraps them; a line of one word, such as a long URL, cannot be."""
    long = [number for number, line in prose(page) if len(line) > WIDTH and " " in line.strip()]
    assert long == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_lists_begin_after_an_empty_line(page: Path) -> None:
    """GitHub does not need it, but mkdocs does."""
    within, before, glued = False, "", []
    for number, line in prose(page):
        item = re.match(r" *(?:[-*]|\d+\.) ", line)
        if item and before.strip() and not within and not before.startswith("#"):
            glued.append(number)
        within = bool(item) or (within and (line.startswith(" ") or not line.strip()))
        before = line
    assert glued == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_words_are_the_field_s(page: Path) -> None:
    if name(page).startswith(OF_THE_PAPERS):
        return
    found = [(number, word) for number, line in prose(page) for word in re.findall(r"\b(?:NAVs?|TPTs?)\b", line)]
    assert found == []


def test_the_papers_words_stand_in_the_table_once() -> None:
    """Beside the field's, for readers who come from the papers."""
    text = (ROOT / "docs/architecture.md").read_text("utf-8")
    assert [text.count(f"| {word} |") for word in ("NAV, non-autoregressive verification", "TPT")] == [1, 1]


def test_the_figures_of_the_readme_are_those_of_the_benchmark() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    with gzip.open(ROOT / "docs/benchmarks/rows.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]

    def of(scenario: str, method: str) -> dict[str, Any]:
        return {row["workload"]: row for row in rows if (row["scenario"], row["method"]) == (scenario, method)}

    ours, fast, alone = of("1-laptop", "ours-forwards"), of("fast-edge", "ours-forwards"), of("fast-edge", "cloud-only")
    made_up = ours.pop("made-up")
    real = [ours.pop(name)["forwards_per_token"] for name in REAL_TABLES]
    forwards = [row["forwards_per_token"] for row in ours.values()]
    assert f"{made_up['forwards_per_token']:.2f} per output token instead of 1" in text
    assert f"({made_up['acceptance']:.0%} accepted)".replace("%", " %") in text
    assert f"{min(forwards):.2f} to {max(forwards):.2f} with the toy models" in text
    assert f"{min(real):.2f} to {max(real):.2f} with the real pair" in text
    real = [fast.pop(name)["tpt_ms"] for name in REAL_TABLES]
    assert f"no gain ({min(real):.0f} to {max(real):.0f} ms)" in text
    times = [row["tpt_ms"] for row in fast.values()]
    assert f"{min(times):.0f} to {max(times):.0f} ms per output token" in text
    assert {round(row["tpt_ms"]) for row in alone.values()} == {50}
    report = (ROOT / "docs/reliability.md").read_text("utf-8")
    all_faults = r"\| \*\*all\*\* \| \*\*(\d+)\*\* \| (\d+) \|.*?Wrong: 0, .*?Sessions resumed: (\d+)"
    found = re.search(all_faults, report, re.DOTALL)
    assert found is not None
    assert f"{found[1]} faults in {found[2]} requests" in text
    assert f"{found[3]} sessions resumed" in text


def test_the_recipes_name_files_that_exist() -> None:
    recipes = (ROOT / "CONTRIBUTING.md").read_text("utf-8").partition("## Recipes")[2].partition("## Dependencies")[0]
    named = re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.(?:py|md|toml))`|\]\(([^)#]+)", recipes)
    paths = {path or link for path, link in named}
    assert len(paths) > 10
    missing = [path for path in sorted(paths) if not any((ROOT / source / path).exists() for source in SOURCES)]
    assert missing == []


def test_headings_of_the_changelog() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    for heading in headings[1:]:
        assert re.fullmatch(r"\d+\.\d+\.\d+ - \d{4}-\d\d-\d\d", heading)
