"""All parts are carried out, whatever becomes of one of them, and the report has them all."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from bench.gpu.__main__ import carry_out, main
from bench.gpu.machine import machine
from bench.gpu.part import FAILED, PASSED, SKIPPED, Part


def test_a_part_that_fails_stops_no_other(tmp_path: Path) -> None:
    def part(name: str, code: str, *, alone: bool = False, lacks: str | None = None) -> Part:
        return Part(name, name, [sys.executable, "-c", code], {}, 200.0, alone, lacks)

    chosen = [part("a", "1 / 0"), part("b", "print('ok')"), part("c", "", lacks="why"), part("d", "", alone=True)]
    here = machine(lambda _: "")
    outcomes = carry_out(chosen, tmp_path, time.monotonic() + 200.0, 2, here)
    assert [outcome.state for outcome in outcomes] == [FAILED, PASSED, SKIPPED, PASSED]
    report = json.loads((tmp_path / "report.json").read_text())
    assert [one["name"] for one in report["parts"]] == ["a", "b", "c", "d"]
    assert report["machine"]["versions"] == here.versions
    assert not list(tmp_path.glob("*.new"))


def test_a_machine_without_a_gpu_skips_everything_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi
    monkeypatch.setattr(sys, "argv", ["bench.gpu", "--out", str(tmp_path / "out")])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert main() == 0
    said = capsys.readouterr().out
    assert said.count("there is no NVIDIA GPU here") == 7
    assert (tmp_path / "out" / "summary.txt").read_text() in said
    assert {one["state"] for one in json.loads((tmp_path / "out" / "report.json").read_text())["parts"]} == {SKIPPED}
