"""Records: what running and the last requests did, the figures behind `GET /v1/pipesd/requests/{id}`."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from pipesd_agent.session.counts import Counts
from pipesd_agent.session.observer import Decision, NullObserver
from pipesd_core.protocol.messages import Ack, Draft, EdgeMessage, Open, Opened

KEPT: Final = 64


class Upload(Struct):
    """Bytes sent for a request, WebSocket headers and masks included."""

    open: int = 0
    drafts: int = 0
    acks: int = 0
    other: int = 0


class RequestRecord(NullObserver):
    """Observer of one request's session, for its record."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self._began = time.monotonic()
        self._seconds: float | None = None
        self._upload = Upload()
        self._counts: Counts | None = None
        self._prompt_tokens = 0
        self._tokens: list[tuple[int, bool]] = []

    def opened(self, opened: Opened, counts: Counts, now: float) -> None:  # noqa: ARG002
        self._counts = counts
        self._prompt_tokens = len(opened.prompt_ids)

    def sent(self, message: EdgeMessage, size: int, now: float) -> None:  # noqa: ARG002
        match message:
            case Open():
                self._upload.open += size
            case Draft():
                self._upload.drafts += size
            case Ack():
                self._upload.acks += size
            case _:
                self._upload.other += size

    def decided(self, decision: Decision, now: float) -> None:  # noqa: ARG002
        self._tokens += zip(decision.tokens, decision.accepted, strict=True)

    @property
    def opened_at_gateway(self) -> bool:
        """Whether a gateway has accepted the request."""
        return self._counts is not None

    def finish(self) -> None:
        """Take the time: the client has its answer, or is gone. Verdicts may still be on their way."""
        self._seconds = time.monotonic() - self._began

    def record(self) -> dict[str, Any]:
        """What there is so far, once it is opened.

        seconds: from its beginning to its end for the client. tokens: output ids, each with whether it was drafted,
        sent and right.
        """
        assert self._counts is not None
        seconds = time.monotonic() - self._began if self._seconds is None else self._seconds
        return {
            "seconds": round(seconds, 4),
            "prompt_tokens": self._prompt_tokens,
            "output_tokens": len(self._tokens),
            "counts": msgspec.to_builtins(self._counts) | {"rejected": self._counts.rejected},
            "upload_bytes": msgspec.to_builtins(self._upload),
            "tokens": list(self._tokens),
        }


class Records:
    """The running requests and the last `KEPT` finished ones, by their id. Token ids of answers, in memory only.

    A caller that `begin`s a request `add`s it when it is over, so that no more run here than with the caller.
    """

    def __init__(self) -> None:
        self._running: dict[str, RequestRecord] = {}
        self._records: OrderedDict[str, Callable[[], dict[str, Any]]] = OrderedDict()

    def begin(self, request: RequestRecord) -> None:
        """Note a request that runs; of several with one id the last is shown."""
        self._running[request.request_id] = request

    def add(self, request: RequestRecord, rest: Mapping[str, Any] | None = None) -> None:
        """Note a request that is over. rest: the figures of what the draft model wrote of its answer.

        What the session still receives after that is in the record, as it is in `/metrics`.
        """
        request.finish()
        if self._running.get(request.request_id) is request:
            del self._running[request.request_id]
        if not request.opened_at_gateway:
            return

        def record() -> dict[str, Any]:
            own = request.record()
            return own | dict(rest or {}) | {"seconds": own["seconds"]}

        self._note(request.request_id, record)

    def add_figures(self, request_id: str, record: Mapping[str, Any]) -> None:
        """Note a request that had no session, with the figures of its answer."""
        self._note(request_id, lambda: dict(record))

    def get(self, request_id: str) -> dict[str, Any] | None:
        """The record of a request, of a running one what there is so far.

        None: it is not remembered, or runs but was not opened at a gateway (one that is queued or passed on).
        """
        running = self._running.get(request_id)
        if running is not None and running.opened_at_gateway:
            return {"id": request_id, "finished": False, **running.record()}
        finished = self._records.get(request_id)
        return None if finished is None else {"id": request_id, "finished": True, **finished()}

    def _note(self, request_id: str, record: Callable[[], dict[str, Any]]) -> None:
        self._records[request_id] = record
        self._records.move_to_end(request_id)
        while len(self._records) > KEPT:
            self._records.popitem(last=False)
