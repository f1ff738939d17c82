"""Requests that cannot be drafted for, sent to the gateway's own OpenAI API; its answers, passed on as they are.

This goes beside the link, over plain HTTP. What breaks here looks to a client as it does there: a typed error before
the answer, an error event within it, and a refused key is the agent's, not the client's.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx
import msgspec
from msgspec import Raw

from pipesd_agent.link.dialing import CONNECT_TIMEOUT_S, untrusted
from pipesd_agent.link.gateways import Gateways
from pipesd_agent.link.requests import MAX_STREAMS
from pipesd_core.errors import ApiError, Overloaded, Unauthorized, Unavailable
from pipesd_core.openai_body import NOT_JSON
from pipesd_core.protocol.messages import Endpoint
from pipesd_core.service import sockets
from pipesd_core.service.http import error_event

log = logging.getLogger(__name__)

NOISE: Final = "pipesd_noise"
"""Of vllm_xargs: draw this request's tokens by the noise that sessions draw theirs by (docs/vllm.md)."""
SILENCE_S: Final = 600.0
"""Longest wait for the next bytes of an answer. A whole one comes at once at its end; OpenAI's SDK waits as long. A
gateway that is dead, or behind a dead link, is noticed sooner (`sockets`)."""
MAX_ANSWER_BYTES: Final = 64 * 2**20
MAX_EVENT_BYTES: Final = 8 * 2**20

_PATHS: Final = {Endpoint.CHAT_COMPLETIONS: "/v1/chat/completions", Endpoint.COMPLETIONS: "/v1/completions"}
_PASSED_ON: Final = ("content-type", "retry-after", "x-pipesd-seed")
_END: Final = b"\n\n"


class Answer:
    """A gateway's answer that has begun. Whoever has it closes it.

    body: None for a stream of events; else all of it, and the connection is free.
    """

    def __init__(self, forwarder: Forwarder, url: str, response: httpx.Response) -> None:
        self._forwarder = forwarder
        self._url = url
        self._response = response
        self.status = response.status_code
        self.headers = {name: value for name in _PASSED_ON if (value := response.headers.get(name)) is not None}
        self.body: bytes | None = None

    @property
    def streams(self) -> bool:
        return self.status == 200 and self.headers.get("content-type", "").startswith("text/event-stream")

    async def read(self) -> None:
        """Read the whole body. Raises ApiError."""
        parts, size = [], 0
        try:
            async for part in self._response.aiter_bytes():
                size += len(part)
                if size > MAX_ANSWER_BYTES:
                    raise Unavailable(f"the gateway's answer is larger than {MAX_ANSWER_BYTES} bytes; ask for less")
                parts.append(part)
        except httpx.HTTPError as error:
            raise self._forwarder.failure(error, self._url) from error
        self.body = b"".join(parts)

    async def events(self) -> AsyncIterator[bytes]:
        """Whole events, one or more at a time, byte for byte. A stream that breaks off ends with an error event."""
        rest, ended = b"", False
        try:
            async for part in self._response.aiter_bytes():
                events, end, rest = (rest + part).rpartition(_END)
                if len(rest) > MAX_EVENT_BYTES:
                    raise Unavailable(f"an event of the gateway is larger than {MAX_EVENT_BYTES} bytes; ask for less")
                if end:
                    ended = ended or any(map(_is_last, events.split(_END)))
                    yield events + end
            if not ended:
                raise Unavailable("the gateway ended its answer too early; try again")
        except httpx.HTTPError as error:
            if not ended:
                yield error_event(self._forwarder.failure(error, self._url))
        except ApiError as error:
            yield error_event(error)

    async def aclose(self) -> None:
        """Let go of it; a gateway that still writes stops. Harmless when repeated."""
        await self._response.aclose()


