"""Passthrough of requests that cannot be drafted for to the gateway's own OpenAI API, and of its answers, unchanged.

It uses plain HTTP beside the link. Failures look to a client as those of the link: a typed error before the answer, an
error event within it; and a key that the gateway refuses is the agent's, not the client's.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Final

import httpx
import msgspec
from msgspec import Raw, Struct

from pipesd_agent.link.circuit_breaker import BACKOFF_FIRST_S
from pipesd_agent.link.dialing import BUSY_STATUS, CONNECT_TIMEOUT_S
from pipesd_agent.link.failures import moved, no_server_behind, tls_trouble, wants_tls, why_unreachable
from pipesd_agent.link.forwarded_figures import ForwardedFigures
from pipesd_agent.link.gateways import AGAIN_S, Declined, Gateways
from pipesd_agent.link.network import DIRECT, Network
from pipesd_agent.link.requests import MAX_OPEN_REQUESTS
from pipesd_core.answer_format import PATHS, ends_stream
from pipesd_core.errors import (
    ApiError,
    InvalidRequest,
    Overloaded,
    ShuttingDown,
    Unauthorized,
    Unavailable,
    error_message_from_body,
)
from pipesd_core.occupancy import Occupancy
from pipesd_core.openai_body import NOT_JSON
from pipesd_core.openai_parameters import IGNORED_HEADER
from pipesd_core.protocol.messages import Endpoint
from pipesd_core.service import sockets
from pipesd_core.service.hosts import Misdirected
from pipesd_core.sse import MAX_EVENT_BYTES, escaped

log = logging.getLogger(__name__)

NOISE: Final = "pipesd_noise"
"""Key of vllm_xargs: sample with the shared noise that sessions use (docs/vllm.md)."""
SILENCE_S: Final = 600.0
"""Longest wait for the next bytes of an answer, as in OpenAI's SDK: a whole one comes at once, at its end. A gateway
that is dead, or behind a dead link, is noticed sooner (`sockets`)."""
MAX_ANSWER_BYTES: Final = 64 * 2**20

_PASSED_ON: Final = ("content-type", "retry-after", "retry-after-ms", "x-pipesd-seed", IGNORED_HEADER)
_END: Final = b"\n\n"
_DATA: Final = b"data: "


class ForwardedRequest(Struct, frozen=True):
    """A request as the gateway gets it.

    target: path and query. content_type: of the body; empty: as the client did not say. any_success: a status of 2xx
    that is not 200 is an answer too; else it is one of something that is no gateway.
    """

    method: str
    target: str
    body: bytes
    content_type: str = ""
    any_success: bool = False


def of_endpoint(endpoint: Endpoint, body: bytes) -> ForwardedRequest:
    """A request of one of the routes that a session can serve."""
    return ForwardedRequest("POST", PATHS[endpoint], body, "application/json")


class PassthroughAnswer:
    """An `Answer` of a gateway's own OpenAI API, passed on byte for byte, but for the escapes of `sse` in its events.

    Attributes:
        body: the whole body, after `read`; the connection is free then. None for a stream of events.
        figures: of what the client has got.
    """

    def __init__(self, client: PassthroughClient, url: str, response: httpx.Response) -> None:
        self.status = response.status_code
        kept = {name: value for name in _PASSED_ON if (value := response.headers.get(name)) is not None}
        self.headers = {"x-pipesd-mode": "cloud", **kept}
        self.body: bytes | None = None
        self.figures = ForwardedFigures()
        self._finish_callbacks: list[Callable[[], None]] = []
        self._client = client
        self._url = url
        self._response = response
        self._chunks: AsyncIterator[bytes] | None = None
        self._incomplete = b""
        self._ended = False
        self._closed = False
        client.open.take()

    @property
    def streams(self) -> bool:
        """See `Answer.streams`."""
        return self.status == 200 and self.headers.get("content-type", "").startswith("text/event-stream")

    @property
    def output_tokens(self) -> int:
        """See `Answer.output_tokens`: not counted."""
        return 0

    def add_finish_callback(self, callback: Callable[[], None]) -> None:
        """Have `callback` called once, when the client has its answer or is gone."""
        self._finish_callbacks.append(callback)

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
            raise self._client.failure(error, self._url) from error
        self.body = b"".join(parts)

    async def next(self) -> bytes | None:
        """See `Answer.next`. A stream that breaks off before its last event is an error."""
        if not self.streams:
            ended, self._ended = self._ended, True
            if not ended:
                self.figures.take_payload(self.body or b"")
                self._finish()
            return None if ended else self.body
        if self._chunks is None:
            self._chunks = self._response.aiter_bytes()
        try:
            async for chunk in self._chunks:
                events, end, self._incomplete = (self._incomplete + chunk).rpartition(_END)
                if len(self._incomplete) > MAX_EVENT_BYTES:
                    raise Unavailable(f"an event of the gateway is larger than {MAX_EVENT_BYTES} bytes; ask for less")
                if end:
                    self.figures.take_events(events)
                    self._ended = self._ended or any(map(_is_last, events.split(_END)))
                    if self._ended:
                        self._finish()  # before the last event: whoever has seen that may ask for the record
                    return escaped(events + end)
        except httpx.HTTPError as error:
            if not self._ended:
                raise self._client.failure(error, self._url) from error
        if not self._ended:
            raise Unavailable("the gateway ended its answer too early; try again")
        return None

    def taken(self) -> None:
        """Do nothing: reading the connection is what asks the gateway for more."""

    async def aclose(self) -> None:
        """See `Answer.aclose`. A gateway that still writes stops."""
        self._finish()
        if not self._closed:
            self._closed = True
            self._client.open.free()
        await self._response.aclose()

    def _finish(self) -> None:
        callbacks, self._finish_callbacks = self._finish_callbacks, []
        for callback in callbacks:
            callback()


class PassthroughClient:
    """A client of the OpenAI API of the gateway that the link is up to, or of the next one if no answer begins there.

    Each request has a connection of its own: there are few, and none meets a stale connection.

    Args:
        network: the way there; None: directly, without TLS.

    Attributes:
        open: its answers that are not closed.
    """

    def __init__(self, gateways: Gateways, api_key: str | None, network: Network | None) -> None:
        self.open = Occupancy()
        self._gateways = gateways
        self._network = network or DIRECT
        self._client = self._network.http_client(
            # Not compressed: events would come late.
            headers={"accept-encoding": "identity"} | ({"authorization": f"Bearer {api_key}"} if api_key else {}),
            timeout=httpx.Timeout(SILENCE_S, connect=CONNECT_TIMEOUT_S, pool=CONNECT_TIMEOUT_S),
            limits=httpx.Limits(max_connections=MAX_OPEN_REQUESTS, max_keepalive_connections=0),
            socket_options=sockets.options(sockets.CLIENT_TIMEOUT_S),
        )

    async def request(self, forwarded: ForwardedRequest, request_id: str) -> PassthroughAnswer:
        """Send a request, and return its answer, whatever the status.

        Where no answer begins the next gateway is asked, and for `AGAIN_S` all of them again if one of them answered: a
        load balancer may have another server. Raises ApiError; cancelling takes the request back.
        """
        until: float | None = None
        while True:
            outcome: PassthroughAnswer | ApiError
            declined = False
            for gateway in self._gateways.in_request_order():
                try:
                    outcome = await self._request(gateway.address.http, forwarded, request_id)
                    if outcome.status != Unavailable.status:
                        return outcome
                    declined = True
                except (Unauthorized, Unavailable) as error:
                    # After ten minutes of silence nobody waits for another ten.
                    if self._client.is_closed or isinstance(error.__cause__, httpx.ReadTimeout):
                        raise
                    declined = declined or isinstance(error, Declined)
                    log.warning("request %s: no answer begins: %s", request_id, error)
                    outcome = error
            if until is None:  # from here: the first attempt may have taken minutes to come to nothing
                until = time.monotonic() + AGAIN_S
            if declined and time.monotonic() < until:
                await asyncio.sleep(random.uniform(0.0, BACKOFF_FIRST_S))
            elif isinstance(outcome, ApiError):
                raise outcome
            else:
                return outcome

    async def _request(self, url: str, forwarded: ForwardedRequest, request_id: str) -> PassthroughAnswer:
        if self._client.is_closed:
            raise self.failure(httpx.HTTPError("closed"), url)
        headers = {"x-request-id": request_id}
        if forwarded.content_type:
            headers["content-type"] = forwarded.content_type
        content = forwarded.body if forwarded.body or forwarded.method == "POST" else None
        try:
            target = httpx.URL(url + forwarded.target)
        except httpx.InvalidURL as error:
            raise InvalidRequest(f"the path cannot be passed on: {error}") from None
        request = self._client.build_request(forwarded.method, target, content=content, headers=headers)
        try:
            response = await self._client.send(request, stream=True)
        except httpx.PoolTimeout as error:
            raise Overloaded(
                f"{MAX_OPEN_REQUESTS} requests that cannot be drafted for are open at this agent, its limit; try again",
                retry_after_s=self.open.wait_s(),
            ) from error
        except httpx.HTTPError as error:
            raise self.failure(error, url, begun=False) from error
        answer = PassthroughAnswer(self, url, response)
        if answer.streams:
            return answer
        try:
            if answer.status == 401:
                raise Unauthorized(f"the gateway {url} refuses this agent's key: set gateway_api_key_file")
            if 300 <= answer.status < 400 and (location := response.headers.get("location")):
                raise Unavailable(moved(url, location))
            if answer.status < 400 and answer.status != 200 and not (forwarded.any_success and answer.status < 300):
                raise Unavailable(
                    f"there is no OpenAI API at {url} (it answered {answer.status}): check the setting gateway, "
                    "and any proxy in between"
                )
            await answer.read()
            if answer.status == 400 and (trouble := wants_tls(url, answer.body)) is not None:
                raise Unavailable(trouble)
            if answer.status == Misdirected.status:  # of the address that this agent was given, not of the request
                raise Unavailable(f"the gateway {url} answered 421: {error_message_from_body(answer.body)}")
        finally:
            await answer.aclose()
        if answer.status in BUSY_STATUS and not error_message_from_body(answer.body):
            raise Declined(no_server_behind(url, answer.status))
        return answer

    def failure(self, error: httpx.HTTPError, url: str, *, begun: bool = True) -> ApiError:
        """The error for a client. begun: the gateway has begun to answer."""
        if self._client.is_closed:
            return ShuttingDown("the agent is shutting down; try again later")
        if isinstance(error, httpx.ConnectTimeout):
            return Unavailable(f"the gateway {url} does not answer within {CONNECT_TIMEOUT_S:g} s; try again")
        if isinstance(error, httpx.TimeoutException):
            return Unavailable(f"nothing came from the gateway {url} for {SILENCE_S:g} s; try again")
        if not begun and self._gateways.current is None and (trouble := tls_trouble(error, url)) is not None:
            # A load balancer that passes bytes on hangs up where its server is gone.
            kind = Unavailable if isinstance(error, httpx.ConnectError) else Declined
            return kind(trouble)
        if isinstance(error, httpx.ConnectError | httpx.ProxyError):
            return Unavailable(why_unreachable(error, url, self._network.proxy(url)))
        return Declined(f"the connection to the gateway {url} was lost: {error or type(error).__name__}; try again")

    async def aclose(self) -> None:
        """End every answer with an error. Harmless when repeated."""
        await self._client.aclose()


def _is_last(event: bytes) -> bool:
    """Whether an event tells the client that no more follows."""
    return any(ends_stream(line.removeprefix(_DATA)) for line in event.split(b"\n") if line.startswith(_DATA))


def with_noise(body: bytes) -> bytes:
    """A body with `NOISE` in its vllm_xargs, so that its seed gives the text that a session's would; else unchanged.

    A body or a vllm_xargs that is no object stays as it is, for the server to refuse.
    """
    try:
        fields = msgspec.json.decode(body, type=dict[str, Raw])
        extra = msgspec.json.decode(fields.get("vllm_xargs", b"null"), type=dict[str, Raw] | None)
    except NOT_JSON:
        return body
    fields["vllm_xargs"] = Raw(msgspec.json.encode((extra or {}) | {NOISE: Raw(b"1")}))
    return msgspec.json.encode(fields)
