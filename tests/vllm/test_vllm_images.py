"""A model that takes images behind the agent: text is drafted for, requests with images go to the server as they are.

The agent knows such requests by their shape (tests/agent/api/test_eligibility.py); here a server computes them.
"""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import httpx
import pytest
from harness import MODEL, agent_thread, complete, prompts
from test_vllm_draw import run_script
from vllm_server import HEADERS, KEY, NOISE, VllmServer, target_only

from pipesd_agent.config import AgentConfig
from pipesd_agent.session.settings import SessionSettings

pytestmark = [pytest.mark.vllm, pytest.mark.full, pytest.mark.timeout(900)]

SAMPLING: tuple[dict[str, Any], ...] = ({"temperature": 0}, {"temperature": 0.9, "seed": 3})
SIDE = 28


def png(red: int, blue: int) -> str:
    """A picture of one colour, as a data URL."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes((red, 0, blue)) * SIDE for _ in range(SIDE))
    head = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    image = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def seen(url: str, image: str, **parameters: Any) -> tuple[str, str | None]:
    """What is written about an image, and the mode that the answer names."""
    content = [
        {"type": "text", "text": "Describe this: "},
        {"type": "image_url", "image_url": {"url": image}},
    ]
    body = {"model": MODEL, "messages": [{"role": "user", "content": content}], "max_tokens": 24, **parameters}
    answer = httpx.post(f"{url}/chat/completions", json=body, headers=HEADERS, timeout=60)
    assert answer.status_code == httpx.codes.OK, answer.text
    return answer.json()["choices"][0]["message"]["content"], answer.headers.get("x-pipesd-mode")


def test_images_go_to_the_server_and_text_is_drafted_for(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("multimodal")
    run_script("multimodal_model.py", 200, str(folder))
    images = png(250, 0), png(0, 250)
    with VllmServer(tmp_path_factory.mktemp("vllm"), target=folder) as server:
        config = AgentConfig(
            gateway=server.root, gateway_api_keys=frozenset({KEY}), session=SessionSettings(free_start=1)
        )
        with agent_thread(config) as agent:
            for sampling in SAMPLING:
                alone = [seen(server.url, image, **sampling, **NOISE)[0] for image in images]
                assert alone[0] != alone[1], "the model does not look at its images"
                assert [seen(agent.url, image, **sampling) for image in images] == [(text, "cloud") for text in alone]
                drafted = 0
                for prompt in prompts(4):
                    expected = target_only(server.url, prompt, max_tokens=48, **sampling)
                    *got, usage = complete(agent.url, prompt, max_tokens=48, **sampling)
                    assert tuple(got) == expected
                    drafted += usage["pipesd"]["drafted"]
                assert drafted > 0
        assert server.engine()["sessions"] == 0
