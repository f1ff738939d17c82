"""Compile llama-cpp-python's wheel once per machine; print the path of the wheel, and nothing else, to stdout.

    python scripts/build_llama.py

The wheel stays in ${XDG_CACHE_HOME:-~/.cache}/pipesd/wheels, so other clones and new environments find it. No ABI of
Python is in its name: it holds shared libraries that ctypes loads ("py3-none"). The version is the one that
core/pyproject.toml asks for.

GGML_NATIVE=OFF: a native build by GCC 12 on a machine with AMX dies of SIGILL on quantised weights, and a wheel that
stays in a cache should run on the next machine that mounts it as well.

CMAKE_ARGS of the environment come behind our own, so that they win, and are a part of the wheel's place in the cache:
`CMAKE_ARGS="-DGGML_CUDA=on"` never gets a wheel that was built without.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

PACKAGE = "llama-cpp-python"
CMAKE_ARGS = "-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF"
TOOLS = ("gcc", "g++", "cmake", "make")
ROOT = Path(__file__).resolve().parent.parent


class BuildError(Exception):
    """The wheel cannot be built; the message says what to do."""


def locked_version(pyproject: Path) -> str:
    """The version that the extra `llama` pins."""
    extras = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for requirement in extras["llama"]:
        name, _, version = str(requirement).partition("==")
        if name == PACKAGE and version:
            return version
    raise BuildError(f"{pyproject} pins no {PACKAGE}==VERSION in its extra 'llama'")


def cmake_args(environ: Mapping[str, str]) -> str:
    """Ours, then the user's: of two that contradict each other CMake takes the last."""
    return f"{CMAKE_ARGS} {environ.get('CMAKE_ARGS', '').strip()}".rstrip()


def cache_folder(version: str, environ: Mapping[str, str]) -> Path:
    """Where the wheel for this version, build and kind of machine lies."""
    base = environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    build = hashlib.sha256(cmake_args(environ).encode()).hexdigest()[:8]
    kind = f"{platform.system()}-{platform.machine()}".lower()
    return Path(base) / "pipesd" / "wheels" / f"{PACKAGE}-{version}-{kind}-{build}"


def find_wheel(folder: Path) -> Path | None:
    """The finished wheel in a cache folder."""
    return next(iter(sorted(folder.glob("*.whl"))), None)


def compile_wheel(version: str, folder: Path) -> Path:
    """Build beside the folder, then rename: an interrupted build leaves no wheel, and the next one clears it away."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise BuildError(
            f"{PACKAGE} has to be compiled, and {', '.join(missing)} cannot be found. Install a C and C++ compiler, "
            "cmake and make (Debian, Ubuntu: apt install build-essential cmake; macOS: xcode-select --install and "
            "brew install cmake), then try again."
        )
    cores = os.cpu_count() or 1
    print(
        f"Compiling {PACKAGE} {version}: about 7 minutes on 2 cores (this machine has {cores}), once per machine.\n"
        f"CMAKE_ARGS: {cmake_args(os.environ)}\nThe wheel will lie in {folder}",
        file=sys.stderr,
        flush=True,
    )
    scratch = folder.with_name(f"{folder.name}.building")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        command = [sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check", "--no-deps", "--no-cache-dir"]
        command += ["--no-binary", PACKAGE, "--wheel-dir", f"{scratch}/wheel", f"{PACKAGE}=={version}"]
        environment = {"CMAKE_BUILD_PARALLEL_LEVEL": str(cores)} | os.environ
        environment |= {"CMAKE_ARGS": cmake_args(os.environ), "TMPDIR": str(scratch)}
        # stdout is for the path alone.
        status = subprocess.run(command, env=environment, stdout=sys.stderr, stdin=subprocess.DEVNULL).returncode
        if status != 0:
            raise BuildError(f"compiling {PACKAGE} {version} failed (pip's exit status is {status}; its log is above)")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(scratch / "wheel", folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    wheel = find_wheel(folder)
    if wheel is None:
        raise BuildError(f"pip wrote no wheel into {folder}")
    return wheel


def main() -> int:
    """Find or build; returns the exit status."""
    try:
        version = locked_version(ROOT / "core" / "pyproject.toml")
        folder = cache_folder(version, os.environ)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with open(folder.parent / f"{folder.name}.lock", "w", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"Another build of {PACKAGE} is under way; waiting for it.", file=sys.stderr, flush=True)
                fcntl.flock(lock, fcntl.LOCK_EX)
            print(find_wheel(folder) or compile_wheel(version, folder))
    except (BuildError, OSError) as error:
        print(f"build_llama: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
