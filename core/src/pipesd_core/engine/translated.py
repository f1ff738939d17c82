"""Answers of `/v1/responses` and `/v1/messages` from an engine that serves chat completions: one generation of a chat,
its request and its payloads translated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import msgspec

from pipesd_core.answer_format import usage_in
from pipesd_core.engine.interface import Deliver, Engine, EngineOutput, Generation, Payload, Queued
from pipesd_core.errors import InvalidRequest
from pipesd_core.protocol.messages import Endpoint
from pipesd_core.translation import messages_request, responses_request
from pipesd_core.translation.translation import AnswerTranslator, Translation

G = TypeVar("G", bound=Generation)

_TRANSLATE: Final[dict[Endpoint, Callable[..., Translation]]] = {
    Endpoint.RESPONSES: responses_request.translate,
    Endpoint.MESSAGES: messages_request.translate,
}


def is_translated(endpoint: Endpoint) -> bool:
    """Whether requests of an endpoint are chats in other words."""
    return endpoint in _TRANSLATE


async def open_translated(
    open_chat: Callable[[Endpoint, bytes, Deliver], Awaitable[G]], endpoint: Endpoint, body: bytes, deliver: Deliver
) -> G:
    """Open a request of a translated endpoint; see `Engine.open`. open_chat: the engine's."""
    # A body of megabytes must not stop the event loop.
    translation, chat = await asyncio.to_thread(_translated, endpoint, body)
    translator = _Payloads(translation, deliver)
    try:
        return await open_chat(Endpoint.CHAT_COMPLETIONS, chat, translator.take)
    except InvalidRequest as error:
        raise translation.located(error) from None


def _translated(endpoint: Endpoint, body: bytes, **how: bool) -> tuple[Translation, bytes]:
    """A request's translation, and the body of the chat. Raises InvalidRequest."""
    try:
        translation = _TRANSLATE[endpoint](body, **how)
        return translation, translation.encoded()
    except RecursionError:  # what could just be read cannot always be written
        raise InvalidRequest("the body is nested too deeply") from None


class _Payloads:
    """Hands on what a generation delivers, its payloads translated."""

    def __init__(self, translation: Translation, deliver: Deliver) -> None:
        self._translation = translation
        self._deliver = deliver
        self._translator: AnswerTranslator | None = None
        self._prompt_tokens = 0

    def take(self, output: EngineOutput) -> None:
        if isinstance(output, Queued):
            self._prompt_tokens = len(output.opening.prompt_ids)
        if not isinstance(output, Payload):
            self._deliver(output)
            return
        if self._translator is None:
            self._translator = self._translation.answer(self._prompt_tokens)
        for event in self._translator.take(msgspec.json.decode(output.data)):
            counts = output.usage and usage_in(event) is not None
            self._deliver(Payload(msgspec.json.encode(event), output.upto, usage=counts))


class _Counted(Exception):
    """The prompt's tokens are known, and nothing else is wanted of the request."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens


async def prompt_length(engine: Engine, body: bytes) -> int:
    """The tokens of the prompt of a request of `/v1/messages/count_tokens`. Raises ApiError, as `Engine.open` does.

    The request is given up as soon as the engine has checked it, before it is in the queue: nothing is decoded, and no
    sequence of another client makes room.
    """
    translation, chat = await asyncio.to_thread(_translated, Endpoint.MESSAGES, body, counting=True)

    def take(output: EngineOutput) -> None:
        if isinstance(output, Queued):
            raise _Counted(len(output.opening.prompt_ids))

    try:
        generation = await engine.open(Endpoint.CHAT_COMPLETIONS, chat, take)
    except _Counted as counted:
        return counted.tokens
    except InvalidRequest as error:
        raise translation.located(error) from None
    generation.abort()  # of an engine that has no queue
    return len(generation.opening.prompt_ids)
