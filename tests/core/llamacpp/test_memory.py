"""What a context takes, what there is for it, and that one that does not fit is refused before it is made."""

from __future__ import annotations

import logging
import os
import resource
from pathlib import Path

import pytest

from pipesd_core.errors import ModelLoadError
from pipesd_core.llamacpp import memory
from pipesd_core.llamacpp.memory import (
    ContextShape,
    available_cores,
    available_memory,
    check_fits,
    fitted_context,
    fitted_threads,
    size,
)

SHAPE = ContextShape(layers=30, kv_heads=3, key_size=64, value_size=64, n_vocab=49_152)
"""A model of 135 million parameters."""
GIB = 2**30


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of a machine with 8 GiB available, this process in no control group with a limit."""
    monkeypatch.setattr(memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    write(tmp_path / "proc/meminfo", f"MemTotal:  {16 * 2**20} kB\nMemAvailable:  {8 * 2**20} kB\n")
    write(tmp_path / "proc/self/cgroup", "0::/system.slice/agent.service\n")
    write(tmp_path / "cgroup/system.slice/agent.service/memory.max", "max\n")
    return tmp_path


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_a_context_takes_what_its_tokens_and_its_rows_take() -> None:
    assert SHAPE.token_bytes == 30 * 3 * 128 * 2
    without_rows = SHAPE.context_bytes(2048, 4, 0)
    assert without_rows == 4 * 2048 * SHAPE.token_bytes
    assert SHAPE.context_bytes(2047, 4, 0) == without_rows  # llama.cpp rounds
    assert SHAPE.context_bytes(2048, 4, 64) - without_rows == 64 * (2048 * 2 + 2 * 49_152 * 4)


@pytest.mark.parametrize("n_seq", [1, 4, 64])
def test_the_largest_context_fits_and_the_next_one_does_not(n_seq: int) -> None:
    largest = SHAPE.largest_context(8 * GIB, n_seq, 63 * n_seq)
    assert largest % 256 == 0
    assert (
        SHAPE.context_bytes(largest, n_seq, 63 * n_seq) <= 8 * GIB < SHAPE.context_bytes(largest + 1, n_seq, 63 * n_seq)
    )


@pytest.mark.usefixtures("machine")
def test_the_machine_s_memory_is_what_it_says_is_available() -> None:
    assert available_memory() == 8 * GIB


@pytest.mark.parametrize("folder", ["system.slice/agent.service", "system.slice", "."])
def test_a_container_s_limit_counts_whichever_group_has_it(machine: Path, folder: str) -> None:
    group = machine / "cgroup" / folder
    write(group / "memory.max", str(2 * GIB))
    write(group / "memory.current", str(GIB))
    write(group / "memory.stat", f"anon {GIB // 2}\ninactive_file {GIB // 4}\nactive_file {GIB // 8}\n")
    assert available_memory() == GIB + GIB // 4 + GIB // 8


def test_the_older_control_groups_count_too(machine: Path) -> None:
    write(machine / "proc/self/cgroup", "9:pids:/x\n4:memory:/docker/1\n")
    write(machine / "cgroup/memory/docker/1/memory.limit_in_bytes", str(GIB))
    write(machine / "cgroup/memory/docker/1/memory.usage_in_bytes", str(GIB // 2))
    assert available_memory() == GIB // 2


def test_a_limit_of_the_address_space_counts(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(machine / "proc/self/statm", "1000 10 10")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (GIB, GIB))
    assert available_memory() == GIB - 1000 * resource.getpagesize()


def test_where_nothing_is_known_nothing_is_refused(machine: Path) -> None:
    (machine / "proc/meminfo").unlink()
    assert available_memory() is None
    check_fits("x.gguf", SHAPE, 2**20, 64, 4032, weights=0)


@pytest.mark.usefixtures("machine")
def test_what_does_not_fit_is_refused_with_the_numbers_and_the_largest_that_fits() -> None:
    largest = SHAPE.largest_context(int(0.9 * 8 * GIB), 4, 252)
    with pytest.raises(ModelLoadError) as refused:
        check_fits("x.gguf", SHAPE, 1_000_000, 4, 252, weights=0)
    for part in ("1000000", "4 sequences", "x.gguf", "30 layers of 3 heads", "8.0 GiB", str(largest)):
        assert part in str(refused.value)
    check_fits("x.gguf", SHAPE, largest, 4, 252, weights=0)


def test_sequences_whose_rows_alone_do_not_fit(machine: Path) -> None:
    write(machine / "proc/meminfo", "MemAvailable:  65536 kB\n")
    with pytest.raises(ModelLoadError, match="no context fits with so many sequences"):
        check_fits("x.gguf", SHAPE, 256, 64, 4032, weights=0)


@pytest.mark.usefixtures("machine")
def test_weights_that_do_not_fit_beside_it_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    check_fits("x.gguf", SHAPE, 2048, 4, 64, weights=7 * GIB)
    assert not caplog.records
    check_fits("x.gguf", SHAPE, 2048, 4, 64, weights=8 * GIB)
    assert "read from the disk again and again" in caplog.text


def test_a_context_beyond_the_model_s_is_cut_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert fitted_context("x.gguf", 2048, 2048) == 2048
    assert fitted_context("x.gguf", 2**20, 0) == 2**20  # the file does not say
    assert not caplog.records
    assert fitted_context("x.gguf", 1_000_000, 2048) == 2048
    assert "context is 1000000, but x.gguf was trained for at most 2048 tokens: 2048 are used" in caplog.text


def test_threads_beyond_the_cores_are_cut_and_that_is_said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_cores", lambda: 2)
    assert [fitted_threads(n) for n in (1, 2)] == [1, 2]
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        assert fitted_threads(256) == 2
    assert "threads is 256, but this program may use 2 cores: 2 threads are used" in caplog.text


@pytest.mark.parametrize(("quota", "cores"), [("max 100000", 8), ("150000 100000", 2), ("1000 100000", 1), ("", 8)])
def test_cores_are_those_that_the_container_lets_us_use(
    machine: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    write(machine / "cgroup/system.slice/cpu.max", quota)
    assert available_cores() == cores


def test_sizes_for_people() -> None:
    assert [size(n) for n in (0, 1, 1024, 2**20, 3 * 2**29)] == ["0 KiB", "1 KiB", "1 KiB", "1.0 MiB", "1.5 GiB"]
