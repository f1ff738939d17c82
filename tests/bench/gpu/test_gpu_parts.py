"""Which parts there are, where they run and for how long."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.gpu.parts import FULL_FLOAT32, LIMIT_S, NAMES, V2, parts

MODEL = "/models/target"


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    path = tmp_path / "vectors.npz"
    path.touch()
    return path


def test_without_a_gpu_every_part_is_skipped_with_the_reason(vectors: Path) -> None:
    assert {part.lacks for part in parts("no GPU", MODEL, vectors, bed=False, only=NAMES)} == {"no GPU"}


def test_with_a_gpu_nothing_is_skipped_but_vectors_that_are_not_there(vectors: Path, tmp_path: Path) -> None:
    assert {part.lacks for part in parts(None, MODEL, vectors, bed=False, only=NAMES)} == {None}
    (one,) = parts(None, MODEL, tmp_path / "none.npz", bed=False, only=["vectors"])
    assert "none.npz is not there" in str(one.lacks)


def test_sessions_are_compared_in_both_loops_eager_and_with_graphs(vectors: Path) -> None:
    chosen = parts(None, MODEL, vectors, bed=False, only=["equality"])
    options = [json.loads(part.environ["PIPESD_ENGINE_OPTIONS"]) for part in chosen]
    assert {(one["enforce_eager"], one["async_scheduling"]) for one in options} == {
        (eager, loop) for eager in (True, False) for loop in (True, False)
    }
    assert len({part.name for part in chosen}) == len(chosen)
    assert all(part.environ.items() >= FULL_FLOAT32.items() for part in chosen)


def test_all_parts_run_on_v2_and_only_the_one_that_measures_runs_alone(vectors: Path) -> None:
    chosen = parts(None, MODEL, vectors, bed=False, only=NAMES)
    assert all(part.environ.items() >= V2.items() for part in chosen)
    assert [part.name for part in chosen if part.alone] == ["traffic"]
    beside = max(part.limit_s for part in chosen if not part.alone)
    assert beside + chosen[-1].limit_s <= LIMIT_S, "what runs beside each other, and then the traffic"


def test_on_the_bed_graphs_are_skipped_and_the_rest_runs_without_a_gpu(vectors: Path) -> None:
    chosen = parts("no GPU", MODEL, vectors, bed=True, only=NAMES)
    skipped = {part.name for part in chosen if part.lacks}
    assert skipped == {"equality-synchronous-graphs", "equality-asynchronous-graphs"}
    assert MODEL not in " ".join(part.environ.get("PIPESD_ENGINE_OPTIONS", "") for part in chosen)
