"""An OpenAI request body, checked: bytes in, a frozen `Request` out, or an `InvalidRequest` that names the parameter.

Nothing is silently ignored (architecture §2.2): a parameter that this engine does not serve is refused by name, unless
its value changes nothing (`openai_parameters`). Such values are accepted because the OpenAI SDK, LangChain (which
sends its prompt in a list of one, and penalties of 0) and Open WebUI send them by default. `null` means "not given"
everywhere.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

from pipesd_core.errors import InvalidRequest
from pipesd_core.llamacpp.openai.chat_messages import Message, read_messages
from pipesd_core.llamacpp.openai.fields import Fields, decode
from pipesd_core.llamacpp.openai.logits_processing import LogitsProcessing, take_logits_processing
from pipesd_core.llamacpp.openai.tools import Tools, take_tools
from pipesd_core.openai_body import is_list_of_prompts, unwrap_prompt
from pipesd_core.openai_parameters import UnknownParameters, ignored_list, refusal, unknown
from pipesd_core.openai_values import whole, wrong
from pipesd_core.protocol.messages import Endpoint
from pipesd_core.sampling.params import SamplingParams
from pipesd_core.sampling.sampler import draw_seed

MAX_STOPS: Final = 4
MAX_STOP_CHARS: Final = 1024
MAX_TOKENS: Final = 2**31 - 1

UNTIL_CONTEXT_ENDS: Final = -1
"""llama-server's `max_tokens` of an answer as long as the context allows."""


class Request(Struct, frozen=True):
    """A checked request. `messages` and `tools` for chat; `prompt` (text or token ids) for completions.

    params: effective, seed drawn. model None: the only one there is. max_tokens None: the endpoint's default;
    max_tokens_name: the parameter that it came by. ignore_eos: EOS is a token like any other (vLLM's parameter).
    ignored: `openai_parameters.ignored_list` of the body.
    """

    endpoint: Endpoint
    params: SamplingParams
    logits_processing: LogitsProcessing = LogitsProcessing()
    messages: tuple[Message, ...] = ()
    tools: Tools | None = None
    prompt: str | tuple[int, ...] = ""
    model: str | None = None
    max_tokens: int | None = None
    max_tokens_name: str = "max_tokens"
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    stream: bool = False
    include_usage: bool = False
    ignored: str = ""


def parse(endpoint: Endpoint, body: bytes, unknown_parameters: UnknownParameters = "refuse") -> Request:
    """The request in `body`. Raises `InvalidRequest`, and nothing else, whatever the bytes are."""
    fields = Fields(decode(body))
    chat = endpoint is Endpoint.CHAT_COMPLETIONS
    stream = fields.boolean("stream")
    _check_n(fields.integer("n"))
    max_tokens_name, max_tokens = _max_tokens(fields, chat)
    request = Request(
        endpoint=endpoint,
        params=_params(fields),
        logits_processing=take_logits_processing(fields, chat=chat),
        messages=read_messages(fields.take("messages")) if chat else (),
        tools=take_tools(fields) if chat else None,
        prompt="" if chat else _prompt(fields.take("prompt")),
        model=fields.string("model"),
        max_tokens=max_tokens,
        max_tokens_name=max_tokens_name,
        stop=_stop(fields.take("stop")),
        ignore_eos=fields.boolean("ignore_eos"),
        stream=stream,
        include_usage=_include_usage(fields.take("stream_options"), stream),
        ignored=_check_rest(endpoint, fields.rest(), unknown_parameters),
    )
    if request.tools is not None:
        if request.logits_processing.grammar is not None:
            raise InvalidRequest(
                "a response_format is not possible with tools that may be called: leave it out, or give tool_choice "
                '"none"',
                param="response_format",
            )
        forced = msgspec.structs.replace(request.logits_processing, grammar=request.tools.grammar())
        request = msgspec.structs.replace(request, logits_processing=forced)
    if request.ignore_eos and request.logits_processing.grammar is not None:
        param = request.logits_processing.grammar.param
        raise InvalidRequest(f"ignore_eos is not possible with {param} here: the text has an end", param="ignore_eos")
    return request


def _check_rest(endpoint: Endpoint, rest: dict[str, Any], unknown_parameters: UnknownParameters) -> str:
    """Check what is not served; returns the list of what is ignored."""
    ignored = dict.fromkeys(unknown(rest)) if unknown_parameters == "ignore" else {}
    for name, value in rest.items():
        if name not in ignored and (error := refusal(endpoint, name, value)) is not None:
            raise error
    return ignored_list(ignored)


