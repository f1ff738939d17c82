"""Run under .venv-vllm's python by test_vllm_outputs.py: the side channel through vLLM's own wire and client."""

from __future__ import annotations

import asyncio
from typing import Any

import vllm.v1.engine.core  # noqa: F401  # the other process's part, which the plugin loads too
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, FinishReason
from vllm.v1.engine import core_client as vllm_client
from vllm.v1.engine.core_client import AsyncMPClient
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

from pipesd_vllm.compat.outputs import TimedOutputs, extend_client, times_of, with_times


def plain() -> EngineCoreOutputs:
    return EngineCoreOutputs(
        engine_index=0,
        outputs=[
            EngineCoreOutput("a", [1, 2], kv_transfer_params={"theirs": 1}, finish_reason=FinishReason.STOP),
            EngineCoreOutput("b", [3]),
        ],
        timestamp=5.0,
        finished_requests={"c"},
        weight_version="7",
    )


def through_the_wire(message: EngineCoreOutputs, kind: Any) -> Any:
    return MsgpackDecoder(kind).decode(MsgpackEncoder().encode(message))


def fields(message: EngineCoreOutputs) -> list[Any]:
    """vLLM's own fields."""
    return [getattr(message, name) for name in EngineCoreOutputs.__struct_fields__]


async def received(message: EngineCoreOutputs) -> tuple[Any, Any]:
    """What an engine client hands on, and the client."""
    client = object.__new__(AsyncMPClient)
    client.outputs_queue = asyncio.Queue()
    client._ensure_output_queue_task = lambda: None
    times_of(client).watch("key")
    client.outputs_queue.put_nowait(message)
    return await client.get_output_async(), client


def main() -> None:
    timed = with_times(plain(), {"key": (11, 22)})
    assert fields(timed) == fields(plain())
    read = through_the_wire(timed, TimedOutputs)
    assert type(read) is TimedOutputs
    assert fields(read) == fields(plain())
    assert read.step_times == {"key": (11, 22)}
    assert fields(through_the_wire(timed, EngineCoreOutputs)) == fields(plain()), "a reader that knows nothing of it"
    assert through_the_wire(plain(), TimedOutputs).step_times is None

    for _ in range(2):
        extend_client()
    assert vllm_client.EngineCoreOutputs is TimedOutputs, "what MPClient makes its decoder for"
    handed_on, client = asyncio.run(received(read))
    assert fields(handed_on) == fields(plain())
    assert handed_on.step_times is None
    assert times_of(client).take("key") == (11, 22)
    handed_on, client = asyncio.run(received(through_the_wire(plain(), TimedOutputs)))
    assert times_of(client).take("key") == (0, 0)
    print("side channel ok")


if __name__ == "__main__":
    main()
