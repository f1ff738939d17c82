"""vLLM's own OpenAI serving code, run for one session: its answers in, its errors as ours.

`Serving.answer` runs a copy of vLLM's serving object whose `engine_client` is a tap: everything passes, but `generate`
is the caller's.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, Final

import msgspec
from pydantic import ValidationError
from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.exception_handling.error_response import create_error_response
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.exceptions import EngineDeadError

from pipesd_core.engine.interface import ModelInfo, Opening
from pipesd_core.errors import ApiError, InvalidRequest
from pipesd_core.openai_body import is_more_than_one
from pipesd_core.protocol.fingerprint import fingerprint
from pipesd_core.protocol.hf_vocabulary import pieces
from pipesd_core.protocol.messages import Endpoint
from pipesd_core.sampling.params import GREEDY_BELOW, SamplingParams
from pipesd_core.sampling.sampler import draw_seed
from pipesd_vllm import park_keys
from pipesd_vllm.compat.ending import EngineGone

Generate = Callable[..., AsyncIterator[Any]]

_DATA: Final = "data: "
_DONE: Final = "[DONE]"


class Route(msgspec.Struct, frozen=True):
    """One of vLLM's routes.

    serving: name of its serving object in the app's state. create: the method that answers. request: what it takes.
    dump: arguments with which vLLM's route writes a whole answer.
    """

    serving: str
    create: str
    request: Any
    dump: dict[str, Any] = {}


ROUTES: Final = {
    Endpoint.CHAT_COMPLETIONS: Route("openai_serving_chat", "create_chat_completion", ChatCompletionRequest),
    Endpoint.COMPLETIONS: Route("openai_serving_completion", "create_completion", CompletionRequest),
    Endpoint.RESPONSES: Route(
        "openai_serving_responses", "create_responses", ResponsesRequest, {"mode": "json", "by_alias": True}
    ),
    Endpoint.MESSAGES: Route(
        "anthropic_serving_messages", "create_messages", AnthropicMessagesRequest, {"exclude_none": True}
    ),
}


class _Seed(msgspec.Struct):
    """The seed of a body whose request has no such field in vLLM."""

    seed: int | None = None


class Refused(ApiError):
    """An error as vLLM words it."""

    def __init__(self, message: str, status: int, kind: str, param: str | None) -> None:
        super().__init__(message, param=param)
        self.status = status
        self.type = kind


class Tap:
    """An engine client whose `generate` is the caller's."""

    def __init__(self, engine_client: Any, generate: Generate) -> None:
        self._engine_client = engine_client
        self.generate = generate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine_client, name)


