"""What the last requests did: the figures behind `GET /v1/pipesd/requests/{id}`, kept for the last few only."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from pipesd_agent.session.stream import RequestStream

KEPT: Final = 64


class Records:
    """The last `KEPT` finished requests by their id. Holds token ids of answers, in memory only."""

    def __init__(self) -> None:
        self._records: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def add(self, stream: RequestStream, rest: Mapping[str, Any] | None = None) -> None:
        """Note a request that is over. rest: the figures of what the draft model wrote of its answer."""
        session = stream.session
        if session.opened is None:
            return
        prompt = len(session.opened.prompt_ids)
        record = {
            "seconds": round(time.monotonic() - stream.started, 4),
            "prompt_tokens": prompt,
            "output_tokens": len(session.committed) - prompt,
            "counts": msgspec.to_builtins(session.counts) | {"rejected": session.counts.rejected},
            "upload_bytes": msgspec.to_builtins(stream.upload),
            "tokens": list(zip(session.committed[prompt:], session.origins, strict=True)),
        }
        self._note(stream.request_id, record | ({} if rest is None else dict(rest) | {"seconds": record["seconds"]}))

    def add_local(self, request_id: str, record: Mapping[str, Any]) -> None:
        """Note a request that the target had no part in, with the figures of the draft model's answer."""
        self._note(request_id, record)

    def _note(self, request_id: str, record: Mapping[str, Any]) -> None:
        self._records[request_id] = {"id": request_id, **record}
        self._records.move_to_end(request_id)
        while len(self._records) > KEPT:
            self._records.popitem(last=False)

    def get(self, request_id: str) -> dict[str, Any] | None:
        return self._records.get(request_id)
