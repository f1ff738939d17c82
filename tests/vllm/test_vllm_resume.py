"""A lost link is a pause: sessions of a real vLLM server are resumed, or end with the grace time and free it all."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlsplit

import pytest
from harness import DRAFT, LONG, Asking, agent_thread, wait_until
from relay import Relay
from vllm_server import KEY, VllmServer, target_only

from pipesd_agent.config import AgentConfig
from pipesd_agent.control.triggers import FixedSettings
from pipesd_agent.drafting.llama import LlamaDrafter
from pipesd_agent.session.settings import SessionSettings

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

GRACE_S = 4
CUTS = 5
KINDS: tuple[dict[str, Any], ...] = (
    {"temperature": 0},
    {"temperature": 1.0, "seed": 3},
    {"temperature": 1.0, "seed": 4, "presence_penalty": 0.5},
    {"temperature": 0, "stop": ["no such text"]},
)


def test_links_that_are_cut_in_mid_answer(tmp_path_factory: pytest.TempPathFactory) -> None:
    with VllmServer(tmp_path_factory.mktemp("vllm"), "--grace", str(GRACE_S)) as server:
        asked: dict[str, Any] = {"max_tokens": 400, "ignore_eos": True}
        expected = [target_only(server.url, LONG, **asked, **kind)[0] for kind in KINDS]
        relay = Relay(urlsplit(server.root).port or 0)
        # One draft a time, and nothing by the target alone, so that answers last.
        config = AgentConfig(
            gateway=relay.url,
            gateway_api_keys=frozenset({KEY}),
            trigger=FixedSettings(length=1),
            mode="collaborative",
            session=SessionSettings(free_start=1),
        )
        try:
            with agent_thread(config, LlamaDrafter(DRAFT)) as agent:
                askings = [
                    Asking(agent.url, LONG, stream=number % 2 == 0, **asked, **kind)
                    for number, kind in enumerate(KINDS)
                ]
                assert askings[0].first.wait(30)

                def all_run() -> bool:
                    over = [asking.wait(1) for asking in askings if not asking.running]
                    assert not over, f"answers that are over already: {over}"
                    return server.engine()["sessions"] == len(KINDS)

                wait_until(all_run, 30)
                time.sleep(1.0)  # what the server opened, the agent knows of by now
                for _ in range(CUTS):
                    relay.cut()
                    time.sleep(0.7)
                for asking, text in zip(askings, expected, strict=True):
                    outcome = asking.wait(120)
                    assert outcome.complete, outcome
                    assert outcome.text == text
                assert sum(sent.kind == "resume" for sent in relay.sent()) >= CUTS
                assert sum(sent.kind == "open" for sent in relay.sent()) == len(KINDS), "nothing was asked again"
                wait_until(lambda: server.engine()["sessions"] == 0)

                lost = Asking(agent.url, LONG, stream=True, **asked)
                assert lost.first.wait(30)
                relay.close()  # for good
                wait_until(lambda: server.engine()["sessions"] == 0, GRACE_S + 15)
        finally:
            relay.close()
