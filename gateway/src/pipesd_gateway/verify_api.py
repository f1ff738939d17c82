"""`POST /v1/pipesd/verify`: verification of drafts over plain HTTP, for people who bring their own edge.

No session and no state: each call names the whole prefix (docs/verify.md). One generation of the engine for each
request of the batch, side by side, so that they share the engine's steps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from pipesd_core.engine.interface import Broken, Engine, EngineOutput, Finished, ModelInfo, StepDone, Working
from pipesd_core.errors import ApiError, ContextLengthExceeded, EngineFailed, InvalidRequest, Unavailable
from pipesd_core.openai_body import NOT_JSON
from pipesd_core.protocol.messages import Endpoint
from pipesd_core.sampling.params import SamplingParams
from pipesd_core.sampling.sampler import draw_seed
from pipesd_core.service.http import ClientGone, json_response, read_body, while_connected

MAX_REQUESTS: Final = 64
TIMEOUT_S: Final = 300.0
"""Longest time without any sign of life from the engine for any request of a batch, waiting in its queue included."""
_MAX_OUTPUTS: Final = 64
"""Most outputs of one step; a step has three or four."""


class RawRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """One request of the batch as it came. Defaults are the OpenAI API's."""

    prompt: tuple[int, ...]
    drafts: tuple[int, ...]
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None


class _Body(Struct, frozen=True, forbid_unknown_fields=True):
    requests: tuple[RawRequest, ...]
    model: str | None = None


class VerificationRequest(Struct, frozen=True):
    """One request, checked. model None: the only one there is. params: effective, seed drawn."""

    prompt: tuple[int, ...]
    drafts: tuple[int, ...]
    params: SamplingParams
    model: str | None = None

    def body(self) -> bytes:
        """The OpenAI request for the engine."""
        fields = {
            "model": self.model,
            "prompt": self.prompt,
            "max_tokens": len(self.drafts) + 1,
            "temperature": self.params.temperature,
            "top_p": self.params.top_p,
            "top_k": self.params.top_k,
            "seed": self.params.seed,
            "ignore_eos": True,
        }
        return msgspec.json.encode({name: value for name, value in fields.items() if value is not None})


class VerificationResult(Struct, frozen=True):
    """A result: the first `accepted` drafts are the target's own tokens, and `token` comes after them."""

    accepted: int
    token: int
    seed: int


async def respond(request: Request, engine: Engine) -> Response:
    """Answer a request, in any app: errors are OpenAI-shaped whatever its handlers. The caller has checked the key."""
    try:
        wanted = parse(await read_body(request), engine.info)
        results = await while_connected(request, verify(engine, wanted))
        return json_response({"model": engine.info.name, "results": results})
    except ApiError as error:
        return json_response(error.body(), error.status, error.headers())
    except ClientGone:
        return Response(status_code=499)  # as in `http`: nobody reads it


def parse(body: bytes, info: ModelInfo) -> list[VerificationRequest]:
    """The batch in `body`, checked against the target. Raises InvalidRequest, and nothing else."""
    try:
        asked = msgspec.json.decode(body, type=_Body)
    except NOT_JSON as error:
        what, _, where = str(error).partition(" - at `$")
        where = where.strip("`.")
        raise InvalidRequest(f"{where}: {what}" if where else f"the body: {what}", param=where or None) from None
    if not 1 <= len(asked.requests) <= MAX_REQUESTS:
        raise InvalidRequest(
            f"requests must hold 1 to {MAX_REQUESTS} requests, but holds {len(asked.requests)}", param="requests"
        )
    return [_check(f"requests[{i}]", one, asked.model, info) for i, one in enumerate(asked.requests)]


async def verify(engine: Engine, batch: Sequence[VerificationRequest]) -> list[VerificationResult]:
    """Verify each request of the batch; results in order. Raises ApiError: the first failure ends all of them.

    Cancelling the call releases everything, as any other end does.
    """
    opening = asyncio.Lock()
    try:
        async with asyncio.timeout(TIMEOUT_S) as patience, asyncio.TaskGroup() as group:
            tasks = [group.create_task(_verify_one(engine, wanted, opening, patience)) for wanted in batch]
    except TimeoutError:
        raise Unavailable(
            f"the engine did nothing for the batch of {len(batch)} in {TIMEOUT_S:g} s; try again, or send fewer at once"
        ) from None
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


async def _verify_one(
    engine: Engine, request: VerificationRequest, opening: asyncio.Lock, patience: asyncio.Timeout
) -> VerificationResult:
    outputs: asyncio.Queue[EngineOutput] = asyncio.Queue(_MAX_OUTPUTS)

    def deliver(output: EngineOutput) -> None:
        if not patience.expired():
            patience.reschedule(asyncio.get_running_loop().time() + TIMEOUT_S)
        if not isinstance(output, Working):
            outputs.put_nowait(output)

    async with opening:  # one request at a time waits in the engine's bounded queue
        generation = await engine.open(Endpoint.COMPLETIONS, request.body(), deliver)
    try:
        accepted = 0
        while True:
            # An engine may decide fewer drafts than it was given: vLLM verifies none in the step of the prompt.
            generation.step(request.drafts[accepted:])
            done = await _step_done(outputs)
            for token in done.tokens:
                if request.drafts[accepted : accepted + 1] != (token,):
                    return VerificationResult(accepted, token, request.params.seed)
                accepted += 1
            if done.ends:
                raise EngineFailed(f"the engine ended the answer after {accepted} of {len(request.drafts)} drafts")
    finally:
        generation.abort()


async def _step_done(outputs: asyncio.Queue[EngineOutput]) -> StepDone:
    while True:
        match await outputs.get():
            case StepDone() as done:
                return done
            case Broken(error=error):
                raise error
            case Finished():
                raise EngineFailed("the engine ended the answer without taking a step")


def _check(where: str, request: RawRequest, model: str | None, info: ModelInfo) -> VerificationRequest:
    if not request.prompt:
        raise InvalidRequest(f"{where}.prompt must hold at least one token id, but is empty", param=f"{where}.prompt")
    _check_ids(f"{where}.prompt", request.prompt, info.n_vocab)
    if len(request.drafts) > info.max_drafts:
        raise InvalidRequest(
            f"{where}.drafts may hold {info.max_drafts} token ids, but holds {len(request.drafts)}",
            param=f"{where}.drafts",
        )
    _check_ids(f"{where}.drafts", request.drafts, info.n_vocab)
    length = len(request.prompt) + len(request.drafts) + 1
    if length > info.max_context:
        raise ContextLengthExceeded(
            f"{where} has {len(request.prompt)} prompt ids and {len(request.drafts)} drafts, with the token after them "
            f"{length}, but the context is {info.max_context} tokens; send fewer",
            param=where,
        )
    seed = draw_seed() if request.seed is None else request.seed
    try:
        params = SamplingParams(request.temperature, request.top_p, request.top_k, seed)
    except InvalidRequest as error:
        raise InvalidRequest(f"{where}.{error.message}", param=f"{where}.{error.param}") from None
    return VerificationRequest(request.prompt, request.drafts, params, model)


def _check_ids(where: str, ids: tuple[int, ...], n_vocab: int) -> None:
    if ids and not (min(ids) >= 0 and max(ids) < n_vocab):
        at, token = next((at, token) for at, token in enumerate(ids) if not 0 <= token < n_vocab)
        raise InvalidRequest(
            f"{where}[{at}] must be a token id from 0 to {n_vocab - 1}, but is {token}", param=f"{where}[{at}]"
        )
