"""vLLM's V2 model runner on a CPU, without a Triton backend for CPUs. Tests only. With it vLLM takes V2 by itself.

V2's kernels are Triton's. PyPI's `triton` has no backend for CPUs, but it can interpret kernels in numpy
(TRITON_INTERPRET=1), which is right and slow: about 150 ms a step of the demo's target. So the kernels that tests run
often are numpy functions here, by the kernel's name and with the kernel's own argument names (`step_kernels`,
`sampling_kernels`, `ngram_kernels`): a new vLLM that renames an argument fails loudly, and one that adds a kernel is
slow, not broken.
The test `test_vllm_bed.py` runs each of them beside the interpreted kernel and compares what both have written.

Settings, all in the environment, so that spawned processes have them:

    PIPESD_V2_BED=1          with this folder on PYTHONPATH: install the bed when Python starts
    PIPESD_V2_BED_ASYNC=1    leave vLLM's asynchronous scheduling on, which it switches off on a CPU. What is on the
                             device stays synchronous: the order of scheduling is tested, streams are not
    PIPESD_V2_BED_SHADOW=1   interpret each kernel as well, and compare

A program that sets RECORDER has the launches of all kernels that are numpy functions recorded (`kernel_vectors`).
"""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import ngram_kernels
import numpy as np
import sampling_kernels
import step_kernels
from kernel_vectors import Recorder

HERE = Path(__file__).resolve().parent
ON = "PIPESD_V2_BED"
ASYNC = "PIPESD_V2_BED_ASYNC"
SHADOW = "PIPESD_V2_BED_SHADOW"

KERNELS = step_kernels.KERNELS | sampling_kernels.KERNELS | ngram_kernels.KERNELS | ngram_kernels.GREEDY
NOT_INTERPRETED = frozenset({"_apply_grammar_bitmask_kernel", "_ngram_finalize_kernel"})
"""Those that Triton 3.9's interpreter cannot run ("mask has unsupported dtype")."""
SHADOWED: Counter[str] = Counter()
"""Launches of each kernel that were interpreted as well, and gave the same."""
INTERPRETED: Counter[str] = Counter()
"""Launches of each kernel that has no numpy function."""
RECORDER: Recorder | None = None
"""What keeps launches and what they wrote."""

_Run = Callable[..., Any]


def environ(*, asynchronous: bool = False, shadow: bool = False) -> dict[str, str]:
    """What puts a process, and all that it spawns, on the bed."""
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    switches = {ON: True, ASYNC: asynchronous, SHADOW: shadow}
    return {"PYTHONPATH": os.pathsep.join(paths)} | {name: "1" for name, on in switches.items() if on}


def install() -> None:
    """Before Triton and vLLM are imported. Harmless when repeated."""
    os.environ["TRITON_INTERPRET"] = "1"
    # Or what vLLM decorates with torch.compile looks for the backend's compiler, which is not there.
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    from triton.backends import backends
    from triton.runtime.interpreter import InterpretedFunction

    if getattr(InterpretedFunction.run, "bed", False):
        return
    # vLLM takes Triton for usable on a CPU iff it has a backend of this name (`vllm.triton_utils.importing`).
    driver = types.SimpleNamespace(is_active=lambda: True)
    backends.setdefault("cpu", types.SimpleNamespace(driver=driver, compiler=None))
    InterpretedFunction.run = _instead_of(InterpretedFunction.run)
    _when_imported("vllm.v1.sample.ops.topk_topp_sampler", _top_k_top_p_in_torch)
    if os.environ.get(ASYNC):
        _when_imported("vllm.platforms.cpu", _stay_asynchronous)


