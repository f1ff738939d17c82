"""What drafts cost on the wire, WebSocket headers and masks included: measured behind the agent's socket, and compared
with what the agent itself counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from harness import DRAFT, Process, agent_thread, gateway, prompts
from relay import Relay, Sent

from pipesd_agent.config import AgentConfig
from pipesd_agent.control.triggers import DualSettings, FixedSettings, TriggerSettings
from pipesd_agent.session.settings import SessionSettings
from pipesd_core.protocol.messages import Draft

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with gateway(tmp_path_factory.mktemp("gateway")) as process:
        yield process


def measure(
    target: Process, trigger: TriggerSettings, batcher: str, asks: list[dict[str, Any]]
) -> tuple[list[Sent], list[dict[str, Any]]]:
    """(what the agent sent, the records of the requests)."""
    relay = Relay(int(target.root.rpartition(":")[2]))
    records = []
    try:
        # The target waits for the drafts, however slowly they come: a busy machine changes no message.
        config = AgentConfig(
            gateway=relay.url,
            draft_model=DRAFT,
            trigger=trigger,
            batcher=batcher,
            mode="collaborative",
            session=SessionSettings(free_start=1),
        )
        with agent_thread(config) as agent, httpx.Client(base_url=agent.url, timeout=60) as client:
            for ask in asks:
                response = client.post("/completions", json=ask)
                assert response.status_code == 200, response.text
                records.append(client.get(f"/pipesd/requests/{response.headers['x-request-id']}").json())
        return relay.sent(), records
    finally:
        relay.close()


def report(sent: list[Sent], tokens: int) -> None:
    sizes, counts = Counter[str](), Counter[str]()
    for item in sent:
        sizes[item.kind] += item.size
        counts[item.kind] += 1
    for kind, size in sizes.items():
        print(f"{kind:>12}: {size:6} bytes in {counts[kind]:4} messages")
    print(f"{'drafts':>12}: {sizes['draft'] / tokens:.2f} bytes per drafted token sent")


ASKS: list[dict[str, Any]] = [
    {"prompt": prompt, "max_tokens": 64, "stream": number % 2 == 0, "temperature": (0, 0.7)[number % 2], "seed": number}
    for number, prompt in enumerate(prompts(10))
]


@pytest.mark.parametrize(
    ("trigger", "batcher", "batch", "limit"),
    [
        (FixedSettings(length=4), "immediate", 1, 20.0),
        (FixedSettings(length=8), "single", 8, 7.0),
    ],
    ids=["one by one", "batches of 8"],
)
def test_bytes_per_drafted_token(
    target: Process, trigger: TriggerSettings, batcher: str, batch: int, limit: float
) -> None:
    sent, records = measure(target, trigger, batcher, ASKS)
    drafts = [(item.size, len(item.message.ids)) for item in sent if isinstance(item.message, Draft)]
    full = [size for size, tokens in drafts if tokens == batch]
    report(sent, sum(tokens for _, tokens in drafts))
    each = sum(full) / len(full) / batch
    print(f"{len(full)} of {len(drafts)} draft messages hold {batch}: {each:.2f} bytes a token")
    assert len(full) >= 10, "this measures something else"
    assert each <= limit
    if batch == 1:
        # What is not alone shares its header: all together are cheaper still.
        assert sum(size for size, _ in drafts) / sum(tokens for _, tokens in drafts) <= limit
    assert sum(record["counts"]["sent"] for record in records) == sum(tokens for _, tokens in drafts)


def test_the_agent_counts_what_travels(target: Process) -> None:
    """Also for an `open` that goes in fragments. What is sent after the answer (acks, close) is not in the record."""
    long: dict[str, Any] = {
        "prompt": "def f(x):\n    return x\n" * 60,
        "max_tokens": 80,
        "temperature": 0.5,
        "seed": 1,
    }
    asks = [*ASKS[:4], long | {"user": "u" * 9000}, long | {"stream": True}]
    sent, records = measure(target, DualSettings(), "immediate", asks)
    sizes = Counter[str]()
    for item in sent:
        sizes[item.kind] += item.size
    counted = Counter[str]()
    for record in records:
        counted.update(record["upload_bytes"])
    assert counted["open"] == sizes["open"]
    assert counted["drafts"] == sizes["draft"]
    assert 0 < counted["acks"] <= sizes["ack"]
    assert counted["other"] <= sizes["run"] + sizes["close"]
