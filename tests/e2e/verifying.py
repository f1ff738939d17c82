"""`POST /v1/pipesd/verify` against what the same target writes in a session without drafts."""

from __future__ import annotations

import itertools
from typing import Any

import httpx
import msgspec
from harness import MODEL, prompts
from websockets.sync.client import connect

from pipesd_core.protocol.messages import (
    SUBPROTOCOL,
    VERSION,
    Ack,
    End,
    Endpoint,
    Event,
    Open,
    Opened,
    Verdict,
    decode_gateway,
    encode,
)

DRAFTS = 12
"""In each request; below the limit of any server."""
N_VOCAB = 4096
SAMPLING: tuple[dict[str, Any], ...] = (
    {"temperature": 0},
    {"temperature": 1.0, "seed": 2**40 + 12345},
    {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "seed": -7},
)
Case = tuple[dict[str, Any], int, int]
"""A request, and what has to come of it: accepted, token."""


def written(root: str, headers: dict[str, str], **body: Any) -> tuple[list[int], list[int]]:
    """Prompt ids, and the ids that the target writes by itself, EOS or not, with these parameters."""
    asked = msgspec.json.encode({"model": MODEL, "ignore_eos": True, **body})
    ids: list[int] = []
    prompt: list[int] = []
    with connect(
        f"{root.replace('http', 'ws', 1)}/v1/pipesd/ws",
        subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]
        additional_headers=headers,
        compression=None,
    ) as socket:
        socket.send(encode(Open(0, VERSION, Endpoint.COMPLETIONS, asked, None)))
        while True:
            frame = socket.recv(timeout=60)
            assert isinstance(frame, bytes)
            match decode_gateway(frame):
                case Opened(prompt_ids=prompt_ids):
                    prompt += prompt_ids
                case Verdict(channel, seq, tokens=tokens):
                    ids += tokens
                    socket.send(encode(Ack(channel, seq)))
                case Event(channel, seq):
                    socket.send(encode(Ack(channel, seq)))
                case End():
                    return prompt, ids
                case other:
                    raise AssertionError(other)


def cases(prompt: list[int], truth: list[int], sampling: dict[str, Any]) -> list[Case]:
    """Right drafts, wrong ones at several places, none, and the same from the middle of the answer on."""
    found: list[Case] = [({"prompt": prompt, "drafts": [], **sampling}, 0, truth[0])]
    for begin, wrong_at in itertools.product((0, 5), (0, 1, 7, DRAFTS - 1, None)):
        drafts = truth[begin : begin + DRAFTS]
        if wrong_at is not None:
            drafts[wrong_at] = (drafts[wrong_at] + 1) % N_VOCAB
        accepted = DRAFTS if wrong_at is None else wrong_at
        found.append(
            ({"prompt": prompt + truth[:begin], "drafts": drafts, **sampling}, accepted, truth[begin + accepted])
        )
    return found


def check(root: str, headers: dict[str, str], count: int) -> int:
    """Raises AssertionError where the route says anything but what the target wrote. Returns the cases compared."""
    found: list[Case] = []
    for text, sampling in itertools.product(prompts(count), SAMPLING):
        prompt, truth = written(root, headers, prompt=text, max_tokens=DRAFTS + 6, **sampling)
        assert len(truth) == DRAFTS + 6
        found += cases(prompt, truth, sampling)
    for begin in range(0, len(found), 64):
        batch = found[begin : begin + 64]
        body = {"model": MODEL, "requests": [request for request, _, _ in batch]}
        response = httpx.post(f"{root}/v1/pipesd/verify", json=body, headers=headers, timeout=300)
        assert response.status_code == 200, response.text
        for (request, accepted, token), result in zip(batch, response.json()["results"], strict=True):
            assert (result["accepted"], result["token"]) == (accepted, token), request
            assert result["seed"] == request.get("seed", result["seed"])
    return len(found)
