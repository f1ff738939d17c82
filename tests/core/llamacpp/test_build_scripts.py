"""scripts/build_llama.py: one wheel per machine, and nothing left of a build that failed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from repository import ROOT

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
    version = build.locked_version(ROOT / "core" / "pyproject.toml")
    folder: Path = build.cache_folder(version, {"XDG_CACHE_HOME": str(tmp_path)})
    folder.mkdir(parents=True)
    wheel = folder / "made_before.whl"
    wheel.touch()
    # No compiler in the path: building would fail.
    environ = {"XDG_CACHE_HOME": str(tmp_path), "PATH": ""}
    done = subprocess.run([sys.executable, SCRIPT], env=environ, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"{wheel}\n")


def test_other_flags_are_another_wheel(build: ModuleType, tmp_path: Path) -> None:
    def folder(**environ: str) -> Path:
        found: Path = build.cache_folder("0.0.0", {"XDG_CACHE_HOME": str(tmp_path), **environ})
        return found

    cuda = "-DGGML_CUDA=on"
    assert folder() == folder(CMAKE_ARGS="") == folder(CMAKE_ARGS=" ")
    assert folder(CMAKE_ARGS=cuda) == folder(CMAKE_ARGS=f" {cuda} ")
    assert len({folder(), folder(CMAKE_ARGS=cuda), folder(CMAKE_ARGS="-DGGML_VULKAN=on")}) == 3
    # A finished wheel without the flags is not found for them: it goes on to building, for which the tools lack.
    version = build.locked_version(ROOT / "core" / "pyproject.toml")
    plain: Path = build.cache_folder(version, {"XDG_CACHE_HOME": str(tmp_path)})
    plain.mkdir(parents=True)
    (plain / "made_before.whl").touch()
    environ = {"XDG_CACHE_HOME": str(tmp_path), "PATH": "", "CMAKE_ARGS": cuda}
    done = subprocess.run([sys.executable, SCRIPT], env=environ, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")


def test_the_users_flags_come_behind_ours_in_the_build(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = tmp_path / "pip"
    pip.write_text(
        """#!/bin/sh
        while [ "$1" != --wheel-dir ]; do shift; done
        mkdir -p "$2" && printf %s "$CMAKE_ARGS" > "$2/seen.whl"
        """
    )
    pip.chmod(0o755)
    monkeypatch.setattr(build, "TOOLS", ())
    monkeypatch.setattr(build.sys, "executable", str(pip))
    for users, seen in [("-DGGML_CUDA=on -DGGML_NATIVE=ON", " -DGGML_CUDA=on -DGGML_NATIVE=ON"), ("", "")]:
        monkeypatch.setenv("CMAKE_ARGS", users)
        wheel = build.compile_wheel("0.0.0", tmp_path / "wheels")
        assert wheel.read_text() == f"-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF{seen}"


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
