"""Policies without reason, for tests of what must hold whatever they say."""

from __future__ import annotations

import random

from pipesd_agent.drafting.drafter import DraftToken
from pipesd_agent.session.observer import Decision
from pipesd_agent.session.policies import Mode
from pipesd_core.protocol.messages import FOREVER


class Whims(Mode):
    """A mode that changes its mind at random, `restless` of the times that it is asked."""

    def __init__(self, seed: int, restless: float) -> None:
        self.rng = random.Random(seed)
        self._restless = restless
        self.changes = 0

    @property
    def lead(self) -> int:
        return self.rng.choice((0, 0, 2, 9))

    def _say(self, *answers: int) -> int:
        self.changes += 1
        return self.rng.choice(answers)

    def _wants(self) -> bool:
        return self.rng.random() < self._restless

    def opening(self, now: float) -> int:  # noqa: ARG002
        return self._say(0, 1, 7, FOREVER) if self._wants() else 0

    def decided(self, decision: Decision, now: float) -> int | None:  # noqa: ARG002
        return self._say(0, 0, 1, 3, 20, FOREVER) if self._wants() else None

    def drafted(self, token: DraftToken, now: float) -> int:  # noqa: ARG002
        return self._say(1, 4, 40, FOREVER) if self._wants() else 0


class AnyTrigger:
    """Fires with a chance that is another one after each reset."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.reset()

    def drafted(self, token: DraftToken) -> bool:  # noqa: ARG002
        return self._rng.random() < self._chance

    def reset(self) -> None:
        self._chance = self._rng.choice((0.0, 0.05, 0.3, 1.0))

    def verified(self, drafts: int, accepted: int) -> None:
        pass


class AnyBatcher:
    """Sends with a chance that is another one after each reset."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.reset()

    def due(self, unsent: int, now: float) -> bool:  # noqa: ARG002
        return self._rng.random() < self._chance

    def reset(self) -> None:
        self._chance = self._rng.choice((0.0, 0.1, 0.5, 1.0))
