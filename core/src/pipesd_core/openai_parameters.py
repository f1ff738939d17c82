"""The parameters of an OpenAI request that are known by name: OpenAI's own, vLLM's, llama-server's.

`TABLE` has those that the embedded engine does not serve, with the values that change nothing: they are accepted, since
a 400 is for what would change the answer. So are hints, which cannot change a text whatever they say. Every other value
of them is refused by name, always. What is not known at all is refused too, unless whoever runs the server has it
ignored (`--unknown-parameters`); an answer then lists what was (`IGNORED_HEADER`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal
from urllib.parse import quote

import msgspec
from msgspec import Raw, Struct

from pipesd_core.errors import InvalidRequest
from pipesd_core.openai_body import NOT_JSON
from pipesd_core.openai_values import is_number, same, show, whole, wrong
from pipesd_core.protocol.messages import MAX_IGNORED_CHARS, Endpoint

UnknownParameters = Literal["refuse", "ignore"]
"""What is done with parameters that are in no table."""
IGNORED_HEADER: Final = "x-pipesd-ignored"
MAX_NAME_CHARS: Final = 64
"""Characters of a parameter's name in messages and in `IGNORED_HEADER`."""

CHAT, COMPLETIONS = Endpoint.CHAT_COMPLETIONS, Endpoint.COMPLETIONS
_ROUTES: Final = {CHAT: "/v1/chat/completions", COMPLETIONS: "/v1/completions"}

_BOTH: Final = (
    "model", "n", "stream", "stream_options", "max_tokens", "stop", "ignore_eos", "seed", "temperature", "top_p",
    "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias", "logprobs",
    "response_format",
)  # fmt: skip
SERVED: Final[dict[Endpoint, frozenset[str]]] = {
    CHAT: frozenset(
        (
            *(*_BOTH, "messages", "max_completion_tokens", "top_logprobs"),
            *("tools", "tool_choice", "parallel_tool_calls"),
        )
    ),
    COMPLETIONS: frozenset((*_BOTH, "prompt")),
}
"""The parameters that the embedded engine serves (`llamacpp.openai.request`)."""

Kind = Literal["a string", "true or false", "an integer", "a number", "an object", "a list", "a string or a number"]
"""The JSON type of a hint, in the words of a message."""


class Parameter(Struct, frozen=True):
    """A parameter that is not served.

    meaning: what it is, in a few words. neutral: the values that change nothing; null is one of every parameter. hint:
    the type of its values where none of them can change a text. endpoint: the only one where all that holds; None: of
    both.
    """

    name: str
    meaning: str
    neutral: tuple[Any, ...] = ()
    hint: Kind | None = None
    endpoint: Endpoint | None = None

    def refusal(self, value: Any) -> InvalidRequest | None:
        """The refusal of a value that is not null; None: it changes nothing."""
        if any(same(value, harmless) for harmless in self.neutral):
            return None
        if self.hint is not None:
            return None if _is_of(self.hint, value) else wrong(self.name, self.hint, value)
        instead = " or ".join(show(harmless) for harmless in self.neutral)
        leave = f"leave it out or give {instead}" if instead else "leave it out"
        return InvalidRequest(
            f"{self.name} ({self.meaning}) is not served here: {leave}, not {show(value)}",
            param=self.name,
        )


def _hint(name: str, kind: Kind, meaning: str) -> Parameter:
    return Parameter(name, meaning, hint=kind)


