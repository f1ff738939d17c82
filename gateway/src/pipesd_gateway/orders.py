"""Outputs of a session: messages to the edge, and orders to the engine."""

from __future__ import annotations

from msgspec import Struct

from pipesd_core.protocol.messages import GatewayMessage


class Step(Struct, frozen=True):
    """Order to the engine: one step that verifies `drafts`, then `ahead` steps of one token each."""

    drafts: tuple[int, ...]
    ahead: int = 0


class Abort(Struct, frozen=True):
    """Order to the engine: release the request."""


Output = GatewayMessage | Step | Abort
