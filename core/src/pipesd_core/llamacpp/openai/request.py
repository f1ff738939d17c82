"""An OpenAI request body, checked: bytes in, a frozen `Request` out, or an `InvalidRequest` that names the parameter.

Nothing is silently ignored (architecture §2.2): a parameter that this engine does not know is refused by name, unless
its value is the one that changes nothing. Those values are accepted because the OpenAI SDK, LangChain (which sends its
prompt in a list of one, and penalties of 0) and Open WebUI send them by default. `null` means "not given" everywhere.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct

from pipesd_core.errors import InvalidRequest
from pipesd_core.llamacpp.openai.fields import Fields, decode, show, wrong
from pipesd_core.llamacpp.openai.logits_processing import LogitsProcessing, take_logits_processing
from pipesd_core.openai_body import is_list_of_prompts, is_more_than_one, unwrap_prompt
from pipesd_core.protocol.messages import Endpoint
from pipesd_core.sampling.params import SamplingParams
from pipesd_core.sampling.sampler import draw_seed

MAX_STOPS: Final = 4
MAX_STOP_CHARS: Final = 1024
MAX_TOKENS: Final = 2**31 - 1

ROLES: Final = ("system", "developer", "user", "assistant")

_NEUTRAL: Final[dict[str, tuple[Any, ...]]] = {
    "store": (False,),
    "service_tier": ("auto", "default"),
    "vllm_xargs": ({"pipesd_noise": 1},),  # asks for the noise that this engine draws anyway; agents send it along
}
_NEUTRAL_CHAT: Final[dict[str, tuple[Any, ...]]] = _NEUTRAL | {
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "modalities": (["text"],),
}
_NEUTRAL_COMPLETIONS: Final[dict[str, tuple[Any, ...]]] = _NEUTRAL | {
    "echo": (False,),
    "best_of": (1,),
    "suffix": ("",),
}


class Message(Struct, frozen=True):
    """One message of a chat; `content` is plain text."""

    role: str
    content: str
    name: str | None = None


class Request(Struct, frozen=True):
    """A checked request. `messages` for chat; `prompt` (text or token ids) for completions.

    params: effective, seed drawn. model None: the only one there is. max_tokens None: the endpoint's default.
    ignore_eos: EOS is a token like any other (vLLM's parameter).
    """

    endpoint: Endpoint
    params: SamplingParams
    logits_processing: LogitsProcessing = LogitsProcessing()
    messages: tuple[Message, ...] = ()
    prompt: str | tuple[int, ...] = ""
    model: str | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    stream: bool = False
    include_usage: bool = False


def parse(endpoint: Endpoint, body: bytes) -> Request:
    """The request in `body`. Raises `InvalidRequest`, and nothing else, whatever the bytes are."""
    fields = Fields(decode(body))
    chat = endpoint is Endpoint.CHAT_COMPLETIONS
    stream = fields.boolean("stream")
    _check_n(fields.integer("n"))
    request = Request(
        endpoint=endpoint,
        params=_params(fields),
        logits_processing=take_logits_processing(fields, chat=chat),
        messages=_messages(fields.take("messages")) if chat else (),
        prompt="" if chat else _prompt(fields.take("prompt")),
        model=fields.string("model"),
        max_tokens=_max_tokens(fields, chat),
        stop=_stop(fields.take("stop")),
        ignore_eos=fields.boolean("ignore_eos"),
        stream=stream,
        include_usage=_include_usage(fields.take("stream_options"), stream),
    )
    if request.ignore_eos and request.logits_processing.grammar is not None:
        raise InvalidRequest(
            "ignore_eos is not possible with a response_format, whose text has an end", param="ignore_eos"
        )
    fields.refuse_rest(_NEUTRAL_CHAT if chat else _NEUTRAL_COMPLETIONS)
    return request


def _check_n(n: int | None) -> None:
    if n is not None and n < 1:
        raise InvalidRequest(f"n must be at least 1, but is {n}", param="n")
    if is_more_than_one(n):
        raise InvalidRequest(
            f"n = {n} in a session, which is one choice; POST it to the server's own /v1 API instead", param="n"
        )


def _params(fields: Fields) -> SamplingParams:
    temperature, top_p = fields.number("temperature"), fields.number("top_p")
    top_k, seed = fields.integer("top_k"), fields.integer("seed")
    return SamplingParams(
        temperature=1.0 if temperature is None else temperature,
        top_p=1.0 if top_p is None else top_p,
        top_k=0 if top_k is None else top_k,
        seed=draw_seed() if seed is None else seed,
    )


def _max_tokens(fields: Fields, chat: bool) -> int | None:
    names = ("max_completion_tokens", "max_tokens") if chat else ("max_tokens",)
    given = {name: value for name in names if (value := fields.integer(name)) is not None}
    for name, value in given.items():
        if not 1 <= value <= MAX_TOKENS:
            raise InvalidRequest(f"{name} must be at least 1 and at most {MAX_TOKENS}, but is {value}", param=name)
    if len(set(given.values())) > 1:
        raise InvalidRequest(
            f"max_tokens is {given['max_tokens']} but max_completion_tokens is {given['max_completion_tokens']}; "
            "give only max_completion_tokens",
            param="max_tokens",
        )
    return next(iter(given.values()), None)


def _messages(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise wrong("messages", "a list of at least one message", value)
    return tuple(_message(f"messages[{i}]", item) for i, item in enumerate(value))


def _message(where: str, value: Any) -> Message:
    if not isinstance(value, dict):
        raise wrong(where, "an object with role and content", value)
    left = {key: item for key, item in value.items() if item is not None and item != []}
    role, name = left.pop("role", None), left.pop("name", None)
    if role not in ROLES:
        raise wrong(f"{where}.role", "one of " + ", ".join(ROLES), role)
    if name is not None and not isinstance(name, str):
        raise wrong(f"{where}.name", "a string", name)
    content = _content(f"{where}.content", left.pop("content", None))
    if left:
        param = f"{where}.{next(iter(left))[:64]}"
        raise InvalidRequest(f"{param} is not supported by this engine; leave it out", param=param)
    return Message(role=role, content=content, name=name)


def _content(where: str, value: Any) -> str:
    """Text, or text parts; the parts are joined by newlines (as vLLM does for templates that take plain text)."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise wrong(where, "a string or a list of text parts", value)
    texts: list[str] = []
    for i, part in enumerate(value):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            raise InvalidRequest(
                f"{where}[{i}] is a part of type {show(kind)}; this model reads text parts only",
                param=f"{where}[{i}]",
            )
        if not isinstance(part.get("text"), str):
            raise wrong(f"{where}[{i}].text", "a string", part.get("text"))
        texts.append(part["text"])
    return "\n".join(texts)


def _prompt(value: Any) -> str | tuple[int, ...]:
    """A string or one list of token ids; also either of them alone in a list, as LangChain sends it."""
    value = unwrap_prompt(value)
    if isinstance(value, str):
        if not value:
            raise InvalidRequest("prompt must not be empty", param="prompt")
        return value
    if is_list_of_prompts(value):
        raise InvalidRequest(
            f"prompt holds {len(value)} prompts in a session, which is one; POST them to the server's own /v1 API, "
            "all of them strings or all of them lists of token ids",
            param="prompt",
        )
    if not isinstance(value, list) or not value:
        raise wrong("prompt", "a string or one list of token ids", value)
    for i, item in enumerate(value):
        if not isinstance(item, int) or isinstance(item, bool) or item < 0:
            raise wrong(f"prompt[{i}]", "a token id", item)
    return tuple(value)


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
    if not stream:
        raise InvalidRequest("stream_options is only allowed with stream: true", param="stream_options")
    options = Fields({f"stream_options.{name}": item for name, item in value.items()})
    include = options.boolean("stream_options.include_usage")
    options.refuse_rest({"stream_options.include_obfuscation": (False,)})
    return include
