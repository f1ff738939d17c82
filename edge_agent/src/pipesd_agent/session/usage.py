"""The drafts of an answer in its usage object."""

from __future__ import annotations

import msgspec

from pipesd_agent.session.counts import Counts


def usage_payload(payload: bytes, counts: Counts) -> bytes:
    """The payload with the accepted and rejected drafts in its usage object (architecture §4)."""
    answer = msgspec.json.decode(payload)
    usage = answer["usage"]
    details = usage["completion_tokens_details"] = usage.get("completion_tokens_details") or {}
    details["accepted_prediction_tokens"] = counts.accepted
    details["rejected_prediction_tokens"] = counts.rejected
    return msgspec.json.encode(answer)
