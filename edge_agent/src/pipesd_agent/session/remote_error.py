"""The error that a gateway ended a session with, as the client sees it."""

from __future__ import annotations

from typing import Any

import msgspec

from pipesd_core.errors import ApiError
from pipesd_core.protocol.messages import Failed


class RemoteError(ApiError):
    """An error of the gateway: its status and body reach the client as they are."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.code)
        self.status = failed.status
        self.retry_after_s = failed.retry_after_s
        self._failed = failed

    def body(self) -> dict[str, Any]:
        try:
            return msgspec.json.decode(self._failed.body, type=dict[str, Any])
        except msgspec.DecodeError:
            return {"error": {"message": self.message, "type": self.type, "param": None, "code": self.message}}
