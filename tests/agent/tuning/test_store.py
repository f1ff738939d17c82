"""The last good thresholds on disk."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from pipesd_agent.tuning.replay import Pair
from pipesd_agent.tuning.store import LARGEST_FILE_BYTES, STORED_PAIRS, ThresholdStore, state_file, store_key


def test_what_was_put_is_there_again(tmp_path: Path) -> None:
    path = tmp_path / "pipesd" / "thresholds.json"
    one, other = store_key("m", "g", 0.0, sampled=False), store_key("m", "g", 0.0, sampled=True)
    ThresholdStore(path).put(one, Pair(0.5, 0.6))
    again = ThresholdStore(path)
    assert (again.get(one), again.get(other)) == (Pair(0.5, 0.6), None)
    assert [file.name for file in path.parent.iterdir()] == ["thresholds.json"]
    before = path.stat().st_mtime_ns
    os.utime(path, ns=(1, 1))
    again.put(one, Pair(0.5, 0.6))
    assert path.stat().st_mtime_ns == 1 != before


def test_a_file_that_an_editor_has_saved(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_bytes(b'\xef\xbb\xbf{"version": 1,\r\n "pairs": {"a": {"r1": 0.5, "r2": 0.6}}}\r\n')
    assert ThresholdStore(tmp_path / "t.json").get("a") == Pair(0.5, 0.6)


def test_only_the_latest_are_kept(tmp_path: Path) -> None:
    kept = ThresholdStore(tmp_path / "t.json")
    for number in range(STORED_PAIRS + 5):
        kept.put(str(number), Pair(0.1, 0.2))
    again = ThresholdStore(tmp_path / "t.json")
    assert again.get("4") is None
    assert again.get("5") == again.get(str(STORED_PAIRS + 4)) == Pair(0.1, 0.2)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "\ufeff{",
        "[]",
        '{"version":2,"pairs":{}}',
        '{"version":1,"pairs":{"a":{"r1":"x","r2":0}}}',
        " " * (LARGEST_FILE_BYTES + 9),
    ],
)
def test_a_broken_file_is_a_warning(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "t.json"
    path.write_text(text)
    with caplog.at_level(logging.WARNING):
        kept = ThresholdStore(path)
    assert kept.get("a") is None
    assert str(path) in caplog.text
    kept.put("a", Pair(0.1, 0.2))
    assert ThresholdStore(path).get("a") == Pair(0.1, 0.2)


def test_pairs_that_are_none_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text('{"version":1,"pairs":{"a":{"r1":7,"r2":0.5},"b":{"r1":0.5,"r2":1}}}')
    kept = ThresholdStore(path)
    assert (kept.get("a"), kept.get("b")) == (None, Pair(0.5, 1.0))


def test_a_disk_that_takes_nothing_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    kept = ThresholdStore(tmp_path / "file" / "t.json")
    kept.put("a", Pair(0.1, 0.2))
    assert "cannot keep" in caplog.text
    assert kept.get("a") == Pair(0.1, 0.2)


def test_where_it_is(tmp_path: Path) -> None:
    assert state_file({"XDG_STATE_HOME": str(tmp_path)}) == tmp_path / "pipesd" / "thresholds.json"
    assert state_file({}) == Path.home() / ".local" / "state" / "pipesd" / "thresholds.json"


def test_a_user_without_a_home_is_no_reason_to_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert state_file({}) is None
    assert "Set HOME or XDG_STATE_HOME" in caplog.text