def _instead_of(original: _Run) -> _Run:
    def run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        name = self.fn.__name__
        ours = KERNELS.get(name)
        given = dict(zip(self.arg_names, args, strict=False)) | {k: v for k, v in kwargs.items() if k in self.arg_names}
        if ours is None or warmup or (name in ngram_kernels.GREEDY and given["temp_ptr"].any()):
            INTERPRETED[name] += not warmup
            return original(self, *args, grid=grid, warmup=warmup, **kwargs)
        shadow = None
        if os.environ.get(SHADOW) and name not in NOT_INTERPRETED:
            shadow = _Shadow(name, grid, given)
            original(self, grid=grid, warmup=False, **shadow.arguments)
            shadow.interpreted()
        recorded = None if RECORDER is None else RECORDER.before(self.fn.__module__, name, grid, given)
        ours(grid=grid, **{key: _array(value) for key, value in given.items()})
        if recorded is not None:
            recorded()
        if shadow is not None:
            shadow.compare()
        return None

    run.bed = True  # type: ignore[attr-defined]
    return run


class _Shadow:
    """A launch that is interpreted with copies of its tensors, and then compared with ours."""

    def __init__(self, name: str, grid: Any, given: dict[str, Any]) -> None:
        self._name, self._given = name, given
        self.arguments = {key: value.clone() if hasattr(value, "data_ptr") else value for key, value in given.items()}
        places = step_kernels.WRITTEN_BY_ADDRESS.get(name)
        arrays = {key: _array(value) for key, value in given.items()}
        self._places = places(grid, arrays) if places is not None else []
        self._before = [place.copy() for place in self._places]

    def interpreted(self) -> None:
        """Keep what was written by address, and put back what was there."""
        self._theirs = [place.copy() for place in self._places]
        for place, before in zip(self._places, self._before, strict=True):
            place[:] = before

    def compare(self) -> None:
        """Raises AssertionError."""
        pairs = [(key, _array(value), _array(self.arguments[key])) for key, value in self._given.items()]
        pairs += [("memory", ours, theirs) for ours, theirs in zip(self._places, self._theirs, strict=True)]
        for key, a, b in pairs:
            if not isinstance(a, np.ndarray):
                continue
            same = np.allclose(a, b, rtol=1e-5, atol=1e-5, equal_nan=True) if a.dtype.kind == "f" else (a == b).all()
            assert same, f"{self._name}: {key} differs from what the interpreted kernel has written"
        SHADOWED[self._name] += 1


def _array(value: Any) -> Any:
    return value.numpy() if hasattr(value, "data_ptr") else value


def _top_k_top_p_in_torch(module: Any) -> None:
    """The interpreter cannot run `_topk_topp_kernel` ('int' object has no attribute 'to'); vLLM has it in torch too."""

    def apply_top_k_top_p(logits: Any, k: Any, p: Any, *_: Any, **__: Any) -> Any:
        return module.apply_top_k_top_p_pytorch(logits, k, p, allow_cpu_sync=True)

    module.apply_top_k_top_p_triton = apply_top_k_top_p


def _stay_asynchronous(module: Any) -> None:
    original = module.CpuPlatform.check_and_update_config

    def check_and_update_config(cls: Any, vllm_config: Any) -> None:  # noqa: ARG001  a class method
        original(vllm_config)
        vllm_config.scheduler_config.async_scheduling = True

    module.CpuPlatform.check_and_update_config = classmethod(check_and_update_config)


def _when_imported(name: str, do: Callable[[Any], None]) -> None:
    """Have `do(module)` run as soon as a module is imported. It must not be imported yet."""

    class Finder(MetaPathFinder):
        def find_spec(
            self,
            fullname: str,
            path: Sequence[str] | None,  # noqa: ARG002  a finder's signature
            target: types.ModuleType | None = None,  # noqa: ARG002
        ) -> ModuleSpec | None:
            if fullname != name:
                return None
            sys.meta_path.remove(self)
            spec = importlib.util.find_spec(name)
            assert spec is not None, f"{name} is gone"
            assert spec.loader is not None
            spec.loader = _Then(spec.loader, do)
            return spec

    assert name not in sys.modules, f"{name} has been imported before the bed was there"
    sys.meta_path.insert(0, Finder())


class _Then(Loader):
    """A module's own loader, and something to be done afterwards."""

    def __init__(self, loader: Loader, do: Callable[[Any], None]) -> None:
        self._loader = loader
        self._do = do

    def create_module(self, spec: ModuleSpec) -> types.ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        self._loader.exec_module(module)
        self._do(module)
