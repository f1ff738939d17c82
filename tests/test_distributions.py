"""The four distributions: one version (scripts/set_version.py), one licence, metadata alike."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import set_version
import test_glossary
from repository import ROOT

from pipesd_core.service.logs import OURS

PROJECTS: dict[str, dict[str, Any]] = {
    name: tomllib.loads((ROOT / name / "pyproject.toml").read_text("utf-8"))["project"]
    for name in set_version.DISTRIBUTIONS
}
ALIKE = ("version", "license", "license-files", "authors", "urls", "classifiers", "requires-python", "readme")


def copy(folder: Path) -> Path:
    """What scripts/set_version.py reads and writes, elsewhere."""
    shutil.copy(ROOT / "VERSION", folder)
    for name in set_version.DISTRIBUTIONS:
        (folder / name).mkdir()
        shutil.copy(ROOT / name / "pyproject.toml", folder / name)
    return folder


def test_versions_and_pins_are_those_of_the_file() -> None:
    assert set_version.differing(ROOT) == []
    found = {path.parent.name: len(copies) for path, copies in set_version.copies(ROOT).items()}
    assert found == {"core": 1, "gateway": 3, "edge_agent": 3, "vllm_plugin": 2}


@pytest.mark.parametrize("field", ALIKE)
def test_metadata_are_alike(field: str) -> None:
    assert all(project[field] == PROJECTS["core"][field] for project in PROJECTS.values())


@pytest.mark.parametrize("name", set_version.DISTRIBUTIONS)
def test_licence_and_readme_lie_in_the_folder(name: str) -> None:
    assert (ROOT / name / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert (ROOT / name / "README.md").read_text("utf-8").startswith(f"# {PROJECTS[name]['name']}\n")


def test_a_version_is_written_everywhere(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    set_version.write(folder, "12.3.4rc1")
    assert set_version.differing(folder) == []
    for name in set_version.DISTRIBUTIONS:
        assert tomllib.loads((folder / name / "pyproject.toml").read_text("utf-8"))["project"]["version"] == "12.3.4rc1"
    assert '"pipesd-core[serve]==12.3.4rc1"' in (folder / "edge_agent/pyproject.toml").read_text("utf-8")


def test_a_difference_is_named(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    path = folder / "gateway/pyproject.toml"
    path.write_text(path.read_text("utf-8").replace("[serve]==", "[serve]==9"), "utf-8")
    (line,) = set_version.differing(folder)
    assert line.startswith("gateway/pyproject.toml: ")


@pytest.mark.parametrize("text", ["", "1.2", "v1.2.3", "1.2.3-beta"])
def test_what_is_no_version_is_refused(text: str, tmp_path: Path) -> None:
    folder = copy(tmp_path)
    with pytest.raises(ValueError, match="is no version"):
        set_version.write(folder, text)
    assert set_version.differing(folder) == []


def test_the_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(set_version, "ROOT", copy(tmp_path))
    assert set_version.main(["1.2.3"]) == 0
    assert set_version.main([]) == 0
    assert capsys.readouterr().out == "1.2.3\n1.2.3\n"
    assert set_version.main(["x"]) == 2
    (tmp_path / "VERSION").write_text("1.2.4\n")
    assert set_version.main([]) == 1


PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
TOOL = PYPROJECT["tool"]
FOLDERS = {path.parent.name: path for path in ROOT.glob("*/pyproject.toml")}
PACKAGES = {package.name for path in FOLDERS.values() for package in (path.parent / "src").glob("pipesd_*")}
CONTRACTS = {contract["name"]: contract for contract in TOOL["importlinter"]["contracts"]}


@pytest.mark.parametrize(
    "listed",
    [
        pytest.param(set(TOOL["mypy"]["packages"]), id="mypy packages"),
        pytest.param(set(TOOL["importlinter"]["root_packages"]), id="import-linter root_packages"),
        pytest.param(set(CONTRACTS["No import circle"]["ancestors"]), id="import-linter No import circle"),
        pytest.param(
            {"pipesd_core", *CONTRACTS["Core is below everything else"]["forbidden_modules"]}, id="import-linter Core"
        ),
        pytest.param(set(TOOL["coverage"]["run"]["source_pkgs"]), id="coverage source_pkgs"),
        pytest.param(set(TOOL["ruff"]["lint"]["isort"]["known-first-party"]) - {"bench"}, id="ruff known-first-party"),
        pytest.param(set(OURS), id="pipesd_core.service.logs.OURS"),
    ],
)
def test_every_list_of_packages_has_all(listed: set[str]) -> None:
    assert listed == PACKAGES


def test_every_list_of_folders_has_all() -> None:
    code = next(line for line in (ROOT / "Makefile").read_text("utf-8").splitlines() if line.startswith("CODE := "))
    assert set(code.split()[2:]) == set(set_version.DISTRIBUTIONS) == FOLDERS.keys()
    assert {f"{name}/src" for name in FOLDERS} == set(test_glossary.SOURCES)
