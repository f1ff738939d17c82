"""Openings of checked requests: prompt ids, constraint, and how long the answer may be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from pipesd_core.engine.interface import ModelInfo, Opening
from pipesd_core.errors import ContextLengthExceeded, InvalidRequest
from pipesd_core.llamacpp.constraint import Grammar
from pipesd_core.llamacpp.openai.chat_template import ChatTemplate
from pipesd_core.llamacpp.openai.logits_processing import Constraint
from pipesd_core.llamacpp.openai.request import UNTIL_CONTEXT_ENDS, Request
from pipesd_core.llamacpp.openai.tool_calls import PLAIN, TAUGHT, CallFormat, CallRules
from pipesd_core.llamacpp.openai.tool_templates import ToolTemplate
from pipesd_core.protocol.messages import Endpoint

DEFAULT_COMPLETION_TOKENS: Final = 16
"""OpenAI's default of max_tokens in /v1/completions; in a chat it is the rest of the context."""

SLACK: Final = 2
"""Text longer than the longest tokens that fill the context, times this, is not read at all: some texts of megabytes
take a tokenizer many seconds, in which it reads nobody else's."""


class Model(Protocol):
    """The part of `binding.Model` that this module needs."""

    @property
    def n_vocab(self) -> int: ...
    @property
    def bos(self) -> int | None: ...
    @property
    def eos(self) -> int | None: ...
    @property
    def adds_bos(self) -> bool: ...
    @property
    def eog_ids(self) -> tuple[int, ...]: ...
    @property
    def chat_template(self) -> str | None: ...
    @property
    def tool_template(self) -> str | None: ...

    def tokenize(self, text: str, *, special: bool) -> list[int]: ...
    def piece(self, token: int, *, special: bool) -> bytes: ...
    def fingerprint(self) -> bytes: ...
    def constraint(self, grammar: Grammar) -> Constraint: ...


