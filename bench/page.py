"""Pages of docs/ whose parts are made by a program, each between two markers that name it."""

from __future__ import annotations


def between(page: str, name: str, text: str) -> str:
    """A page with other text between the markers of this name. Raises ValueError where they are not there."""
    begin, end = f"<!-- begin: {name} -->\n", f"<!-- end: {name} -->"
    head, found, rest = page.partition(begin)
    _, closed, tail = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"the page needs the markers {begin.strip()} and {end}: put them where the part belongs")
    return f"{head}{begin}{text.strip()}\n{end}{tail}"