class Serving:
    """The serving objects of one API server.

    Args:
        state: of vLLM's app, which holds them.
    """

    def __init__(self, engine_client: Any, state: Any) -> None:
        self.engine_client = engine_client
        self._state = state
        config = engine_client.vllm_config
        self._tokenizer = engine_client.renderer.tokenizer
        self.info = ModelInfo(
            name=state.openai_serving_models.base_model_paths[0].name,
            n_vocab=config.model_config.get_vocab_size(),
            fingerprint=fingerprint(pieces(self._tokenizer, config.model_config.get_vocab_size())),
            max_context=config.model_config.max_model_len,
            max_drafts=config.speculative_config.num_speculative_tokens,
        )
        # Bound of prompt ids: a tokenizer may have ids for placeholders in prompts, which are never drawn.
        self._ids_below = max(self.info.n_vocab, getattr(self._tokenizer, "max_token_id", 0) + 1)
        self._eos_ids = _eos_ids(config.model_config, self._tokenizer)
        # V2 draws shared noise for every seeded request; on V1 our sampler does, for those that ask for it.
        self._noise = {} if config.use_v2_model_runner else {park_keys.NOISE_ARG: 1}

    async def answer(self, endpoint: Endpoint, body: bytes, generate: Generate) -> AsyncIterator[bytes]:
        """The payloads of the answer. `generate` is called instead of the engine client's. Raises ApiError."""
        try:
            result = await self._create(endpoint, body, generate)
        except Exception as error:
            raise as_api_error(error) from error
        if isinstance(result, ErrorResponse):
            raise _refused(result)
        if not hasattr(result, "__aiter__"):
            # Field by field as vLLM's own routes do it.
            yield msgspec.json.encode(result.model_dump(**ROUTES[endpoint].dump))
            return
        try:
            async for event in result:
                data = _data(event)
                if data == _DONE:
                    return
                if data:
                    yield _payload(data)
        finally:
            await result.aclose()

    async def generate(self, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        """The outputs of a session's request. Raises EngineGone."""
        # Not the client's attribute: what `ending` has put there begins nothing more once the server drains.
        outputs = type(self.engine_client).generate(self.engine_client, *args, **kwargs)
        try:
            async for output in outputs:
                yield output
        except EngineDeadError:
            raise EngineGone from None
        finally:
            await outputs.aclose()

    async def _create(self, endpoint: Endpoint, body: bytes, generate: Generate) -> Any:
        route = ROUTES[endpoint]
        original = getattr(self._state, route.serving, None)
        if original is None:
            raise InvalidRequest("the model does not support this endpoint")
        serving = copy.copy(original)
        request = route.request.model_validate_json(body)
        if is_more_than_one(getattr(request, "n", 1)) or getattr(request, "use_beam_search", False):
            raise InvalidRequest("n > 1 and beam search cannot be drafted for: ask the server itself", param="n")
        if getattr(request, "background", False):
            raise InvalidRequest("background cannot be drafted for: ask the server itself", param="background")
        seed = _seed(body) if endpoint is Endpoint.MESSAGES else None

        def generate_as_asked(engine_input: Any, params: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            if params.seed is None:
                params.seed = seed
            if endpoint is Endpoint.RESPONSES:  # its serving code adds the outputs up
                params.output_kind = RequestOutputKind.DELTA
            return generate(engine_input, params, *args, **kwargs)

        serving.engine_client = Tap(self.engine_client, generate_as_asked)
        return await getattr(serving, route.create)(request, None)

    def opening(self, engine_input: Any, params: Any, key: str) -> Opening:
        """The opening of a session; also sets `params` to a session's: parked, shared noise, every output passed on."""
        prompt_ids = engine_input.get("prompt_token_ids")
        if prompt_ids is None:
            raise InvalidRequest("a prompt of embeddings cannot be drafted for: ask the server itself", param="prompt")
        if prompt_ids and max(prompt_ids) >= self._ids_below:  # vLLM itself says so in the first step only
            raise InvalidRequest(
                f"the prompt has the token id {max(prompt_ids)}; ids of this model are below {self._ids_below}",
                param="prompt",
            )
        if params.seed is None and params.temperature >= GREEDY_BELOW:
            params.seed = draw_seed()
        params.extra_args = (params.extra_args or {}) | {park_keys.KEY_ARG: key} | self._noise
        params.stream_interval = None
        if params.output_kind is RequestOutputKind.FINAL_ONLY:
            params.output_kind = RequestOutputKind.CUMULATIVE  # its last output is FINAL_ONLY's only one
        stop = params.stop or ()
        return Opening(
            prompt_ids=tuple(prompt_ids),
            params=SamplingParams(params.temperature, params.top_p, params.top_k, params.seed or 0),
            max_tokens=params.max_tokens,
            eos_ids=tuple(sorted({*(() if params.ignore_eos else self._eos_ids), *(params.stop_token_ids or ())})),
            model=self.info.name,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
        )


def go_ahead(params: Any, steps: int) -> None:
    """Have a session take `steps` steps beyond its first before it is parked."""
    params.extra_args[park_keys.AHEAD_ARG] = steps


def new_tokens(output: Any, params: Any, seen: int) -> list[int]:
    """The tokens of an output that were not in the output before, which ended at `seen`."""
    ids = list(output.outputs[0].token_ids)
    return ids[seen:] if params.output_kind is RequestOutputKind.CUMULATIVE else ids


def as_api_error(error: Exception) -> ApiError:
    """The error that a client gets for any error of vLLM's serving code."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, EngineDeadError):
        return EngineGone()
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return InvalidRequest(f"{where}: {first['msg']}" if where else str(first["msg"]), param=where or None)
    return _refused(create_error_response(error))


def _refused(response: Any) -> Refused:
    error = response.error
    return Refused(error.message, int(error.code), error.type, error.param)


def _seed(body: bytes) -> int | None:
    try:
        return msgspec.json.decode(body, type=_Seed).seed
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"seed must be an integer: {error}", param="seed") from error


def _data(event: Any) -> str:
    """The data of an event of vLLM's serving code, which is its text or, of Responses, an object; empty: none."""
    if not isinstance(event, str):
        return str(event.model_dump_json(by_alias=True))
    return event[event.index(_DATA) + len(_DATA) :].strip() if _DATA in event else ""


def _payload(data: str) -> bytes:
    """The payload of an event. Raises Refused for an error that vLLM reports in mid-stream."""
    if '"error"' in data:
        event = msgspec.json.decode(data)
        if isinstance(event, dict) and isinstance(error := event.get("error"), dict):
            status = error.get("code")
            raise Refused(
                str(error.get("message")),
                status if isinstance(status, int) and 400 <= status < 600 else 500,
                str(error.get("type")),
                error.get("param"),
            )
    return data.encode()


def _eos_ids(model_config: Any, tokenizer: Any) -> tuple[int, ...]:
    configured = model_config.try_get_generation_config().get("eos_token_id")
    ids = {tokenizer.eos_token_id, *(configured if isinstance(configured, list) else (configured,))}
    return tuple(sorted(token for token in ids if token is not None))