def _check_n(n: int | None) -> None:
    if n is not None and n < 1:
        raise InvalidRequest(f"n must be at least 1, but is {n}", param="n")
    if n is not None and n > 1:  # to an agent: the HTTP API asks for one choice at a time
        raise InvalidRequest(f"n = {n} cannot be drafted for: ask the server's own /v1 API", param="n")


def _params(fields: Fields) -> SamplingParams:
    temperature, top_p = fields.number("temperature"), fields.number("top_p")
    top_k, seed = fields.integer("top_k"), fields.integer("seed")
    return SamplingParams(
        temperature=1.0 if temperature is None else temperature,
        top_p=1.0 if top_p is None else top_p,
        top_k=0 if top_k is None else top_k,
        seed=draw_seed() if seed is None else seed,
    )


def _max_tokens(fields: Fields, chat: bool) -> tuple[str, int | None]:
    """The name of the parameter that limits the answer, and the limit."""
    names = ("max_completion_tokens", "max_tokens") if chat else ("max_tokens",)
    given = {name: value for name in names if (value := fields.integer(name)) is not None}
    for name, value in given.items():
        if not 1 <= value <= MAX_TOKENS and value != UNTIL_CONTEXT_ENDS:
            raise InvalidRequest(
                f"{name} must be at least 1 and at most {MAX_TOKENS}, or {UNTIL_CONTEXT_ENDS} (until the context "
                f"ends), but is {value}",
                param=name,
            )
    if len(set(given.values())) > 1:
        raise InvalidRequest(
            f"max_tokens is {given['max_tokens']} but max_completion_tokens is {given['max_completion_tokens']}; "
            "give only max_completion_tokens",
            param="max_tokens",
        )
    return next(iter(given.items()), ("max_tokens", None))


def _prompt(value: Any) -> str | tuple[int, ...]:
    """A string or one list of token ids; also either of them alone in a list, as LangChain sends it."""
    where, value = ("prompt", value) if (one := unwrap_prompt(value)) is value else ("prompt[0]", one)
    if isinstance(value, str):
        if not value:
            raise InvalidRequest(f"{where} must not be empty", param=where)
        return value
    if where == "prompt" and is_list_of_prompts(value):
        kinds = {type(item) for item in value}
        if len(kinds) > 1:
            raise InvalidRequest(
                "prompt mixes texts and lists of token ids; send prompts of one kind in one request", param="prompt"
            )
        # To an agent: the HTTP API asks for one prompt at a time.
        raise InvalidRequest(
            f"{len(value)} prompts in one request cannot be drafted for: ask the server's own /v1 API", param="prompt"
        )
    if not isinstance(value, list) or not value:
        raise wrong(where, "a text, a list of token ids, or a list of one kind of these", value)
    return tuple(_token_id(f"{where}[{i}]", item) for i, item in enumerate(value))


def _token_id(where: str, value: Any) -> int:
    token = whole(value)
    if token is None or token < 0:
        raise wrong(where, "a token id", value)
    return token


def _stop(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise wrong("stop", f"a string or a list of up to {MAX_STOPS} strings", value)
    if len(stops) > MAX_STOPS:
        raise InvalidRequest(f"stop may hold {MAX_STOPS} strings, but holds {len(stops)}", param="stop")
    for stop in stops:
        if not 1 <= len(stop) <= MAX_STOP_CHARS:
            raise InvalidRequest(
                f"a stop string must have 1 to {MAX_STOP_CHARS} characters, but one has {len(stop)}", param="stop"
            )
    return tuple(stops)


def _include_usage(value: Any, stream: bool) -> bool:
    if value is None:
        return False
    if not isinstance(value, dict):
        raise wrong("stream_options", "an object", value)
    options = Fields({f"stream_options.{name}": item for name, item in value.items()})
    include = options.boolean("stream_options.include_usage")
    options.boolean("stream_options.include_obfuscation")  # padding of the events; there is none
    options.refuse_rest({"stream_options.continuous_usage_stats": (False,)})
    if include and not stream:
        raise InvalidRequest("stream_options.include_usage is only allowed with stream: true", param="stream_options")
    return include
