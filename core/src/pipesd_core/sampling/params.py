"""The parameters of sampling, apart from the sampler: messages have them, and need no numpy."""

from __future__ import annotations

from typing import Final

import msgspec

from pipesd_core.errors import InvalidRequest

GREEDY_BELOW: Final = 1e-5
"""Temperatures below this are 0 (vLLM's ``_SAMPLING_EPS``)."""
MIN_TEMPERATURE: Final = 0.01
"""Other temperatures below this are raised to it (vLLM's ``_MAX_TEMP``)."""
LARGEST_SEED: Final = 2**63 - 1


class SamplingParams(msgspec.Struct, frozen=True, array_like=True):
    """The effective sampling parameters of a request, server defaults included.

    temperature: as asked for; see `GREEDY_BELOW` and `MIN_TEMPERATURE` for the two clamps. top_p: 0 < top_p <= 1.
    top_k: 0 or less means off. seed: 63 random bits when the client gave none.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature <= 2.0:
            raise InvalidRequest(
                f"temperature must lie between 0 and 2, but is {self.temperature}", param="temperature"
            )
        if not 0.0 < self.top_p <= 1.0:
            raise InvalidRequest(f"top_p must be above 0 and at most 1, but is {self.top_p}", param="top_p")
        if not -1 <= self.top_k < 2**31:
            raise InvalidRequest(f"top_k must be -1 or 0 (off) or positive, but is {self.top_k}", param="top_k")
        if not -LARGEST_SEED - 1 <= self.seed <= LARGEST_SEED:
            raise InvalidRequest(f"seed must fit into 64 bits, but is {self.seed}", param="seed")

    @property
    def greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW
