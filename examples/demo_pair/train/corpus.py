"""Collect distinct Python files from wheels and installed folders into one JSON-lines file.

Wheels are read as they lie (a wheel is a zip file), so nothing has to be installed. Every source is
recorded with name, version and licence; a wheel whose licence is not on the permissive list is refused.

    pip download --no-deps -d WHEEL_DIR -r corpus-packages.txt
    python corpus.py --wheels WHEEL_DIR --stdlib /usr/lib/python3.11 --out corpus.jsonl --sources sources.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sysconfig
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from email.message import Message
from email.parser import HeaderParser
from importlib import metadata
from pathlib import Path
from platform import python_version

PERMISSIVE = re.compile(r"\b(MIT|BSD|0BSD|Apache|PSF|Python Software Foundation|Python-2\.0)\b", re.IGNORECASE)
# Vendored code has other licences than its host, model folders of transformers are near copies of one another,
# and encodings are tables.
SKIPPED = re.compile(
    r"(^|/)(_?vendor(ed)?|_?third_party|extern(als?)?|encodings|__pycache__|node_modules)(/|$)"
    r"|(^|/)transformers/models/|(^|/)(lib2to3|idlelib)/|_pb2\.py$|(^|/)site-packages/"
)
MIN_CHARS, MAX_CHARS, MAX_LINE = 400, 60_000, 300


@dataclass
class Source:
    """One distribution that the corpus takes files from."""

    name: str
    version: str
    licence: str
    files: int = 0
    chars: int = 0


def licence_of(headers: Message) -> str:
    """The licence as the package's own metadata states it, shortened to one line."""
    fields = dict(headers.items())
    classifiers = [c.split(" :: ")[-1] for c in headers.get_all("Classifier", []) if "License ::" in c]
    text = fields.get("License-Expression") or (classifiers[0] if classifiers else fields.get("License", ""))
    return str(text).splitlines()[0][:80] if text else ""


def usable(path: str, text: str) -> bool:
    """Whether a file is of a sensible size and not generated or vendored."""
    if SKIPPED.search(path) or not MIN_CHARS <= len(text) <= MAX_CHARS:
        return False
    return max(map(len, text.splitlines()), default=0) <= MAX_LINE


def wheel_files(wheel: Path) -> tuple[Source, Iterator[tuple[str, str]]]:
    """The source record of a wheel and its (path, text) pairs."""
    archive = zipfile.ZipFile(wheel)
    names = archive.namelist()
    meta = next(n for n in names if re.fullmatch(r"[^/]+\.dist-info/METADATA", n))
    headers = HeaderParser().parsestr(archive.read(meta).decode("utf-8", "replace"))
    source = Source(headers["Name"], headers["Version"], licence_of(headers))

    def texts() -> Iterator[tuple[str, str]]:
        for name in names:
            if name.endswith(".py"):
                yield name, archive.read(name).decode("utf-8", "replace")

    return source, texts()


def folder_files(root: Path) -> Iterator[tuple[str, str]]:
    """(path, text) of every Python file below a folder."""
    for path in sorted(root.rglob("*.py")):
        yield path.relative_to(root).as_posix(), path.read_text("utf-8", "replace")


def collect(wheels: Path, stdlib: Path, installed: list[str]) -> Iterator[tuple[Source, Iterator[tuple[str, str]]]]:
    """All sources in a fixed order."""
    yield Source("CPython standard library", python_version(), "PSF-2.0"), folder_files(stdlib)
    for wheel in sorted(wheels.glob("*.whl")):
        yield wheel_files(wheel)
    for name in installed:
        dist = metadata.distribution(name)
        source = Source(name, dist.version, licence_of(HeaderParser().parsestr(dist.read_text("METADATA") or "")))
        yield source, folder_files(Path(sysconfig.get_path("purelib")) / name)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, required=True, help="folder of .whl files")
    parser.add_argument("--stdlib", type=Path, default=Path(sysconfig.get_path("stdlib")))
    parser.add_argument("--installed", nargs="*", default=["torch"], help="packages to read from this environment")
    parser.add_argument("--out", type=Path, default=Path("corpus.jsonl"))
    parser.add_argument("--sources", type=Path, default=Path("sources.json"))
    args = parser.parse_args()

    seen: set[bytes] = set()
    sources: list[Source] = []
    with args.out.open("w") as out:
        for source, texts in collect(args.wheels, args.stdlib, args.installed):
            if not PERMISSIVE.search(source.licence):
                print(f"left out: {source.name} ({source.licence or 'no licence stated'})")
                continue
            sources.append(source)
            for path, text in texts:
                digest = hashlib.sha256(text.strip().encode()).digest()
                if digest in seen or not usable(path, text):
                    continue
                seen.add(digest)
                out.write(json.dumps({"source": source.name, "path": path, "text": text}) + "\n")
                source.files += 1
                source.chars += len(text)
    args.sources.write_text(json.dumps([asdict(s) for s in sources], indent=1) + "\n")
    print(f"{sum(s.files for s in sources)} files, {sum(s.chars for s in sources) / 1e6:.1f} M characters")


if __name__ == "__main__":
    main()
