"""When the cloud is gone: an error, or the draft model alone, as the user wants it.

It is another model's answer, so it is never given in silence: see `answer`.
"""

from __future__ import annotations

import logging
from typing import Final, Literal

from pipesd_agent.local.answer import MODE, EdgeAnswer
from pipesd_agent.local.model import CannotGoOn, Edge, error_message, without
from pipesd_agent.session.stream import RequestStream
from pipesd_core.errors import ApiError, InvalidRequest, Unavailable
from pipesd_core.protocol.messages import Endpoint, Opened

log = logging.getLogger(__name__)

Policy = Literal["error", "edge"]
HEADER: Final = "x-pipesd-fallback"


def policy_of(header: str | None, default: Policy, *, has_edge: bool) -> Policy:
    """What a request is to get. Raises InvalidRequest for a header that cannot be followed."""
    if header is None:
        return default
    if header not in ("error", "edge"):
        raise InvalidRequest(f"the header {HEADER} must be error or edge, but is {header[:64]!r}")
    if header == "edge" and not has_edge:
        raise InvalidRequest(f"the header {HEADER} is edge, but this agent has no draft model: start it with one")
    return "edge" if header == "edge" else "error"


def is_loss(error: ApiError) -> bool:
    """Is the cloud gone, rather than of another opinion?"""
    return error.status == Unavailable.status


async def begin(edge: Edge, endpoint: Endpoint, body: bytes, request_id: str, error: ApiError) -> EdgeAnswer:
    """The answer that the cloud could not even begin, because of `error`. Raises ApiError."""
    reason = error_message(error)
    try:
        answer = await edge.begin(endpoint, without(body, "model"), reason)
    except ApiError as refusal:
        raise Unavailable(f"{reason}; the draft model cannot answer instead: {error_message(refusal)}") from refusal
    log.warning("request %s is answered by the draft model alone: %s", request_id, reason)
    return answer


class CloudAnswer:
    """The target's answer, and the draft model's from where the target is lost, if there is an `edge` for that.

    stream: the request at the gateway, whose end is its owner's to see to. rest: what the draft model writes.
    """

    def __init__(self, stream: RequestStream, opened: Opened, edge: Edge | None) -> None:
        self.stream = stream
        self.rest: EdgeAnswer | None = None
        self._seed = str(opened.params.seed)
        self._edge = edge

    @property
    def headers(self) -> dict[str, str]:
        """So far."""
        return {"x-pipesd-seed": self._seed} | (MODE if self.rest is not None else {})

    async def next(self) -> bytes | None:
        """The next payload for the client, who has taken all before it; None: complete. Raises ApiError."""
        if self.rest is None:
            try:
                return await self.stream.next()
            except ApiError as error:
                if self._edge is None or not is_loss(error) or self._edge.closed:
                    raise
                self.rest = await self._go_on(self._edge, error)
        return await self.rest.next()

    def taken(self) -> None:
        """The client has what `next` returned last."""
        self.stream.taken()

    async def _go_on(self, edge: Edge, error: ApiError) -> EdgeAnswer:
        reason, request_id = error_message(error), self.stream.request_id
        try:
            rest = await edge.go_on(self.stream.session, reason)
        except (CannotGoOn, ApiError) as refusal:
            because = noted = str(refusal)
            if isinstance(refusal, ApiError):  # its message may show a parameter, which no log may
                because, noted = error_message(refusal), f"{type(refusal).__name__} {refusal.param or ''}".rstrip()
            log.warning("request %s ends: %s; the draft model cannot go on: %s", request_id, reason, noted)
            raise Unavailable(f"{reason}; the draft model cannot go on with the answer: {because}") from refusal
        decided = rest.label["from_token"]
        log.warning("request %s: the draft model goes on alone after %d tokens: %s", request_id, decided, reason)
        return rest