TABLE: Final[tuple[Parameter, ...]] = (
    # OpenAI's.
    _hint("user", "a string", "names the caller"),
    _hint("safety_identifier", "a string", "names the caller"),
    _hint("metadata", "an object", "labels of a stored answer"),
    _hint("prompt_cache_key", "a string", "where to look for a cached prompt"),
    _hint("prompt_cache_options", "an object", "how to cache the prompt"),
    _hint("prompt_cache_retention", "a string", "how long to cache the prompt"),
    _hint("prediction", "an object", "text that the answer may have; drafts come from elsewhere"),
    _hint("include_obfuscation", "true or false", "padding of the events of a stream; there is none"),
    Parameter("audio", "how to speak the answer"),
    Parameter("best_of", "the best of several answers; with n, the number of choices", (1,)),
    Parameter("echo", "the prompt before the answer", (False,)),
    Parameter("function_call", "which function to call", ("none", "auto")),
    Parameter("functions", "functions to call", ([],)),
    Parameter("modalities", "kinds of output: images and audio are not written", (["text"],)),
    Parameter("moderation", "checks of prompt and answer"),
    Parameter("reasoning_effort", "how long to think first", ("none",)),
    Parameter("service_tier", "class of service", ("auto", "default")),
    Parameter("store", "keep the answer", (False,)),
    Parameter("suffix", "what follows the answer", ("",)),
    Parameter("verbosity", "how long to answer", ("medium",)),
    Parameter("web_search_options", "a search of the web"),
    # vLLM's.
    _hint("length_penalty", "a number", "of beam search"),
    _hint("mm_payload", "a string", "of vLLM's render endpoints"),
    _hint("priority", "an integer", "place in the queue; all have their turn alike"),
    _hint("request_id", "a string", "names the request; here the header x-request-id does"),
    _hint("return_mm_kwargs", "true or false", "of vLLM's render endpoints"),
    _hint("return_token_offsets", "true or false", "of vLLM's render endpoints"),
    _hint("session_id", "a string", "names the conversation"),
    _hint("stream_interval", "an integer", "how many tokens an event brings"),
    _hint("truncation_side", "a string", "of truncate_prompt_tokens"),
    _hint("guided_decoding_backend", "a string", "of guided decoding"),
    Parameter("add_generation_prompt", "the beginning of the answer in the prompt", (True,)),
    Parameter("add_special_tokens", "BOS beside what the chat template writes", (False,), endpoint=CHAT),
    Parameter("add_special_tokens", "BOS before the prompt", (True,), endpoint=COMPLETIONS),
    Parameter("allowed_token_ids", "the only tokens that may be written"),
    Parameter("bad_words", "words that may not be written", ([],)),
    Parameter("cache_salt", "keeps the cached prompt apart from others'"),
    Parameter("chat_template", "another chat template"),
    Parameter("chat_template_kwargs", "variables of the chat template", ({},)),
    Parameter("continue_final_message", "go on with the last message", (False,)),
    Parameter("documents", "documents for the chat template", ([],)),
    Parameter("early_stopping", "of beam search", (False,)),
    Parameter("ec_transfer_params", "state of another server"),
    Parameter("guided_choice", "the only texts that may be written"),
    Parameter("guided_grammar", "a grammar of the answer"),
    Parameter("guided_json", "a JSON schema of the answer; response_format is served"),
    Parameter("guided_regex", "a pattern of the answer"),
    Parameter("guided_whitespace_pattern", "whitespace of guided JSON"),
    Parameter("include_reasoning", "thoughts in the answer", (True,)),
    Parameter("include_stop_str_in_output", "the stop string in the answer", (False,)),
    Parameter("kv_transfer_params", "state of another server"),
    Parameter("logprob_token_ids", "tokens to report logprobs of"),
    Parameter("media_io_kwargs", "how to read images and audio", ({},)),
    Parameter("min_tokens", "least length of the answer", (0,)),
    Parameter("mm_processor_kwargs", "how to read images and audio", ({},)),
    Parameter("prompt_embeds", "embeddings of a prompt", ("", [])),
    Parameter("prompt_logprobs", "logprobs of the prompt"),
    Parameter("repetition_detection", "an end where the answer repeats itself"),
    Parameter("return_prompt_text", "the prompt in the answer", (False,)),
    Parameter("return_token_ids", "token ids in the answer", (False,)),
    Parameter("return_tokens_as_token_ids", "token ids in logprobs", (False,)),
    Parameter("routed_experts_prompt_start", "of the experts in the answer", (0,)),
    Parameter("skip_special_tokens", "special tokens are not shown", (True,)),
    Parameter("spaces_between_special_tokens", "blanks between special tokens", (True,)),
    Parameter("stop_token_ids", "tokens that end the answer", ([],)),
    Parameter("structured_outputs", "a form of the answer; response_format is served"),
    Parameter("thinking_token_budget", "most tokens of thoughts", (-1,)),
    Parameter("truncate_prompt_tokens", "cut the prompt"),
    Parameter("use_beam_search", "beam search", (False,)),
    # {"pipesd_noise": 1} asks for the noise that this engine draws by anyway; agents send it along.
    Parameter("vllm_xargs", "of vLLM's plugins", ({}, {"pipesd_noise": 1})),
    Parameter("watermarking", "a watermark in the answer", (False,)),
    # llama-server's.
    _hint("cache_prompt", "true or false", "reuse of the KV cache, which is always done"),
    _hint("dry_allowed_length", "an integer", "of DRY"),
    _hint("dry_base", "a number", "of DRY"),
    _hint("dry_penalty_last_n", "an integer", "of DRY"),
    _hint("dry_sequence_breakers", "a list", "of DRY"),
    _hint("dynatemp_exponent", "a number", "of dynatemp_range"),
    _hint("keep_alive", "a string or a number", "how long the model stays loaded (Ollama's): always"),
    _hint("mirostat_eta", "a number", "of mirostat"),
    _hint("mirostat_tau", "a number", "of mirostat"),
    _hint("n_discard", "an integer", "of a context that is shifted; it is not"),
    _hint("n_keep", "an integer", "of a context that is shifted; it is not"),
    _hint("speculative.n_max", "an integer", "of drafts, which change no text"),
    _hint("speculative.n_min", "an integer", "of drafts, which change no text"),
    _hint("speculative.p_min", "a number", "of drafts, which change no text"),
    _hint("xtc_threshold", "a number", "of xtc_probability"),
    Parameter("adaptive_target", "sampling towards a probability", (-1,)),
    Parameter("dry_multiplier", "a penalty of repeated sequences", (0,)),
    Parameter("dynatemp_range", "a temperature that varies", (0,)),
    Parameter("grammar", "a grammar of the answer", ("",)),
    Parameter("grammar_lazy", "a grammar from a trigger on", (False,)),
    Parameter("id_slot", "which slot answers", (-1,)),
    Parameter("json_schema", "a JSON schema of the answer; response_format is served"),
    Parameter("lora", "adapters of the model", ([],)),
    Parameter("min_keep", "least number of tokens to draw from", (0,)),
    Parameter("mirostat", "another way of sampling", (0,)),
    Parameter("n_indent", "least indentation of lines", (0,)),
    Parameter("n_predict", "length of the answer; max_tokens is served", (-1,), endpoint=CHAT),
    Parameter("n_predict", "length of the answer; max_tokens is served", endpoint=COMPLETIONS),
    Parameter("n_probs", "logprobs; the parameter logprobs is served", (0,)),
    Parameter("parse_tool_calls", "calls as calls, not as text", (True,)),
    Parameter("post_sampling_probs", "logprobs after sampling", (False,)),
    Parameter("reasoning_format", "where thoughts are shown", ("none",)),
    Parameter("repeat_last_n", "how far back penalties look: to the beginning", (-1,)),
    Parameter("repeat_penalty", "a penalty; repetition_penalty is served", (1,)),
    Parameter("response_fields", "a selection of the answer's fields", ([],)),
    Parameter("return_progress", "progress of the prompt, in events", (False,)),
    Parameter("return_tokens", "token ids in the answer", (False,)),
    Parameter("samplers", "another order of sampling"),
    Parameter("t_max_predict_ms", "longest time of the answer", (0,)),
    Parameter("tfs_z", "tail-free sampling", (1,)),
    Parameter("thinking_forced_open", "thoughts come first", (False,)),
    Parameter("timings_per_token", "timings in every event", (False,)),
    Parameter("top_n_sigma", "sampling by the spread of logits", (-1,)),
    Parameter("typical_p", "locally typical sampling", (1,)),
    Parameter("xtc_probability", "leave the most probable tokens out", (0,)),
)
_KNOWN: Final = {
    endpoint: {each.name: each for each in TABLE if each.endpoint in (None, endpoint)} for endpoint in Endpoint
}
_NAMES: Final = frozenset(each.name for each in TABLE).union(*SERVED.values())


