"""The engine interface: what a session needs of whatever runs the target model.

Two implementations: `pipesd_gateway.embedded` (llama.cpp in this process) and, later, vLLM. An engine serves OpenAI
requests with its own serving code; the only thing PipeSD adds is that a generation goes on step by step, each step
with the drafts that it is handed. All calls and callbacks are on the event loop's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec import Struct

from pipesd_core.errors import ApiError
from pipesd_core.protocol.messages import Endpoint
from pipesd_core.sampling.params import SamplingParams


class ModelInfo(Struct, frozen=True):
    """What a client may know of the target.

    max_context: prompt + output, tokens. max_drafts: most drafts that one step verifies. fingerprint: architecture §4.
    """

    name: str
    n_vocab: int
    fingerprint: bytes
    max_context: int
    max_drafts: int


class Opening(Struct, frozen=True):
    """A request as the engine understood it: what `Opened` tells the edge, and what bounds the session."""

    prompt_ids: tuple[int, ...]
    params: SamplingParams
    max_tokens: int
    eos_ids: tuple[int, ...]
    model: str
    stop: tuple[str, ...] = ()


class StepDone(Struct, frozen=True):
    """One engine step. `tokens`: what the target decided, accepted drafts first, at least one.

    verified: drafts that were in the pass; accepted: how many of them, from the first on, were right. ends: the answer
    ends with this step (EOS, max_tokens, a stop string), so no other may be asked for.
    """

    tokens: tuple[int, ...]
    verified: int
    accepted: int
    queue_us: int
    forward_us: int
    ends: bool = False


class Payload(Struct, frozen=True):
    """One payload of the OpenAI answer (JSON), covering the text of the first `upto` output tokens."""

    data: bytes
    upto: int
    usage: bool = False


class Finished(Struct, frozen=True):
    """The answer is complete; the engine has let go of the request."""


class Broken(Struct, frozen=True):
    """The request cannot go on; the engine has let go of it."""

    error: ApiError


EngineOutput = StepDone | Payload | Finished | Broken
"""What a generation says, in this order for each step: StepDone, then the payloads that show its tokens, then - after
the last step - Finished. Tokens past the end of the answer (EOS, max_tokens, a stop string) are never in a StepDone."""

Deliver = Callable[[EngineOutput], None]


class Generation(Protocol):
    """One OpenAI request inside an engine, parked until it is told to step."""

    @property
    def opening(self) -> Opening: ...

    def step(self, drafts: Sequence[int], ahead: int = 0) -> None:
        """Take one step that verifies `drafts` (at most `max_drafts`; the first is for the next position), then
        `ahead` steps of one token each.

        1 + ahead StepDones follow, fewer when the answer ends, or Broken; no other step may be asked for before.
        """

    def abort(self) -> None:
        """Let go of the request at once. Nothing is delivered after this call. Harmless when already over."""


class Engine(Protocol):
    """A target model with its serving code."""

    @property
    def info(self) -> ModelInfo: ...

    async def open(self, endpoint: Endpoint, body: bytes, deliver: Deliver) -> Generation:
        """Accept an OpenAI request and hold a place for it; waits in the engine's bounded, fair queue.

        Cancelling the call gives the place in the queue back. Raises ApiError (bad request, unknown model, prompt too
        long, queue full, engine broken).
        """

    async def aclose(self) -> None:
        """Stop; running generations get `Broken`."""
