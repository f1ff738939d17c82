"""scripts/wrap_pages.py wraps long paragraphs, and nothing else of a page."""

from __future__ import annotations

from pathlib import Path

import pytest
import wrap_pages
from wrap_pages import WIDTH, wrapped

LONG = " ".join(["word"] * 60)


def test_a_long_paragraph_is_wrapped_and_keeps_its_words() -> None:
    page = wrapped(f"{LONG}\nmore.\n\nshort\nlines\n")
    assert max(len(line) for line in page.splitlines()) <= WIDTH
    assert page.split() == f"{LONG} more. short lines".split()
    assert page.endswith("\n\nshort\nlines\n")
    assert wrapped(page) == page


@pytest.mark.parametrize("mark", ["- ", "* ", "12. ", "    - "])
def test_an_item_of_a_list_keeps_its_indent(mark: str) -> None:
    first, *rest = wrapped(f"{mark}{LONG}\n").splitlines()
    assert first.startswith(f"{mark}word")
    assert rest
    assert all(line.startswith(" " * len(mark) + "word") for line in rest)


@pytest.mark.parametrize(
    "page",
    [
        f"| {LONG} |\n",
        f"# {LONG}\n",
        f"```sh\n{LONG}\n```\n",
        f"<!-- begin: x -->\n{LONG}\n\n{LONG}\n<!-- end: x -->\n",
        f"![{LONG}](figure.svg)\n",
        f"https://pipesd.example/{'x' * WIDTH}\n",
    ],
)
def test_what_stays(page: str) -> None:
    assert wrapped(page) == page


@pytest.mark.parametrize("words", ["`code with spaces`", "`MAX_PATH` = 4096", "`grace_s` (30 s)", "12 ms"])
def test_what_stays_in_one_line(words: str) -> None:
    for length in range(WIDTH - 30, WIDTH):
        page = wrapped(f"{'x' * length} {words}, {LONG}\n")
        assert words in page


@pytest.mark.parametrize("word", ["-", "*", "3.", "#", "| x"])
def test_no_line_begins_like_a_list_or_a_heading(word: str) -> None:
    for length in range(WIDTH - 30, WIDTH):
        lines = wrapped(f"{'x' * length} {word} {LONG}\n").splitlines()
        assert not any(line.startswith(word) for line in lines)


def test_files_are_written_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long, short = tmp_path / "long.md", tmp_path / "short.md"
    long.write_text(f"{LONG}\n")
    short.write_text("short\n")
    assert wrap_pages.main([str(long), str(short)]) == 0
    assert capsys.readouterr().out == f"{long}\n"
    assert long.read_text() == wrapped(f"{LONG}\n")
