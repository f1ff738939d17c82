"""The actions of a session: what its shell has to do for the drafter and for the client."""

from __future__ import annotations

from msgspec import Struct

from pipesd_core.errors import ApiError
from pipesd_core.sampling.params import SamplingParams


class StartDrafting(Struct, frozen=True):
    """Open a lane of the drafter; if it has none left, call `EdgeSession.drafting_ended`."""

    prompt_ids: tuple[int, ...]
    params: SamplingParams
    eos_ids: frozenset[int]


class Commit(Struct, frozen=True):
    """Tell the lane what the target decided, and the first position that must not be drafted."""

    tokens: tuple[int, ...]
    limit: int


class StopDrafting(Struct, frozen=True):
    """Close the lane."""


class Deliver(Struct, frozen=True):
    """Give the client a payload; call `EdgeSession.taken` with its seq when the client has it."""

    seq: int
    payload: bytes
    usage: bool


class Complete(Struct, frozen=True):
    """Tell the client that the answer is complete."""


class Fail(Struct, frozen=True):
    """Tell the client that the answer cannot be completed."""

    error: ApiError


Action = StartDrafting | Commit | StopDrafting | Deliver | Complete | Fail
