"""Wrap the paragraphs of Markdown pages that have a line of more than 120 characters.

    python scripts/wrap_pages.py docs/*.md README.md

Tables, headings, code blocks and what programs write between markers stay as they are, and so does every paragraph
whose lines are short enough. `tests/test_docs.py` says which pages must pass.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

WIDTH: Final = 120
ITEM: Final = re.compile(r" *(?:[-*]|\d+\.) +")
VERBATIM: Final = ("|", "#", "<!--", "![")
"""Lines that begin so are no part of a paragraph."""
TOGETHER: Final = re.compile(r"`[^`]+` = \d+|`\w+_s` \([^)]*\)|`[^`]*`|\d+ (?:[µm]?s|%|[kM]i?B|[kM]bit/s)(?=[\s,.;:)])")
"""Code, numbers with their unit, and what tests of pages look for in one line."""
NO_START: Final = re.compile(r"[-+*=>#]+|\d+[.)]|\|.*")
"""A line that begins with such a word would be a list, a heading or a quotation."""


def blocks(text: str) -> Iterator[tuple[list[str], bool]]:
    """The lines of a page in groups: a paragraph or list item (True), or one line that stays as it is (False)."""
    paragraph: list[str] = []
    code = generated = False
    for line in text.removesuffix("\n").split("\n"):
        fence = line.lstrip().startswith("```")
        generated = (generated or line.startswith("<!-- begin")) and not line.startswith("<!-- end")
        other = fence or code or generated or not line.strip() or line.startswith(VERBATIM)
        if paragraph and (other or ITEM.match(line)):
            yield paragraph, True
            paragraph = []
        code ^= fence
        if other:
            yield [line], False
        else:
            paragraph.append(line)
    if paragraph:
        yield paragraph, True


def fill(lines: list[str]) -> list[str]:
    """The words of a paragraph in lines of at most WIDTH characters, as far as its words allow it."""
    item = ITEM.match(lines[0])
    indent = " " * (item.end() if item else len(lines[0]) - len(lines[0].lstrip()))
    text = " ".join([lines[0][len(indent) :], *(line.strip() for line in lines[1:])])
    words: list[str] = []
    for word in TOGETHER.sub(lambda found: found[0].replace(" ", "\0"), text).split():
        if words and NO_START.fullmatch(word):
            words[-1] += f"\0{word}"
        else:
            words.append(word)
    filled = [item[0] if item else indent]
    for word in words:
        if len(filled[-1]) > len(indent) and len(filled[-1]) + 1 + len(word) > WIDTH:
            filled.append(indent)
        filled[-1] += word if len(filled[-1]) == len(indent) else f" {word}"
    return [line.replace("\0", " ") for line in filled]


def wrapped(text: str) -> str:
    """The page with its long paragraphs wrapped."""
    lines: list[str] = []
    for block, is_paragraph in blocks(text):
        lines += fill(block) if is_paragraph and any(len(line) > WIDTH for line in block) else block
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    for name in arguments:
        path = Path(name)
        before = path.read_text("utf-8")
        after = wrapped(before)
        if after != before:
            path.write_text(after, "utf-8")
            print(name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
