"""Records: what the last requests did, the figures behind `GET /v1/pipesd/requests/{id}`."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
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

    def record(self) -> dict[str, Any] | None:
        """What there is so far; None: the request was never opened.

        seconds: since it came. tokens: output ids, each with whether it was drafted, sent and right.
        """
        if self._counts is None:
            return None
        return {
            "seconds": round(time.monotonic() - self._began, 4),
            "prompt_tokens": self._prompt_tokens,
            "output_tokens": len(self._tokens),
            "counts": msgspec.to_builtins(self._counts) | {"rejected": self._counts.rejected},
            "upload_bytes": msgspec.to_builtins(self._upload),
            "tokens": list(self._tokens),
        }


class Records:
    """The last `KEPT` finished requests by their id. Holds token ids of answers, in memory only."""

    def __init__(self) -> None:
        self._records: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def add(self, request: RequestRecord, rest: Mapping[str, Any] | None = None) -> None:
        """Note a request that is over. rest: the figures of what the draft model wrote of its answer."""
        record = request.record()
        if record is not None:
            self.add_local(request.request_id, record | (dict(rest or {}) | {"seconds": record["seconds"]}))

    def add_local(self, request_id: str, record: Mapping[str, Any]) -> None:
        """Note a request that the target had no part in, with the figures of the draft model's answer."""
        self._records[request_id] = {"id": request_id, **record}
        self._records.move_to_end(request_id)
        while len(self._records) > KEPT:
            self._records.popitem(last=False)

    def get(self, request_id: str) -> dict[str, Any] | None:
        """The record of a request; None: it is not remembered, or not over."""
        return self._records.get(request_id)
