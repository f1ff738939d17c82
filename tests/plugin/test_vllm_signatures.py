"""The vLLM versions that a server starts with have what is used of them, as read from their Python files."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from vllm_signatures import DATA, Sources, sources

from pipesd_core.service.internals import faults
from pipesd_vllm.compat import INTERNALS, READ, TESTED

FILES = {
    "vllm/__init__.py": "",
    "vllm/core.py": """
from typing import TYPE_CHECKING
from vllm.base import Base, helper as help_, gone
from elsewhere import Foreign

if TYPE_CHECKING:
    from vllm.base import Typed

LIMIT: int = 3
PLAIN = 4

class Core(Base, Foreign):
    params: dict | None = None

    def __init__(self, a, *args, b=1, **kwargs): ...

    async def step(self, x, /, y=2): ...

    @property
    def errored(self): ...

    @classmethod
    def made(cls, path): ...

    @staticmethod
    def sum(one, two): ...

if LIMIT > 2:
    def conditional(z): ...
else:
    def conditional(q): ...

def help_user(): return help_
""",
    "vllm/base/__init__.py": "from vllm.base.inner import Base, helper",
    "vllm/base/inner.py": """
class Base:
    def inherited(self, m): ...

class Child(Base):
    pass

class Made(elsewhere.Struct, kw_only=True):
    field: int = 0

def helper(n, o): ...
""",
}
SIGNATURES = {
    "vllm.core:Core": "a,args,b,kwargs",
    "vllm.core:Core.step": "self,x,y",
    "vllm.core:Core.inherited": "self,m",
    "vllm.core:Core.errored": None,
    "vllm.core:Core.params": None,
    "vllm.core:Core.made": "path",
    "vllm.core:Core.sum": "one,two",
    "vllm.core:LIMIT": None,
    "vllm.core:PLAIN": None,
    "vllm.core:conditional": "z",
    "vllm.core:help_": "n,o",
    "vllm.base:helper": "n,o",
    "vllm.base.inner:Child.inherited": "self,m",
    "vllm.base.inner:Made": None,
}


@pytest.fixture(params=["folder", "wheel"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An installed vLLM 1.2.3, or its wheel."""
    metadata = "vllm-1.2.3.dist-info/METADATA", "Name: vllm\nVersion: 1.2.3\n"
    if request.param == "wheel":
        wheel = tmp_path / "vllm-1.2.3.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for name, text in (*FILES.items(), metadata):
                archive.writestr(name, text)
        return wheel
    for name, text in (*FILES.items(), metadata):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_signatures_are_read(place: Path) -> None:
    version, of = sources(place)
    assert version == "1.2.3"
    assert {where: of.signature(where) for where in SIGNATURES} == SIGNATURES


@pytest.mark.parametrize(
    "where", ["vllm.none:x", "vllm.core:Nowhere", "vllm.core:Core.nothing", "vllm.core:gone", "vllm.core:LIMIT.x"]
)
def test_what_is_gone_is_told(where: str) -> None:
    with pytest.raises(LookupError):
        Sources(FILES.get).signature(where)


def test_a_fault_is_named() -> None:
    assert faults({"a:b": "x", "a:c": "x", "a:d": None, "a:e": "x"}, {"a:b": "x,y", "a:c": "y", "a:d": None}) == [
        "a:c takes (y), expected (x...)",
        "a:e is gone",
    ]


@pytest.mark.parametrize("version", [TESTED, *READ])
def test_versions_that_start_have_all_internals(version: str) -> None:
    """After a change to INTERNALS: `python scripts/vllm_signatures.py` with the files of each version."""
    read = json.loads((DATA / f"{version}.json").read_text("utf-8"))
    assert read["version"].startswith(f"{version}.")
    assert faults(INTERNALS, read["signatures"]) == []
    assert read["signatures"].keys() == INTERNALS.keys()


def test_nothing_is_kept_of_other_versions() -> None:
    assert {file.stem for file in DATA.glob("*.json")} == {TESTED, *READ}
