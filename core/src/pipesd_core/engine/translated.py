"""Answers of `/v1/responses` and `/v1/messages` from an engine that serves chat completions: one generation of a chat,
its request and its payloads translated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import msgspec

from pipesd_core.answer_format import usage_in
from pipesd_core.engine.interface import Deliver, Engine, EngineOutput, Generation, Payload, Queued
from pipesd_core.errors import InvalidRequest
from pipesd_core.protocol.messages import Endpoint
from pipesd_core.translation import messages_request, responses_request
from pipesd_core.translation.translation import AnswerTranslator, Translation

G = TypeVar("G", bound=Generation)

_TRANSLATE: Final[dict[Endpoint, Callable[[bytes], Translation]]] = {
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
    translation = await asyncio.to_thread(_TRANSLATE[endpoint], body)
    translator = _Payloads(translation, deliver)
    try:
        return await open_chat(Endpoint.CHAT_COMPLETIONS, translation.encoded(), translator.take)
    except InvalidRequest as error:
        raise translation.located(error) from None


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


async def prompt_length(engine: Engine, body: bytes) -> int:
    """The tokens of the prompt of a request of `/v1/messages/count_tokens`. Raises ApiError, as `Engine.open` does.

    Nothing is decoded: the request is taken back as soon as the engine has checked it.
    """
    translation = await asyncio.to_thread(messages_request.translate, body, counting=True)
    found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def take(output: EngineOutput) -> None:
        if isinstance(output, Queued) and not found.done():
            found.set_result(len(output.opening.prompt_ids))

    opening: asyncio.Future[Generation] = asyncio.ensure_future(
        engine.open(Endpoint.CHAT_COMPLETIONS, translation.encoded(), take)
    )
    try:
        waited: set[asyncio.Future[Any]] = {opening, found}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        return found.result() if found.done() else len(opening.result().opening.prompt_ids)
    except InvalidRequest as error:
        raise translation.located(error) from None
    finally:
        found.cancel()
        opening.cancel()
        (opened,) = await asyncio.gather(opening, return_exceptions=True)
        if not isinstance(opened, BaseException):
            opened.abort()