class Prompter:
    """Makes openings for one model. Safe to use from any one thread while the model is open.

    Args:
        chat_template: a template instead of the model's own, for chats with tools and without.
    """

    def __init__(self, model: Model, info: ModelInfo, chat_template: str | None = None) -> None:
        self._model = model
        self._info = info
        usual = chat_template or model.chat_template
        self._template = None if usual is None else _template(model, usual)
        self._tool_template = self._template
        if chat_template is None and model.tool_template is not None:
            self._tool_template = _template(model, model.tool_template)
        self._longest = max(len(model.piece(token, special=True)) for token in range(model.n_vocab))

    def opening(self, request: Request) -> Opening:
        """The opening of a request. Raises InvalidRequest, ContextLengthExceeded."""
        prompt_ids = self._prompt_ids(request)
        request.logits_processing.check_ids(self._model.n_vocab)
        return Opening(
            prompt_ids=prompt_ids,
            params=request.params,
            max_tokens=_max_tokens(request, len(prompt_ids), self._info),
            eos_ids=() if request.ignore_eos else self._model.eog_ids,
            model=self._info.name,
            stop=request.stop,
            ignored=request.ignored,
        )

    def opening_after(self, request: Request, opening: Opening, decided: Sequence[int]) -> Opening:
        """The opening of an answer that another model opened and began with `decided`. Raises as `opening`."""
        n_vocab, context = self._model.n_vocab, self._info.max_context
        n_prompt = len(opening.prompt_ids)
        if request.logits_processing.logprobs is not None:
            raise InvalidRequest("logprobs are not known of tokens that another model chose", param="logprobs")
        request.logits_processing.check_ids(n_vocab)
        largest = max([*opening.prompt_ids, *decided])
        if largest >= n_vocab:
            raise InvalidRequest(f"the answer so far has the token id {largest}; ids of this model are below {n_vocab}")
        room = context - n_prompt
        if len(decided) >= room or (request.max_tokens not in (None, UNTIL_CONTEXT_ENDS) and opening.max_tokens > room):
            raise ContextLengthExceeded(
                f"the prompt has {n_prompt} tokens, the answer {len(decided)} so far and {opening.max_tokens} at most, "
                f"but the context of {self._info.name!r} is {context} tokens"
            )
        return msgspec.structs.replace(opening, max_tokens=min(opening.max_tokens, room), model=self._info.name)

    def constraint(self, request: Request, decided: Sequence[int] = ()) -> Constraint | None:
        """The constraint of a request, advanced by `decided`; None without one.

        Raises InvalidRequest if its grammar cannot be held to, or if it forbids those tokens.
        """
        grammar = request.logits_processing.grammar
        if grammar is None:
            return None
        constraint = self._model.constraint(grammar)
        for token in decided:
            constraint.accept(token)
        return constraint

    def call_rules(self, request: Request) -> CallRules:
        """The calls that the answer to a request may have.

        Raises InvalidRequest where it may have calls, and nobody would know how this model writes one.
        """
        tools = request.tools
        if tools is None:
            return CallRules()
        taught = None if self._tool_template is None else self._tool_template.form
        form = PLAIN if tools.choice == "required" else taught
        if form is None:
            known = ", ".join(form.name for form in TAUGHT)
            raise InvalidRequest(
                f"the chat template of {self._info.name!r} teaches no known format of calls ({known}), so that calls "
                'could not be told from text: give tool_choice "none", "required" or a function, or have the server '
                "started with --chat-template FILE and one that does",
                param="tools",
            )
        names = tuple(tool.name for tool in tools.callable)
        return CallRules(form, names, None if tools.parallel else 1, self._markers(form))

    def _markers(self, form: CallFormat) -> frozenset[int]:
        """The control tokens with which a format begins and ends calls; as text they show nothing."""
        found = [self._model.tokenize(text, special=True) for text in (form.opening, form.closing) if text]
        tokens = [ids[0] for ids in found if len(ids) == 1]
        return frozenset(token for token in tokens if not self._model.piece(token, special=False))

    def _prompt_ids(self, request: Request) -> tuple[int, ...]:
        """Token ids of the prompt. Special tokens in a text are recognised, in both endpoints, as in vLLM.

        BOS, where the model wants it: in a chat the template writes it, before a prompt it is added here.
        """
        model = self._model
        if request.endpoint is Endpoint.CHAT_COMPLETIONS:
            template = self._template if request.tools is None else self._tool_template
            if template is None:
                raise InvalidRequest(f"{self._info.name!r} has no chat template; use /v1/completions", param="messages")
            tools = () if request.tools is None else request.tools.all
            ids = self._tokenize(template.render(request.messages, tools), "messages")
        elif isinstance(request.prompt, str):
            ids = self._tokenize(request.prompt, "prompt")
            if model.adds_bos and model.bos is not None and ids[:1] != (model.bos,):
                ids = (model.bos, *ids)
        else:
            ids = request.prompt
            if max(ids) >= model.n_vocab:
                raise InvalidRequest(
                    f"prompt has the token id {max(ids)}; ids of this model are below {model.n_vocab}",
                    param="prompt",
                )
        if not ids:
            chat = request.endpoint is Endpoint.CHAT_COMPLETIONS
            param = "messages" if chat else "prompt"
            raise InvalidRequest(f"{param}: there are no tokens in it", param=param)
        return ids

    def _tokenize(self, text: str, param: str) -> tuple[int, ...]:
        limit = SLACK * self._longest * self._info.max_context
        if len(text) > limit:
            raise ContextLengthExceeded(
                f"the prompt has {len(text)} characters, but no prompt of more than {limit} can fit into the context "
                f"of {self._info.max_context} tokens; shorten the prompt",
                param=param,
            )
        return tuple(self._model.tokenize(text, special=True))


def _template(model: Model, source: str) -> ToolTemplate:
    special = {"bos_token": model.bos, "eos_token": model.eos}
    texts = {
        name: model.piece(token, special=True).decode("utf-8", "replace")
        for name, token in special.items()
        if token is not None
    }
    return ToolTemplate(ChatTemplate(source, texts))


def _max_tokens(request: Request, n_prompt: int, info: ModelInfo) -> int:
    chat = request.endpoint is Endpoint.CHAT_COMPLETIONS
    room = info.max_context - n_prompt
    if room < 1:
        raise ContextLengthExceeded(
            f"the prompt has {n_prompt} tokens, but the context is {info.max_context} tokens for prompt and answer "
            "together; shorten the prompt",
            param="messages" if chat else "prompt",
        )
    if request.max_tokens is None:
        return room if chat else min(room, DEFAULT_COMPLETION_TOKENS)
    if request.max_tokens == UNTIL_CONTEXT_ENDS:
        return room
    if request.max_tokens > room:
        raise ContextLengthExceeded(
            f"the prompt has {n_prompt} tokens and {request.max_tokens_name} is {request.max_tokens}, together "
            f"{n_prompt + request.max_tokens}, but the context is {info.max_context} tokens; ask for at most {room} "
            "or shorten the prompt",
            param=request.max_tokens_name,
        )
    return request.max_tokens
