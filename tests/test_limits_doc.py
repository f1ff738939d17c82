"""docs/limits.md says what the code does: every number, every limit, and tests that exist."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from msgspec.structs import fields

import pipesd_agent
import pipesd_core
import pipesd_gateway
from pipesd_agent.config import AgentConfig
from pipesd_gateway.config import GatewayConfig

ROOT: Final = Path(__file__).parents[1]
DOC: Final = (ROOT / "docs" / "limits.md").read_text("utf-8")
PACKAGES: Final = {
    "Gateway": ("pipesd_gateway", "pipesd_core"),
    "Agent": ("pipesd_agent", "pipesd_core"),
    "vLLM": ("pipesd_vllm", "pipesd_gateway", "pipesd_core"),
}
CONFIGS: Final[dict[str, Any]] = {"Gateway": GatewayConfig, "Agent": AgentConfig}
UNITS: Final = {"": 1, "KiB": 2**10, "MiB": 2**20}
NO_LIMITS: Final = {
    "link.connection.CLOSE_TIMEOUT_S": "the end of a link that is lost already",
    "chat.TIMEOUT_S": "a person's patience",
    "chat.CONNECT_TIMEOUT_S": "the same",
    "llamacpp.runtime.decoder.JOIN_TIMEOUT_S": "the end of the program",
    "drafting.worker.IDLE_WAIT_S": "how often an idle thread looks whether it has an owner",
}
"""Names that look like limits, and why they are none of anybody's requests."""


@dataclass(frozen=True)
class Row:
    program: str
    limit: str
    number: str
    set_by: str
    tests: str

    @property
    def constants(self) -> list[str]:
        return re.findall(r"`((?:\w+\.)+\w+)`", self.set_by)

    @property
    def flags(self) -> list[str]:
        """Those of programs whose defaults can be looked at here."""
        return re.findall(r"`--([a-z-]+)`(?! of)", self.set_by)

    @property
    def value(self) -> float:
        found = re.match(r"([\d,.]+) ?(KiB|MiB|)(?: - (\d+) (KiB))?", self.number)
        assert found is not None, self.number
        return float(found[1].replace(",", "")) * UNITS[found[2]] - float(found[3] or 0) * UNITS[found[4] or ""]


def rows() -> list[Row]:
    found, program = [], ""
    for line in DOC.splitlines():
        if line.startswith("## "):
            program = line.split()[1]
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if len(cells) == 5 and line.startswith("| ") and cells[0] != "limit":
            found.append(Row(program, cells[0], cells[1], cells[2], cells[4]))
    return found


ROWS: Final = rows()


def value_of(row: Row, name: str) -> Any:
    """Of a constant, or the default of a struct's field."""
    module_name, _, attribute = name.rpartition(".")
    owner = ""
    if module_name.rpartition(".")[2][0].isupper() or module_name.rpartition(".")[2].isupper():
        module_name, _, owner = module_name.rpartition(".")
    for package in PACKAGES[row.program]:
        try:
            module = importlib.import_module(f"{package}.{module_name}")
        except ModuleNotFoundError:
            continue
        if not owner and hasattr(module, attribute):
            return getattr(module, attribute)
        if hasattr(module, owner):
            held = getattr(module, owner)
            return getattr(held() if isinstance(held, type) else held, attribute)
    raise AssertionError(f"{name} is nowhere in {PACKAGES[row.program]}")


def test_there_is_a_table_for_each_program() -> None:
    counts = {program: sum(row.program == program for row in ROWS) for program in PACKAGES}
    assert min(counts.values()) >= 5, counts
    assert sum(counts.values()) > 90


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.limit)
def test_numbers_are_those_of_the_code(row: Row) -> None:
    for name in row.constants:
        assert value_of(row, name) == row.value, name
    for flag in row.flags:
        defaults = {field.name: field.default for field in fields(CONFIGS[row.program])}
        assert defaults[flag.replace("-", "_")] == row.value, flag
    assert row.constants or row.flags or row.set_by == "code"


@pytest.mark.parametrize("package", [pipesd_core, pipesd_gateway, pipesd_agent], ids=lambda package: package.__name__)
def test_no_limit_is_missing(package: Any) -> None:
    listed = {name for row in ROWS for name in row.constants}
    missing = []
    for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        found = importlib.util.find_spec(info.name)
        assert found is not None
        assert found.origin is not None
        for node in ast.parse(Path(found.origin).read_text("utf-8")).body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                name = f"{info.name.partition('.')[2]}.{node.target.id}"
                limits = re.fullmatch(r"MAX_\w+|(\w+_)?(TIMEOUT|WAIT)_S", node.target.id)
                if limits and name not in listed and name not in NO_LIMITS:
                    missing.append(name)
    assert missing == []


def test_the_tests_that_it_names_exist() -> None:
    defined = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text("utf-8"), re.MULTILINE)
    }
    named = set(re.findall(r"\b(test_\w+)\b(?!\.py)", DOC))
    assert sorted(named - defined) == []
    assert [row.limit for row in ROWS if not re.search(r"\btest_\w+", row.tests)] == []