class Forwarder:
    """Asks the OpenAI API of the gateway that the link is up to, or of the next one if no answer begins there.

    A connection serves one request: few are made, and none meets a stale one.
    """

    def __init__(self, gateways: Gateways, api_key: str | None, tls: ssl.SSLContext | None) -> None:
        self._gateways = gateways
        verify = tls if tls is not None else True
        limits = httpx.Limits(max_connections=MAX_STREAMS, max_keepalive_connections=0)
        noticing = httpx.AsyncHTTPTransport(
            verify=verify, limits=limits, socket_options=sockets.options(sockets.CLIENT_TIMEOUT_S)
        )
        self._client = httpx.AsyncClient(
            # Not compressed: events would come late.
            headers={"accept-encoding": "identity"} | ({"authorization": f"Bearer {api_key}"} if api_key else {}),
            timeout=httpx.Timeout(SILENCE_S, connect=CONNECT_TIMEOUT_S, pool=CONNECT_TIMEOUT_S),
            verify=verify,
            limits=limits,
            transport=None if any(_by_proxy(each.address.http) for each in gateways.to_ask()) else noticing,
        )

    async def ask(self, endpoint: Endpoint, body: bytes, request_id: str) -> Answer:
        """The answer to an OpenAI request, whatever its status. Raises ApiError; cancelling takes the request back."""
        *first, last = [gateway.address.http for gateway in self._gateways.to_ask()]
        for url in first:
            try:
                answer = await self._ask(url, endpoint, body, request_id)
            except (Unauthorized, Unavailable) as error:
                # After ten minutes of silence nobody waits for another ten.
                if self._client.is_closed or isinstance(error.__cause__, httpx.ReadTimeout):
                    raise
                log.warning("request %s goes to another gateway: %s", request_id, error)
                continue
            if answer.status != Unavailable.status:
                return answer
            await answer.aclose()
        return await self._ask(last, endpoint, body, request_id)

    async def _ask(self, url: str, endpoint: Endpoint, body: bytes, request_id: str) -> Answer:
        if self._client.is_closed:
            raise self.failure(httpx.HTTPError("closed"), url)
        headers = {"content-type": "application/json", "x-request-id": request_id}
        request = self._client.build_request("POST", url + _PATHS[endpoint], content=body, headers=headers)
        try:
            response = await self._client.send(request, stream=True)
        except httpx.PoolTimeout as error:
            raise Overloaded(
                f"{MAX_STREAMS} requests that cannot be drafted for are open at this agent, its limit; try again"
            ) from error
        except httpx.HTTPError as error:
            raise self.failure(error, url) from error
        answer = Answer(self, url, response)
        if answer.streams:
            return answer
        try:
            if answer.status == 401:
                raise Unauthorized(f"the gateway {url} refuses this agent's key: set gateway_api_key_file")
            if answer.status < 400 and answer.status != 200:
                raise Unavailable(
                    f"there is no OpenAI API at {url} (it answered {answer.status}): check the setting gateway, "
                    "and any proxy in between"
                )
            await answer.read()
        finally:
            await answer.aclose()
        return answer

    def failure(self, error: httpx.HTTPError, url: str) -> ApiError:
        """What a client is told of it."""
        if self._client.is_closed:
            return Unavailable("the agent is shutting down; try again later")
        if isinstance(error, httpx.ConnectTimeout):
            return Unavailable(f"the gateway {url} does not answer within {CONNECT_TIMEOUT_S:g} s; try again")
        if isinstance(error, httpx.TimeoutException):
            return Unavailable(f"nothing came from the gateway {url} for {SILENCE_S:g} s; try again")
        if (distrust := untrusted(error, url)) is not None:
            return distrust
        if isinstance(error, httpx.ConnectError):
            return Unavailable(f"cannot reach the gateway {url}: {error}")
        return Unavailable(f"the connection to the gateway {url} was lost: {error or type(error).__name__}; try again")

    async def aclose(self) -> None:
        """Ends every answer with an error. Harmless when repeated."""
        await self._client.aclose()


def _by_proxy(url: str) -> bool:
    """Does the environment say so? httpx heeds that only where it makes the transport itself."""
    host = urlsplit(url).hostname or ""
    return bool(getproxies()) and not proxy_bypass(host)


def _is_last(event: bytes) -> bool:
    """Does a client know after it that no more follows?"""
    return event == b"data: [DONE]" or event.startswith(b'data: {"error"')


def with_noise(body: bytes) -> bytes:
    """A body as it came, all but `NOISE` in its vllm_xargs, so that its seed gives the text that a session's would.

    A body or a vllm_xargs that is no object stays, for the server to refuse.
    """
    try:
        fields = msgspec.json.decode(body, type=dict[str, Raw])
        extra = msgspec.json.decode(fields.get("vllm_xargs", b"null"), type=dict[str, Raw] | None)
    except NOT_JSON:
        return body
    fields["vllm_xargs"] = Raw(msgspec.json.encode((extra or {}) | {NOISE: Raw(b"1")}))
    return msgspec.json.encode(fields)
