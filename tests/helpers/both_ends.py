"""A gateway and an agent before it, whole, sockets between them: the embedded engine over a decoder that writes a text.

Clients call the apps themselves: a kept connection would end whenever this process has no time for five seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fake_decoder import EOS, FakeDecoder
from starlette.applications import Starlette
from test_figures_agree import serving

from pipesd_agent.api.app import create_app as agent_app
from pipesd_agent.build import make_agent
from pipesd_agent.config import AgentConfig
from pipesd_agent.tuning.settings import TunerSettings
from pipesd_core.llamacpp.runtime.engine import EmbeddedEngine
from pipesd_core.openai_parameters import UnknownParameters
from pipesd_core.service.api_keys import Keys
from pipesd_gateway import agents
from pipesd_gateway.api import create_app as gateway_app
from pipesd_gateway.limits import SessionLimits
from pipesd_gateway.quota import Quota

TEXT = "hi there"


def client_of(app: Starlette) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://here")


@asynccontextmanager
async def both_ends(
    decoder: FakeDecoder | None = None,
    *,
    at_the_gateway: UnknownParameters = "refuse",
    at_the_agent: UnknownParameters = "refuse",
) -> AsyncIterator[tuple[httpx.AsyncClient, httpx.AsyncClient]]:
    """Clients of the gateway's own API and of the agent's; the model is named `fake`.

    decoder: the target; without one it writes `TEXT` and has a context of 64 tokens.
    """
    if decoder is None:
        decoder = FakeDecoder(TEXT.encode())
        decoder.answer += (EOS,) * decoder.n_ctx_seq  # for those who ignore it
    engine = EmbeddedEngine(decoder, name="fake", unknown_parameters=at_the_gateway)
    gateway = gateway_app(engine)
    agents.attach(gateway, engine, SessionLimits(), Keys().authorize, Quota())
    async with serving(gateway) as address:
        agent = make_agent(AgentConfig(gateway=address, mode="collaborative", tuner=TunerSettings(enabled=False)))
        agent.start()
        app = agent_app(agent, unknown_parameters=at_the_agent)
        try:
            async with client_of(gateway) as plain, client_of(app) as drafted:
                async with asyncio.timeout(300):
                    while (await drafted.get("/ready")).status_code != 200:  # noqa: ASYNC110  nobody tells when it is
                        await asyncio.sleep(0.01)
                yield plain, drafted
        finally:
            await agent.aclose()
    await engine.aclose()
