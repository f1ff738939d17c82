"""What the plugin adds to vLLM's metrics, as a collector of another program's registry."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from pipesd_core.engine.fake import FakeEngine, script
from pipesd_core.engine.interface import EngineOutput
from pipesd_core.protocol.messages import Endpoint
from pipesd_vllm.metrics import PluginMetrics


async def test_sessions_steps_and_the_scheduler_are_shown() -> None:
    metrics, registry = PluginMetrics(), CollectorRegistry(auto_describe=True)
    engine = FakeEngine(script(b"ab"))
    engine.running = False
    measured = metrics.gateway.measure(engine, "agent")
    registry.register(metrics)
    assert b"pipesd_engine_sequences_open 0.0\n" in generate_latest(registry)
    outputs: list[EngineOutput] = []
    generation = await measured.open(Endpoint.COMPLETIONS, b'{"prompt": "x"}', outputs.append)
    generation.step(b"ax")
    engine.generations[0].go()
    metrics.scheduler = {"sessions": 4, "parked": 3, "evicted": 2, "evictions": 7, "steps": 9}
    text = generate_latest(registry).decode()
    for sample in (
        'pipesd_gateway_requests_running{source="agent"} 1.0',
        'pipesd_gateway_time_to_first_token_seconds_count{source="agent"} 1.0',
        "pipesd_engine_verifying_steps_total 1.0",
        "pipesd_engine_draft_tokens_total 2.0",
        "pipesd_engine_accepted_draft_tokens_total 1.0",
        "pipesd_engine_sequences_open 4.0",
        "pipesd_engine_sequences_parked 3.0",
        "pipesd_engine_sequences_evicted 2.0",
        "pipesd_engine_evictions_total 7.0",
    ):
        assert f"{sample}\n" in text, sample
