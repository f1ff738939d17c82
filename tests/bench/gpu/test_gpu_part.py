"""A part ends, whatever its program does, and says how."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from bench.gpu import part
from bench.gpu.part import FAILED, FIGURES, OUT_OF_TIME, PASSED, SKIPPED, Outcome, Part, run, write_figures

LONG_S = 100.0


def program(code: str, **changes: object) -> Part:
    one = Part("one", "a thing", [sys.executable, "-c", code], {"A": "b"}, LONG_S)
    return msgspec.structs.replace(one, **changes)


def result(code: str, folder: Path, **changes: object) -> Outcome:
    return run(program(code, **changes), folder, LONG_S)


def test_a_program_that_ends_well_has_passed_and_its_last_line_is_what_it_said(tmp_path: Path) -> None:
    code = (
        "import os, pathlib\n"
        f"pathlib.Path(os.environ['{FIGURES}']).write_text('{{\"a\": 1}}')\n"
        "print('noise')\nprint(os.environ['A'], 'equal')"
    )
    outcome = result(code, tmp_path)
    assert (outcome.state, outcome.said, outcome.figures) == (PASSED, "b equal", {"a": 1})
    assert (tmp_path / "one.log").read_text() == "noise\nb equal\n"


def test_a_program_that_fails_says_what_it_said_last(tmp_path: Path) -> None:
    outcome = result("raise SystemExit('it differs')", tmp_path)
    assert (outcome.state, outcome.said) == (FAILED, "exit code 1: it differs")
    assert run(program("", command=["/nowhere/at/all"]), tmp_path, LONG_S).state == FAILED


def test_a_program_may_find_out_for_itself_that_it_cannot_be_run(tmp_path: Path) -> None:
    outcome = result(f"print('no graphs'); raise SystemExit({part.SKIPPED_CODE})", tmp_path)
    assert (outcome.state, outcome.said) == (SKIPPED, "no graphs")


def test_a_part_that_runs_can_be_told_to_end(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    code = f"import pathlib, time\npathlib.Path({str(begun)!r}).touch()\ntime.sleep(1000)"
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(result, code, tmp_path)
        while not begun.exists() and not running.done():
            time.sleep(0.01)
        part.stop_running()
        assert running.result().said.startswith("exit code -15")


def test_figures_of_an_earlier_run_are_not_taken_for_its_own(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text('{"old": 1}')
    assert result("pass", tmp_path).figures == {}


def test_a_program_whose_time_is_up_is_ended_and_what_it_has_found_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part, "ENDING_S", 3.0)
    code = (
        "import os, pathlib, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"pathlib.Path(os.environ['{FIGURES}']).write_text('{{\"a\": 1}}')\n"
        "time.sleep(1000)"
    )
    outcome = result(code, tmp_path, limit_s=10.0)
    assert (outcome.state, outcome.figures) == (OUT_OF_TIME, {"a": 1})


def test_what_the_machine_lacks_and_what_there_is_no_time_for_is_skipped_with_the_reason(tmp_path: Path) -> None:
    assert result("", tmp_path, lacks="no GPU").said == "no GPU"
    late = run(program(""), tmp_path, 1.0)
    assert late.state == SKIPPED
    assert "no time is left" in late.said


def test_figures_are_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for n in (1, 2):
        write_figures({"n": n}, {FIGURES: str(path)})
        assert msgspec.json.decode(path.read_bytes()) == {"n": n}
    assert list(tmp_path.iterdir()) == [path]
