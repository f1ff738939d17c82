"""Which model runner a server gets, and what it says about it."""

from __future__ import annotations

import pytest

from pipesd_core.errors import ConfigError
from pipesd_vllm.runner_choice import V1, V2, VARIABLE, choose


def here() -> str | None:
    return None


def missing() -> str | None:
    return "it needs Triton"


@pytest.mark.parametrize(
    ("asked", "setting", "name", "why"),
    [
        ("auto", None, V2, "vLLM's own choice"),
        ("auto", "0", V1, f"{VARIABLE}=0"),
        ("auto", "1", V2, f"{VARIABLE}=1"),
        ("v1", None, V1, "--runner v1"),
        ("v2", None, V2, "--runner v2"),
        ("v2", "1", V2, "--runner v2"),
    ],
)
def test_where_v2_can_run(asked: str, setting: str | None, name: str, why: str) -> None:
    choice = choose(asked, {} if setting is None else {VARIABLE: setting}, here)
    assert (choice.name, choice.why) == (name, why)
    assert choice.setting == {V1: "0", V2: "1"}[name]
    assert str(choice) == f"model runner {name.upper()} ({why})"


def test_where_it_cannot() -> None:
    assert str(choose("auto", {}, missing)) == "model runner V1 (V2 cannot run here: it needs Triton)"
    assert choose("v1", {}, missing).name == V1
    assert choose("auto", {VARIABLE: "0"}, missing).name == V1


@pytest.mark.parametrize(
    ("asked", "setting", "says"),
    [
        ("v3", None, "--runner must be auto, v1 or v2, but is 'v3'"),
        ("auto", "yes", f"{VARIABLE} must be 0 or 1, but is 'yes'"),
        ("v1", "1", "leave one of them out"),
        ("v2", "0", "leave one of them out"),
    ],
)
def test_what_cannot_be(asked: str, setting: str | None, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        choose(asked, {} if setting is None else {VARIABLE: setting}, here)


@pytest.mark.parametrize(("asked", "setting"), [("v2", None), ("auto", "1")])
def test_v2_is_not_replaced_by_v1_where_it_was_asked_for(asked: str, setting: str | None) -> None:
    with pytest.raises(ConfigError, match="cannot run here, because it needs Triton"):
        choose(asked, {} if setting is None else {VARIABLE: setting}, missing)
