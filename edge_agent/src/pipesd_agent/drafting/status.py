"""Whether anything is drafted, by what, and why not: what `/health`, the log and `usage.pipesd` say of it."""

from __future__ import annotations

import logging
from enum import StrEnum
from typing import Any, Final

log = logging.getLogger(__name__)


class DraftingOff(StrEnum):
    """The reason why nothing is drafted, for an agent or for one answer; where there are several, the first is named.

    docs/api.md lists them.
    """

    MODE_CLOUD = "mode_cloud"
    MODE_EDGE = "mode_edge"
    DRAFTER_BROKEN = "drafter_broken"
    NO_GATEWAY = "no_gateway"
    VOCABULARY = "vocabulary_mismatch"
    TARGET_ONLY = "target_only_is_better"
    # Of one answer only.
    CAPACITY = "drafter_capacity"
    CONTEXT = "drafter_context"
    UNKNOWN_TOKEN = "token_unknown_to_drafter"
    NO_VERDICT = "verification_timeout"


_MEANING: Final = {
    DraftingOff.MODE_CLOUD: "mode is cloud: the target writes alone",
    DraftingOff.MODE_EDGE: "mode is edge: the draft model answers alone",
    DraftingOff.DRAFTER_BROKEN: "the drafter broke",
    DraftingOff.NO_GATEWAY: "there is no link to a gateway that could verify drafts",
    DraftingOff.VOCABULARY: "the drafter's vocabulary is not the target's",
    DraftingOff.TARGET_ONLY: "mode auto: the target alone serves the objective better",
}
_ALARMING: Final = (DraftingOff.DRAFTER_BROKEN, DraftingOff.VOCABULARY)


class DraftingStatus:
    """The drafting of one agent. Whoever knows a reason tells it; each change is logged. On the event loop's thread.

    Args:
        drafter: the name of what drafts. why: the reason why it is that one, for people.
        off: reasons that there are from the start.
    """

    def __init__(self, drafter: str, why: str, *off: DraftingOff) -> None:
        self._drafter = drafter
        self._why = why
        self._off: dict[DraftingOff, str] = {reason: _MEANING[reason] for reason in off}

    @property
    def off(self) -> DraftingOff | None:
        """The reason why nothing is drafted now; None: it is drafted."""
        return next((reason for reason in DraftingOff if reason in self._off), None)

    def set_off(self, reason: DraftingOff, detail: str = "") -> None:
        """Take note of a reason, which holds until `set_on`."""
        before = self.off
        self._off[reason] = f"{_MEANING[reason]}{': ' if detail else ''}{detail}"
        self._log_change(before)

    def set_on(self, reason: DraftingOff) -> None:
        """Take note that a reason does not hold any more, if it did."""
        before = self.off
        self._off.pop(reason, None)
        self._log_change(before)

    def report(self) -> dict[str, Any]:
        """The state for `/health`."""
        off = self.off
        detail = self._why if off is None else self._off[off]
        return {"state": "on" if off is None else "off", "drafter": self._drafter, "reason": off, "detail": detail}

    def _log_change(self, before: DraftingOff | None) -> None:
        now = self.off
        if now is before:
            return
        if now is None:
            log.info("drafting: on: %s", self._why)
        else:
            log.log(logging.WARNING if now in _ALARMING else logging.INFO, "drafting: off: %s", self._off[now])
