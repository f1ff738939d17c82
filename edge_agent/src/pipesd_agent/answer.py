"""The one interface of the answers that an agent gives, whoever writes them: the target, the draft model or both."""

from __future__ import annotations

from typing import Protocol


class Answer(Protocol):
    """The response to one request, of which at least the status is known.

    Call `next` until it returns None or raises, `taken` after each part that the client has got, and `aclose` in the
    end, whatever happened. All on the event loop's thread.
    """

    @property
    def status(self) -> int:
        """HTTP status of the response."""

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers of the response, as far as they are known before the first part."""

    @property
    def streams(self) -> bool:
        """Whether each part is one or more whole server-sent events; else the first part is the whole body.

        Raises InvalidRequest where the request does not say which it wants.
        """

    @property
    def output_tokens(self) -> int:
        """Tokens of the answer so far; 0 where nobody counts them."""

    async def next(self) -> bytes | None:
        """The next part of the body; None: it is complete. Raises ApiError; `error_event` then ends a stream."""

    def taken(self) -> None:
        """Note that the client has the part that `next` returned last, so that more may be asked for."""

    async def aclose(self) -> None:
        """Free what the answer holds, and stop whoever still writes it. Harmless when repeated."""
