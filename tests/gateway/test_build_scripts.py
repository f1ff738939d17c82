"""scripts/build_llama.py: one wheel per machine, and nothing left of a build that failed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "build_llama.py"


@pytest.fixture
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_llama", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_finished_wheel_is_found_and_nothing_is_built(build: ModuleType, tmp_path: Path) -> None:
    version = build.locked_version(ROOT / "gateway" / "pyproject.toml")
    folder: Path = build.cache_folder(version, {"XDG_CACHE_HOME": str(tmp_path)})
    folder.mkdir(parents=True)
    wheel = folder / "made_before.whl"
    wheel.touch()
    # No compiler in the path: building would fail.
    environ = {"XDG_CACHE_HOME": str(tmp_path), "PATH": ""}
    done = subprocess.run([sys.executable, SCRIPT], env=environ, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"{wheel}\n")


def test_missing_tools_are_named(tmp_path: Path) -> None:
    environ = {"XDG_CACHE_HOME": str(tmp_path), "PATH": ""}
    done = subprocess.run([sys.executable, SCRIPT], env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "gcc, g++, cmake, make cannot be found" in done.stderr
    assert "apt install build-essential cmake" in done.stderr


def test_a_failed_build_leaves_no_wheel(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "wheels" / "key"
    folder.parent.mkdir()
    monkeypatch.setattr(build, "TOOLS", ())
    monkeypatch.setattr(build.sys, "executable", "/bin/false")
    with pytest.raises(build.BuildError, match="exit status is 1"):
        build.compile_wheel("0.0.0", folder)
    assert os.listdir(folder.parent) == []
    assert "once per machine" in capfd.readouterr().err
