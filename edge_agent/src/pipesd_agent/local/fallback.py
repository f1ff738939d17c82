"""Fallback when the cloud is gone: an error, or the draft model alone, as the user wants it.

The draft model's is another model's answer, so it is never given in silence: see `answer`.
"""

from __future__ import annotations

import logging
from typing import Final, Literal

from pipesd_agent.local.answer import MODE_HEADER, LocalAnswer, PayloadAnswer
from pipesd_agent.local.model import CannotContinue, LocalModel, drop_fields, error_message
from pipesd_agent.session.stream import RequestStream
from pipesd_core.errors import ApiError, InvalidRequest, Unavailable
from pipesd_core.openai_parameters import ignored_header
from pipesd_core.protocol.messages import Endpoint, Opened

log = logging.getLogger(__name__)

FallbackPolicy = Literal["error", "edge"]
"""Reaction to a cloud that is gone: an error, or the draft model alone."""
FALLBACK_HEADER: Final = "x-pipesd-fallback"
"""Request header with the policy for that request."""


def fallback_policy(header: str | None, default: FallbackPolicy, *, has_local_model: bool) -> FallbackPolicy:
    """The policy for a request with this `x-pipesd-fallback`. Raises InvalidRequest where it cannot be followed."""
    if header is None:
        return default
    if header not in ("error", "edge"):
        raise InvalidRequest(f"the header {FALLBACK_HEADER} must be error or edge, but is {header[:64]!r}")
    if header == "edge" and not has_local_model:
        raise InvalidRequest(
            f"the header {FALLBACK_HEADER} is edge, but this agent has no draft model: start it with one"
        )
    return "edge" if header == "edge" else "error"


def is_unavailable(error: ApiError) -> bool:
    """Whether the cloud is gone, rather than refusing this request."""
    return error.status == Unavailable.status


async def start_local_answer(
    local: LocalModel, endpoint: Endpoint, body: bytes, request_id: str, error: ApiError
) -> LocalAnswer:
    """The draft model's answer, because the cloud could not even begin one: that was `error`. Raises ApiError."""
    reason = error_message(error)
    try:
        answer = await local.start(endpoint, drop_fields(body, "model"), reason)
    except ApiError as refusal:
        raise Unavailable(f"{reason}; the draft model cannot answer instead: {error_message(refusal)}") from refusal
    log.warning("request %s is answered by the draft model alone: %s", request_id, reason)
    return answer


class CloudAnswer(PayloadAnswer):
    """The target's answer, and the draft model's from where the target is lost, if `local` is there for that.

    Attributes:
        stream: the request at the gateway, whose end is its owner's to see to.
        rest: the draft model's part of the answer; None: it has none.
    """

    def __init__(self, body: bytes, stream: RequestStream, opened: Opened, local: LocalModel | None) -> None:
        super().__init__(stream.session.request.endpoint, body)
        self.stream = stream
        self.rest: LocalAnswer | None = None
        self._headers = {"x-pipesd-seed": str(opened.params.seed)} | ignored_header(opened.ignored)
        self._local = local

    @property
    def headers(self) -> dict[str, str]:
        """See `Answer.headers`."""
        return self._headers | (MODE_HEADER if self.rest is not None else {})

    @property
    def output_tokens(self) -> int:
        """See `Answer.output_tokens`; of both models."""
        if self.rest is not None:
            return self.rest.output_tokens
        session = self.stream.session
        return 0 if session.opened is None else len(session.committed) - len(session.opened.prompt_ids)

    async def next_payload(self) -> bytes | None:
        """See `PayloadAnswer.next_payload`."""
        if self.rest is None:
            try:
                return await self.stream.next()
            except ApiError as error:
                if self._local is None or not is_unavailable(error) or self._local.closed:
                    raise
                self.rest = await self._continue_locally(self._local, error)
                self.add_finish_callback(self.rest.finish)
        return await self.rest.next_payload()

    def taken(self) -> None:
        """See `Answer.taken`."""
        if not self._finished:
            self.stream.taken()

    async def _continue_locally(self, local: LocalModel, error: ApiError) -> LocalAnswer:
        reason, request_id = error_message(error), self.stream.request_id
        try:
            rest = await local.continue_answer(self.stream.session, reason)
        except (CannotContinue, ApiError) as refusal:
            because = noted = str(refusal)
            if isinstance(refusal, ApiError):  # its message may show a parameter, which no log may
                because, noted = error_message(refusal), f"{type(refusal).__name__} {refusal.param or ''}".rstrip()
            log.warning("request %s ends: %s; the draft model cannot go on: %s", request_id, reason, noted)
            raise Unavailable(f"{reason}; the draft model cannot go on with the answer: {because}") from refusal
        decided = rest.label["from_token"]
        log.warning("request %s: the draft model goes on alone after %d tokens: %s", request_id, decided, reason)
        return rest
