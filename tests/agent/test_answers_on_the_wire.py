"""Texts, bodies and keys of any kind, through a whole agent, over sockets, at a gateway with a fake engine."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpx
import pytest
from event_stream import data_by_unicode_s_lines, has_the_format_s_lines_only
from openai import AsyncOpenAI
from test_figures_agree import serving

from pipesd_agent.api.app import create_app as agent_app
from pipesd_agent.build import make_agent
from pipesd_agent.config import AgentConfig
from pipesd_core.engine.fake import FakeEngine, FakeGeneration, script
from pipesd_core.engine.interface import Payload, StepDone
from pipesd_core.service.api_keys import Keys
from pipesd_gateway import agents
from pipesd_gateway.api import create_app as gateway_app
from pipesd_gateway.limits import SessionLimits
from pipesd_gateway.quota import Quota

CHARACTERS = {1: "\u2028", 2: "\u2029", 3: "\N{GRINNING FACE}"}
"""What these tokens of the fake engine's stand for here."""
TOKENS = list(b"a\x0b\x0c\x1c\x1d\x1e\x85\r\n\x01\x02\x03 b") * 2
TEXT = "".join(CHARACTERS.get(token, chr(token)) for token in TOKENS)
"""What the target writes: every line end of Unicode's, and more than ASCII."""
BODY: dict[str, Any] = {"prompt": "x", "max_tokens": 99}


def characters(generation: FakeGeneration, done: StepDone) -> list[Payload]:
    """The payloads of a step, unescaped as vLLM's are."""
    return [
        Payload(
            re.sub(rb"\\u000([123])", lambda found: CHARACTERS[int(found[1])].encode(), payload.data),
            payload.upto,
            usage=payload.usage,
        )
        for payload in generation.payloads(done)
    ]


class Sides(NamedTuple):
    """Addresses of both, without /v1."""

    gateway: str
    agent: str


@asynccontextmanager
async def both(*gateway_keys: str) -> AsyncIterator[Sides]:
    """An agent, which has no key, at a gateway."""
    engine = FakeEngine(script(TOKENS), payloads=characters)
    keys = Keys(frozenset(gateway_keys))
    gateway = gateway_app(engine, keys=keys)
    agents.attach(gateway, engine, SessionLimits(), keys.authorize, Quota())
    async with serving(gateway) as address:
        agent = make_agent(AgentConfig(gateway=address, mode="collaborative"))
        async with serving(agent_app(agent)) as own:
            yield Sides(address, own)
    await engine.aclose()


async def chat(agent: str, typed: bytes, **environ: str) -> tuple[int | None, str, str]:
    """(exit code, stdout, stderr) of a person's chat."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pipesd_agent", "chat", "--url", f"{agent}/v1", "--max-tokens", "99"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environ},
    )
    async with asyncio.timeout(60):
        out, errors = await process.communicate(typed)
    return process.returncode, out.decode(), errors.decode()


@pytest.mark.parametrize("side", Sides._fields)
async def test_an_answer_has_no_line_end_but_those_of_its_format(side: str) -> None:
    async with both() as sides, httpx.AsyncClient(base_url=getattr(sides, side), timeout=60) as client:
        whole = await client.post("/v1/completions", json=BODY)
        assert whole.json()["choices"][0]["text"] == TEXT
        assert has_the_format_s_lines_only(whole.text)
        streamed = await client.post("/v1/completions", json=BODY | {"stream": True})
        assert has_the_format_s_lines_only(streamed.text)
        lines = data_by_unicode_s_lines(streamed)
        assert lines.pop() == "[DONE]"
        assert "".join(json.loads(line)["choices"][0]["text"] for line in lines) == TEXT


@pytest.mark.parametrize("side", Sides._fields)
async def test_the_sdk_s_text_is_the_target_s(side: str) -> None:
    async with both() as sides, AsyncOpenAI(base_url=f"{getattr(sides, side)}/v1", api_key="none") as client:
        stream = await client.chat.completions.create(
            model="fake", messages=[{"role": "user", "content": "x"}], max_tokens=99, stream=True
        )
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == TEXT


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
async def test_a_person_s_chat_shows_it_whole(encoding: str) -> None:
    shown = TEXT.encode(encoding, "backslashreplace").decode(encoding)
    async with both() as sides:
        code, out, errors = await chat(sides.agent, b"x\r\n/new\ny\n", PYTHONIOENCODING=encoding)
    assert (code, errors) == (0, "")
    assert out.count(f"\n> {shown}\n") == 2


async def test_a_refused_gateway_key_is_what_a_person_hears_of() -> None:
    async with both("secret") as sides:
        async with httpx.AsyncClient() as client, asyncio.timeout(60):
            while "refuses" not in (await client.get(f"{sides.agent}/health")).text:  # noqa: ASYNC110  it dials by itself
                await asyncio.sleep(0.05)
        code, out, errors = await chat(sides.agent, b"x\n")
    assert (code, out) == (1, "")
    (line,) = errors.splitlines()
    assert line.startswith("pipesd-agent chat: the agent at http://127.0.0.1:")
    assert "refuses this agent's key" in line
    assert "set gateway_api_key_file" in line
    assert "no agent" not in line


@pytest.mark.parametrize("side", Sides._fields)
async def test_a_body_with_a_byte_order_mark_is_the_same_body(side: str) -> None:
    async with both() as sides, httpx.AsyncClient(base_url=getattr(sides, side), timeout=60) as client:
        response = await client.post("/v1/completions", content=b"\xef\xbb\xbf" + json.dumps(BODY).encode())
        assert response.status_code == 200, response.text
        assert response.json()["choices"][0]["text"] == TEXT
        for encoding, name in (("utf-16", "UTF-16"), ("utf-32", "UTF-32")):
            response = await client.post("/v1/completions", content=json.dumps(BODY).encode(encoding))
            assert response.status_code == 400
            assert response.json()["error"]["message"] == f"the body is {name} text; send JSON in UTF-8"


async def test_verification_too_takes_a_body_with_a_mark() -> None:
    body = json.dumps({"requests": [{"prompt": [120], "drafts": [97], "temperature": 0}]}).encode()
    async with both() as sides, httpx.AsyncClient(base_url=sides.gateway, timeout=60) as client:
        response = await client.post("/v1/pipesd/verify", content=b"\xef\xbb\xbf" + body)
    assert response.status_code == 200, response.text
