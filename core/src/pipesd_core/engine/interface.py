"""The engine interface, between sessions and whatever runs the target model.

Three implementations: `pipesd_core.llamacpp.runtime.engine` (llama.cpp in this process), `pipesd_vllm.engine` (a vLLM
server) and `pipesd_core.engine.fake` (for tests). An engine serves OpenAI requests with its own serving code; the only
thing PipeSD adds is that a generation goes on step by step, each step with the drafts that it is handed. All calls and
callbacks are on the event loop's thread. The rules in tests/conformance/engine_rules.py test every engine against this
module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from msgspec import Struct

from pipesd_core.errors import ApiError
from pipesd_core.protocol.messages import Endpoint
from pipesd_core.sampling.params import SamplingParams


class ModelInfo(Struct, frozen=True):
    """Facts about the target that clients get.

    max_context: prompt + output, tokens. max_drafts: most drafts that one step verifies. fingerprint: architecture §4.
    """

    name: str
    n_vocab: int
    fingerprint: bytes
    max_context: int
    max_drafts: int

    def entry(self, created: int = 0) -> dict[str, Any]:
        """Its entry in OpenAI's list of models; the context under vLLM's name for it."""
        listed = {"id": self.name, "object": "model", "created": created, "owned_by": "pipesd"}
        return listed | {"max_model_len": self.max_context}


class Opening(Struct, frozen=True):
    """A request as the engine understood it: the content of `Opened`, and the bounds of the session.

    params: the effective ones; the seed is drawn where none was given. max_tokens: as asked for or, where the engine
    cuts it instead of refusing, what the context has room for. eos_ids: none where EOS is ignored. ignored:
    `openai_parameters.ignored_list` of the parameters that the engine has left aside.
    """

    prompt_ids: tuple[int, ...]
    params: SamplingParams
    max_tokens: int
    eos_ids: tuple[int, ...]
    model: str
    stop: tuple[str, ...] = ()
    ignored: str = ""


class Queued(Struct, frozen=True):
    """The request has been checked, and `open` waits for a slot. Engines that do not know when that is leave it out."""

    opening: Opening


class StepDone(Struct, frozen=True):
    """One engine step. `tokens`: what the target decided, accepted drafts first, at least one.

    verified: drafts that were in the pass, from the first on; fewer than were handed over, or none, where the engine
    cannot take all of them (vLLM's first step is the prompt's): the others are forgotten. accepted: how many of them,
    from the first on, were right. One token follows those, unless the answer ends before. ends: the answer ends with
    this step (EOS, max_tokens, a stop string), so no other may be asked for.

    Drafts change how many steps there are and nothing else: the tokens, and the text, are those of a run with empty
    drafts, at temperature 0 and, with the seed of `Opening.params`, at any other.
    """

    tokens: tuple[int, ...]
    verified: int
    accepted: int
    queue_us: int
    forward_us: int
    ends: bool = False


class Working(Struct, frozen=True):
    """A sign of life: a forward pass has ended, on a part of the prompt or for others, and the step is still to come.

    Whoever waits for a step measures his patience by it: a long prompt takes many forward passes.
    """


class Payload(Struct, frozen=True):
    """One payload of the OpenAI answer (JSON), covering the text of the first `upto` output tokens.

    upto never falls, is never beyond the tokens of the StepDones before it, and is all of them in the last one. usage:
    it has the counts of the whole answer; such is the only payload of an answer that is not streamed.
    """

    data: bytes
    upto: int
    usage: bool = False


class Finished(Struct, frozen=True):
    """The answer is complete; the engine has released the request."""


class Broken(Struct, frozen=True):
    """The request cannot go on; the engine has released it."""

    error: ApiError


EngineOutput = Queued | StepDone | Working | Payload | Finished | Broken
"""The outputs of a generation, in this order for each step: StepDone, then the payloads that show its tokens, then -
after the last step - Finished. Tokens past the end of the answer (EOS, max_tokens, a stop string) are never in a
StepDone. Broken may come at any time after `open`. There is no other output before the first step than one Queued,
which comes before `open` returns; and none after Finished or Broken. Working may come between a call of `step` and its
last StepDone, about once a second."""

Deliver = Callable[[EngineOutput], None]
"""Receives the outputs of a generation. It may call `step`, once the last StepDone of the step before is there (its
payloads are delivered all the same), and `abort`; it must not raise."""


class Generation(Protocol):
    """One OpenAI request inside an engine, parked until `step` is called.

    Whoever opened it calls `abort` in the end, unless it took Finished or Broken. Generations are independent: no
    step, abort or failure of one changes the outputs of another.
    """

    @property
    def opening(self) -> Opening: ...

    def step(self, drafts: Sequence[int], ahead: int = 0) -> None:
        """Take one step that verifies `drafts` (at most `max_drafts`; the first is for the next position), then
        `ahead` steps of one token each.

        1 + ahead StepDones follow, fewer when the answer ends, or Broken; no other step may be asked for before.

        Raises ValueError for more drafts, or ids outside the vocabulary: nothing has happened then, and another step
        may be asked for. Raises RuntimeError while a step is under way, which goes on, and when the answer has ended,
        Broken was delivered or `abort` called.
        """

    def abort(self) -> None:
        """Release the request at once. Nothing is delivered after this call. Harmless when already over."""


class Engine(Protocol):
    """A target model with its serving code."""

    @property
    def info(self) -> ModelInfo: ...

    async def open(self, endpoint: Endpoint, body: bytes, deliver: Deliver) -> Generation:
        """Accept an OpenAI request and reserve a slot for it; waits in the engine's bounded, fair admission queue.

        Cancelling the call gives the slot, or the place in the queue, back. Raises ApiError: a bad request (400, the
        field is named), an unknown model (404), a prompt too long (400), a full queue (429), an engine that is broken
        or closed (5xx).
        """

    async def aclose(self) -> None:
        """Stop; running generations, parked ones too, get `Broken`, and calls of `open` that wait raise. Harmless when
        repeated."""
