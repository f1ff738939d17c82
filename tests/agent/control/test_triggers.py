"""Verification triggers and their settings."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pipesd_agent.control.triggers import (
    BY_ENTROPY,
    KINDS,
    MAX_LENGTH,
    AdaEdl,
    AdaEdlSettings,
    AdaptiveSequence,
    DualSettings,
    DualThreshold,
    FixedLength,
    FixedSettings,
    SequenceSettings,
    Svip,
    SvipSettings,
    TokenSettings,
    TriggerSettings,
)
from pipesd_agent.drafting.drafter import DraftToken
from pipesd_agent.session.policies import Trigger
from pipesd_core.errors import ConfigError


def dual(r1: float, r2: float) -> DualThreshold:
    return DualSettings(r1=r1, r2=r2).make()


def feed(trigger: Trigger, *confidences: float) -> list[bool]:
    return [trigger.drafted(DraftToken(position=i, token=1, confidence=c)) for i, c in enumerate(confidences)]


def test_sequence_threshold_counts_the_product() -> None:
    assert feed(dual(r1=0.5, r2=0.0), 0.9, 0.8, 0.75, 0.9) == [False, False, False, True]


def test_thresholds_are_reached_at_equality() -> None:
    assert feed(dual(r1=0.25, r2=0.0), 0.5, 0.5) == [False, True]
    assert feed(dual(r1=0.0, r2=0.5), 0.5) == [True]


def test_token_threshold_fires_alone() -> None:
    assert feed(dual(r1=0.0, r2=0.4), 0.9, 0.39, 0.9) == [False, True, False]


def test_reset_starts_the_product_again() -> None:
    trigger = dual(r1=0.5, r2=0.1)
    assert feed(trigger, 0.7, 0.7) == [False, True]
    trigger.reset()
    assert feed(trigger, 0.7, 0.7) == [False, True]


def test_fixed_length() -> None:
    trigger = FixedLength(3)
    assert feed(trigger, 0.0, 0.0, 1.0) == [False, False, True]
    trigger.reset()
    assert feed(trigger, 1.0, 1.0, 1.0) == [False, False, True]


def test_adaptive_asks_for_longer_drafts_while_all_is_accepted() -> None:
    trigger = AdaptiveSequence(r1=0.5, decay=0.5)
    assert feed(trigger, 0.8, 0.6) == [False, True]
    trigger.reset()
    trigger.verified(2, 2)
    assert trigger.r1 == 0.25
    assert feed(trigger, 0.8, 0.6, 0.5) == [False, False, True]


def test_adaptive_rises_by_the_share_that_was_rejected() -> None:
    trigger = AdaptiveSequence(r1=0.2, decay=0.5)
    feed(trigger, 0.5, 0.32)
    trigger.reset()
    trigger.verified(2, 1)
    assert trigger.r1 == pytest.approx(0.2 / 0.16**0.5)


def test_adaptive_is_bounded() -> None:
    trigger = AdaptiveSequence(r1=0.9, decay=0.5)
    for accepted in [0] * 3 + [1] * 40:
        feed(trigger, 1e-30)
        trigger.reset()
        trigger.verified(1, accepted)
        assert 1e-9 <= trigger.r1 <= 1.99


def uncertain(trigger: Trigger, *entropies: float) -> list[bool]:
    return [trigger.drafted(DraftToken(i, 1, 0.5, entropy=entropy)) for i, entropy in enumerate(entropies)]


def test_svip_fires_above_its_bound_for_the_rejection() -> None:
    """sqrt(0.15 * 0.6) is 0.3 exactly; the uncertain token is part of what is verified."""
    assert uncertain(Svip(0.3), 0.0, 0.59, 0.61, 0.2, 2.0) == [False, False, True, False, True]


def test_adaedl_fires_below_its_bound_for_the_acceptance() -> None:
    """1 - sqrt(0.2 * 1.8) = 0.4."""
    assert uncertain(AdaEdl(0.4), 0.0, 1.79, 1.81) == [False, False, True]


def test_adaedl_s_bound_follows_the_verdicts() -> None:
    """The mean share: 0.5, 0.75, 0.875, 0.9375, then 0.91875 after 9 of 10. A tenth of 0.01 up, three times; not after
    one that accepted all at a mean above 0.9; then down."""
    trigger = AdaEdl(0.3)
    bounds = []
    for drafts, accepted in ((4, 2), (4, 4), (4, 4), (4, 4), (10, 9)):
        trigger.verified(drafts, accepted)
        bounds.append(trigger.bound)
    assert bounds == pytest.approx([0.301, 0.302, 0.303, 0.303, 0.302])


def test_adaedl_s_bound_stays_within_0_and_1() -> None:
    trigger = AdaEdl(0.9995)
    trigger.verified(1, 0)
    assert trigger.bound == 1.0


def test_without_entropy_nothing_fires() -> None:
    assert not any(uncertain(Svip(0.3), 0.0, 0.0) + uncertain(AdaEdl(0.9), 0.0, 0.0))


def test_settings_make_a_new_trigger_each_time() -> None:
    settings = FixedSettings(length=2)
    one, two = settings.make(), settings.make()
    assert feed(one, 1.0, 1.0) == [False, True]
    assert feed(two, 1.0) == [False]
    assert isinstance(DualSettings().make(), DualThreshold)
    assert isinstance(SequenceSettings().make(), AdaptiveSequence)
    assert isinstance(SvipSettings().make(), Svip)
    assert isinstance(AdaEdlSettings().make(), AdaEdl)
    assert feed(TokenSettings(r2=0.5).make(), 0.7, 0.7, 0.5) == [False, False, True], "there is no r1"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"r1": 1.5}, "trigger.r1 .* 1.5"),
        ({"r2": -0.1}, "trigger.r2"),
        ({"r1": float("nan")}, "trigger.r1"),
        ({"kind": "token", "r2": 2.0}, "trigger.r2 .* 2.0"),
        ({"kind": "fixed", "length": 0}, "trigger.length .* 0"),
        ({"kind": "fixed", "length": 257}, "256"),
        ({"kind": "svip", "h": 2.5}, "trigger.h .* 2.5"),
        ({"kind": "adaedl", "bound": -1.0}, "trigger.bound"),
        ({"kind": "sequence", "r1": -1.0}, "trigger.r1"),
        ({"kind": "sequence", "decay": 0.0}, "trigger.decay .* 0.0"),
    ],
)
def test_settings_check_themselves(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        msgspec.convert({"kind": "dual"} | fields, TriggerSettings)


@pytest.mark.parametrize("fields", [{"r3": 0.5}, {"kind": "fixed", "r1": 0.5}])
def test_settings_from_a_file_refuse_unknown_fields(fields: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.convert({"kind": "dual"} | fields, TriggerSettings)


@pytest.mark.parametrize("kind", KINDS)
def test_every_trigger_has_defaults_that_work(kind: str) -> None:
    settings = msgspec.convert({"kind": kind}, TriggerSettings)
    assert settings.kind == kind
    assert settings.needs_entropy == (kind in BY_ENTROPY)
    trigger = settings.make()
    assert any(trigger.drafted(DraftToken(i, 1, 0.05, entropy=8.0)) for i in range(MAX_LENGTH))
