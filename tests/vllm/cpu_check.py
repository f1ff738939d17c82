"""Run under .venv-vllm's python by test_vllm_cpu.py: the work-arounds for vLLM's CPU backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from vllm.v1.sample import rejection_sampler

from pipesd_vllm.compat import cpu


def plain(x: list[float], ends: list[int], replace_from: float, replace_to: float) -> list[float]:
    """What `expand_batch_to_tokens` is for."""
    expanded = []
    for value, start, end in zip(x, [0, *ends], ends, strict=False):
        expanded += [replace_to if value == replace_from else value] * (end - start)
    return expanded


def right(x: torch.Tensor, ends: torch.Tensor, n: int, replace_from: int = 0, replace_to: int = 0) -> torch.Tensor:
    return x.new_tensor(plain(x.tolist(), ends.tolist(), replace_from, replace_to)).reshape(n)


def wrong(x: torch.Tensor, _ends: torch.Tensor, n: int, *_: Any) -> torch.Tensor:
    return x.new_full((n,), 3)


def unconstrained(logits: torch.Tensor, _ends: torch.Tensor, _metadata: Any) -> torch.Tensor:
    return logits + 1


def raises(*_: Any) -> torch.Tensor:
    raise RuntimeError("max(): Expected reduction dim to be specified for input.numel() == 0")


def check_expansion() -> None:
    rng = np.random.default_rng(7)
    for _ in range(500):
        counts = rng.integers(0, 5, int(rng.integers(1, 9)))
        dtype = (torch.float32, torch.int32)[int(rng.integers(2))]
        x = torch.tensor(rng.integers(0, 3, len(counts)), dtype=dtype)
        ends = torch.tensor(counts.cumsum(), dtype=torch.int32)
        replace = (int(rng.integers(0, 2)), int(rng.integers(0, 9)))
        got = cpu._expand_batch_to_tokens(x, ends, int(counts.sum()), *replace)
        assert got.dtype == dtype
        assert got.tolist() == plain(x.tolist(), ends.tolist(), *replace), (x, ends, replace)


def with_functions(expand: Callable[..., Any], top_k: Callable[..., Any]) -> list[str]:
    """What `work_around` says that it replaced, with these in the place of vLLM's."""
    rejection_sampler.expand_batch_to_tokens = expand
    rejection_sampler.apply_sampling_constraints = unconstrained
    cpu.apply_top_k_top_p = top_k  # type: ignore[attr-defined]
    return cpu.work_around()


def check_choice() -> None:
    none = torch.empty(0, 8)
    assert with_functions(right, unconstrained) == ["_bookkeeping_sync"], "no generator of a CPU has an offset"
    assert with_functions(right, unconstrained) == []
    assert rejection_sampler.expand_batch_to_tokens is right, "it was right and should have been left alone"
    assert rejection_sampler.apply_sampling_constraints is unconstrained

    assert with_functions(wrong, unconstrained) == ["expand_batch_to_tokens"]
    assert not cpu.expand_is_broken()
    assert rejection_sampler.apply_sampling_constraints is unconstrained

    assert with_functions(right, raises) == ["apply_sampling_constraints"]
    assert rejection_sampler.expand_batch_to_tokens is right
    constrained = rejection_sampler.apply_sampling_constraints
    assert constrained(none, none, None) is none, "nothing is done to nothing"
    assert constrained(torch.zeros(2, 8), none, None).tolist() == [[1.0] * 8] * 2, "vLLM's own sees to the rest"
    assert cpu.work_around() == [], "replaced once"
    assert rejection_sampler.apply_sampling_constraints is constrained

    assert with_functions(wrong, raises) == ["expand_batch_to_tokens", "apply_sampling_constraints"]


if __name__ == "__main__":
    check_expansion()
    check_choice()
    print("replaced only where broken")
