"""Our side channel from the scheduler to the API server: a field of our own beside the outputs of a step.

It is on the engine core's message, behind vLLM's own fields, and off it again before vLLM looks at the message: no
request's output carries anything of ours, so that none of it can reach a client.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vllm.v1.engine import EngineCoreOutputs
from vllm.v1.engine import core_client as vllm_client
from vllm.v1.engine.core_client import AsyncMPClient

from pipesd_vllm.compat.replacing import replace_once
from pipesd_vllm.step_times import StepTimes

_TIMES = "pipesd_step_times"


class TimedOutputs(EngineCoreOutputs):
    """A step's outputs for one client, with times of its sessions; a decoder that does not know the field skips it.

    Attributes:
        step_times: by park key, how long the step waited in the scheduler and how long it took, in microseconds.
    """

    step_times: dict[str, tuple[int, int]] | None = None


def with_times(outputs: Any, times: dict[str, tuple[int, int]]) -> TimedOutputs:
    """A copy of a step's outputs, with times."""
    return TimedOutputs(**{name: getattr(outputs, name) for name in outputs.__struct_fields__}, step_times=times)


def extend_client() -> None:
    """Have engine clients read the field. Before one is made: its decoder is. Harmless when repeated."""
    vllm_client.EngineCoreOutputs = TimedOutputs
    replace_once(AsyncMPClient, "get_output_async", _without_times)


def _without_times(original: Callable[..., Any]) -> Callable[..., Any]:
    """Keep the times for `times_of`: what goes on to vLLM's code is vLLM's."""

    async def get_output_async(self: Any) -> Any:
        outputs = await original(self)
        if outputs.step_times:
            times_of(self).add(outputs.step_times)
            outputs.step_times = None
        return outputs

    return get_output_async


def times_of(client: Any) -> StepTimes:
    """The times that have come to an engine client of vLLM's."""
    times = getattr(client, _TIMES, None)
    if not isinstance(times, StepTimes):
        times = StepTimes()
        setattr(client, _TIMES, times)
    return times
