from __future__ import annotations

import logging

import pytest
from repository import ROOT

from pipesd_agent.drafting.status import DraftingOff, DraftingStatus

WHY = "no draft model is given: lookup drafts from the text itself"


def test_each_change_is_said_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    drafting = DraftingStatus("lookup", WHY, DraftingOff.NO_GATEWAY)
    assert drafting.report()["state"] == "off"
    assert not caplog.messages  # whoever makes it has said so
    for _ in range(2):
        drafting.set_on(DraftingOff.NO_GATEWAY)
    assert drafting.report() == {"state": "on", "drafter": "lookup", "reason": None, "detail": WHY}
    for _ in range(2):
        drafting.set_off(DraftingOff.TARGET_ONLY, "speculative 40; target-only 6")
    assert drafting.report() == {
        "state": "off",
        "drafter": "lookup",
        "reason": "target_only_is_better",
        "detail": "mode auto: the target alone serves the objective better: speculative 40; target-only 6",
    }
    assert caplog.messages == [f"drafting: on: {WHY}", f"drafting: off: {drafting.report()['detail']}"]


def test_of_several_reasons_the_first_is_said_until_it_is_gone(caplog: pytest.LogCaptureFixture) -> None:
    drafting = DraftingStatus("draft.gguf", "the draft model draft.gguf drafts")
    drafting.set_off(DraftingOff.TARGET_ONLY)
    drafting.set_off(DraftingOff.VOCABULARY)
    drafting.set_off(DraftingOff.NO_GATEWAY)
    shown = [drafting.off]
    for reason in (DraftingOff.NO_GATEWAY, DraftingOff.VOCABULARY, DraftingOff.TARGET_ONLY):
        drafting.set_on(reason)
        shown.append(drafting.off)
    assert shown == [DraftingOff.NO_GATEWAY, DraftingOff.VOCABULARY, DraftingOff.TARGET_ONLY, None]
    (alarm, *_) = [record for record in caplog.records if "vocabulary" in record.message]
    assert alarm.levelno == logging.WARNING


def test_every_reason_stands_in_the_page_about_the_api() -> None:
    page = (ROOT / "docs" / "api.md").read_text("utf-8")
    assert [reason for reason in DraftingOff if f"| `{reason}` |" not in page] == []
