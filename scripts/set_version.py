"""Print the version of the distributions, or set it.

    python scripts/set_version.py          exits with 1 where a pyproject.toml says another than VERSION
    python scripts/set_version.py 0.2.0    writes it to VERSION, to every pyproject.toml and its pins

A wheel is built from its distribution's folder alone, which cannot read VERSION; hence the copies.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
DISTRIBUTIONS: Final = ("core", "gateway", "edge_agent", "vllm_plugin")
COPY: Final = re.compile(r'(?m)(^version = "|"pipesd-[a-z]+(?:\[[a-z,]+\])?==)([^"]*)(?=")')
"""A distribution's own version, or its pin of another one of ours."""
VERSION: Final = re.compile(r"\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?")


def copies(root: Path) -> dict[Path, list[str]]:
    """The versions that each distribution's pyproject.toml names: its own, and those that it pins."""
    files = [root / name / "pyproject.toml" for name in DISTRIBUTIONS]
    return {file: [found[2] for found in COPY.finditer(file.read_text("utf-8"))] for file in files}


def write(root: Path, version: str) -> None:
    """Set the version everywhere. Raises ValueError for one that is none."""
    if not VERSION.fullmatch(version):
        raise ValueError(f"{version!r} is no version: 1.2.3, 1.2.3a1, 1.2.3b1 or 1.2.3rc1")
    (root / "VERSION").write_text(f"{version}\n", "utf-8")
    for file in copies(root):
        file.write_text(COPY.sub(rf"\g<1>{version}", file.read_text("utf-8")), "utf-8")


def differing(root: Path) -> list[str]:
    """A line for each pyproject.toml that says another version than the file VERSION."""
    version = (root / "VERSION").read_text("utf-8").strip()
    return [
        f"{file.relative_to(root)}: {', '.join(found)}; VERSION: {version}"
        for file, found in copies(root).items()
        if not found or set(found) != {version}
    ]


def main(arguments: list[str]) -> int:
    if arguments:
        try:
            write(ROOT, arguments[0])
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
    wrong = differing(ROOT)
    print("\n".join(wrong) or (ROOT / "VERSION").read_text("utf-8").strip())
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