def is_known(name: str) -> bool:
    """Whether a parameter is one of any endpoint, served or not."""
    return name in _NAMES


def refusal(endpoint: Endpoint, name: str, value: Any) -> InvalidRequest | None:
    """The refusal of a parameter that this endpoint does not serve; None: its value, not null, changes nothing."""
    if (parameter := _KNOWN[endpoint].get(name)) is not None:
        return parameter.refusal(value)
    shown = name[:MAX_NAME_CHARS]
    if is_known(name):
        other = next(other for other, served in SERVED.items() if name in served)
        return InvalidRequest(f"{name} is a parameter of {_ROUTES[other]}; leave it out", param=name)
    nearest = difflib.get_close_matches(shown, sorted(SERVED[endpoint]), n=1, cutoff=0.8)
    perhaps = f" (did you mean {nearest[0]}?)" if nearest else ""
    return InvalidRequest(
        f"{shown!r} is no parameter that this server knows{perhaps}; leave it out, or have the server ignore what it "
        "does not know (--unknown-parameters ignore)",
        param=shown,
    )


def unknown(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of those parameters of a body, without its nulls, that nobody here knows."""
    return tuple(name for name in fields if not is_known(name))


def drop_unknown(body: bytes, also_known: frozenset[str] = frozenset()) -> tuple[bytes, tuple[str, ...]]:
    """A body without the parameters that nobody here knows, and their names; without any, it stays as it is.

    Nulls mean "not given" and stay. A body that is no object stays as it is, for the engine to refuse. also_known:
    names of other routes than those of this module.
    """
    try:
        fields = msgspec.json.decode(body, type=dict[str, Raw])
    except NOT_JSON:
        return body, ()
    given = {name: value for name, value in fields.items() if bytes(memoryview(value)[:4]) != b"null"}
    dropped = tuple(name for name in unknown(given) if name not in also_known)
    if not dropped:
        return body, ()
    for name in dropped:
        del fields[name]
    return msgspec.json.encode(fields), dropped


def ignored_list(names: Iterable[str]) -> str:
    """The list of ignored parameters, as `IGNORED_HEADER` has it; empty where there are none.

    The names are separated by commas, percent-encoded but for letters, digits and `_.-~`, and cut to `MAX_NAME_CHARS`
    characters; the last item is `...` where not all have room.
    """
    listed: list[str] = []
    length = 0
    for name in names:
        shown = quote(name[:MAX_NAME_CHARS], safe="", errors="replace") or '""'
        length += len(shown) + 2
        if length > MAX_IGNORED_CHARS - len("..."):
            return ", ".join([*listed, "..."])
        listed.append(shown)
    return ", ".join(listed)


def ignored_header(*lists: str) -> dict[str, str]:
    """The header of an answer for which these lists of parameters were ignored, here and elsewhere."""
    given = [one for one in lists if one]
    return {IGNORED_HEADER: ", ".join(given)} if given else {}


def _is_of(kind: Kind, value: Any) -> bool:
    match kind:
        case "a string":
            return isinstance(value, str)
        case "true or false":
            return isinstance(value, bool)
        case "an integer":
            return whole(value) is not None
        case "a number":
            return is_number(value)
        case "an object":
            return isinstance(value, dict)
        case "a list":
            return isinstance(value, list)
        case "a string or a number":
            return isinstance(value, str) or is_number(value)
