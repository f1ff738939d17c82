"""The project's words: no retired one returns, no text names a file that does not exist, docstrings begin well.

A retired word is a row of `RETIRED`: a regular expression, and the word that is used now.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from repository import ROOT

SOURCES: Final = ("core/src", "gateway/src", "edge_agent/src", "vllm_plugin/src")
FOLDERS: Final = (*SOURCES, "bench", "scripts", "tests", "examples", "docs", "configs", "requirements", ".ci")
FILES: Final = ("Makefile", "README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md", "pyproject.toml")
TEXT: Final = (".py", ".md", ".toml", ".json", ".sh", ".in", ".service", "")
GENERATED: Final = re.compile(r"docs/benchmarks")
"""Pages of results, which commands write."""
HISTORY: Final = re.compile(
    r"docs/notes/|CHANGELOG\.md|tests/helpers/kept/|tests/test_glossary\.py|bench/proving/methods/"
)
"""May use the retired words: notes, the changelog, files as old releases wrote them, and the models of published
methods, whose words are the papers'."""
ALLOWED: Final = (("docs/architecture.md", re.compile(r"^\|")),)
"""Files with lines that may use them: the table that gives the paper's word beside ours."""

RETIRED: Final[dict[str, str]] = {
    # The engine interface and the engines.
    r"\bAlone\(|\bclass Alone\b|import Alone\b": "TargetOnlyGeneration",
    r"\bSeveral\(|\bclass Several\b|import Several\b": "MultiChoiceGeneration",
    r"wants_several": "has_multiple_choices",
    r"\bPlaces\(|\bclass Places\b|\bFakePlace\b|places=": "AdmissionQueue, slots, max_running",
    r"\bSlots\(|\bclass Slots\b": "BatchScheduler",
    r"\bControls\b|\btake_controls\b": "LogitsProcessing",
    r"runtime[./](admission|chooser|slots)\b": "admission_queue, target_sampler, batch_scheduler",
    r"openai[./]controls\b": "openai.logits_processing",
    r"\b(Embedded)?[Ee]ngine\.go_on\b": "EmbeddedEngine.continue_answer",
    r"\bchoices\.AT_ONCE\b": "MAX_RUNNING_CHOICES",
    r"\bMAX_WAYS\b": "MAX_READINGS",
    # The HTTP program.
    r"\bLife\b|\blife=|\blife\.(admit|drain|aclose|idle|requests)\b": "Lifecycle, lifecycle",
    r"\bLingering\b": "StalledWriters",
    r"lifecycle import .*\bDraining\b|lifecycle\.Draining\b": "ShuttingDown",
    r"service[./]keepalive\b": "protocol.websocket, service.limits",
    r"\b_message_of\b": "error_message_from_body",
    # The gateway and the plugin.
    r"\bHosted\b": "HostedRequest",
    r"\bverify_api\.(Asked|Wanted|Verified)\b": "RawRequest, VerificationRequest, VerificationResult",
    r"pipesd_vllm[./](batcher|keys)\b": "rpc_coalescer, park_keys",
    r"\bReason\.NAV\b": "Reason.VERIFICATION",
    # Names of files that have moved or never were here.
    r"papers/\w+\.md|(?<!notes/)llamacpp\.md|\bissue \"": "what it says, in place",
    r"pipesd_gateway[./](ws|server|serve|llama|life|places|embedded)\b": "the module of pipesd_core, or agents",
    # The agent.
    r"\bWatch\b|\bUnwatched\b|\bSessionWatch\b": "SessionObserver, NullObserver, MonitorObserver",
    r"\brehears": "replay",
    r"\bTape\b|\btapes?\b": "DraftRecorder, recorder",
    r"[Gg]ood_?[Pp]airs|good pairs": "ThresholdStore, threshold store",
    r"\bDRY_RUN\b|\bdry runs?\b": "RUN_WITHOUT_DRAFTS, run without drafts",
    r"\bundraftable\b": "ineligible",
    r"\bCannotGoOn\b": "CannotContinue",
    r"\bNotUnderstood\b": "ProtocolMismatch",
    r"\bCatalog\b": "ModelList",
    r"\bEdgeAnswer\b": "LocalAnswer",
    r"\bAutoMode\b": "ModeSelector",
    r"\bTunedDual\b|\bCalibratedTrigger\b": "DualThreshold, SessionCalibration",
    r"link[./]breaker\b": "link.circuit_breaker",
}
RETIRED_IN_SOURCES: Final[dict[str, str]] = {
    r"\bWAYS\b|\bWay\b": "Strategy",
    r"\bUNSURE\b|\bunsure\b": "LOW_CONFIDENCE, low confidence",
    r"\bastray\b": "discarded",
    r"\bShown\b": "DeliveredText",
    r"\b[Ss]tud(y|ied|ies|ent|ents)\b": "search, worker process",
    r"(?:\.|\b)_?(told|said|wished)\b(?= [:=]|\()": "the field's word",
}
"""Rows for the four source trees only: elsewhere the words mean what they mean."""
PAPERS: Final[dict[str, str]] = {
    r"\bNAVs?\b|\bnavs?\b|_navs?\b|\bnavs?_": "verification",
    r"\bTPT\b|\btpt\b|\btpt_|_tpt\b": "TPOT, tpot",
}
"""The paper's words: the bench and its tests, whose tables stand beside the paper's, may use them."""
BENCH: Final = re.compile(
    r"(bench|tests/bench)/|tests/test_docs\.py|tests/agent/tuning/test_replay\.py|"
    r"tests/agent/test_kept_files\.py"
)

PATH: Final = re.compile(
    r"(?<![\w./:-])((?:docs|tests|bench|scripts|configs|examples|requirements|core|gateway|edge_agent|vllm_plugin|\.ci)"
    r"/[\w./-]*\w\.(?:py|md|toml|json|sh|in|txt|svg|service|npz|jsonl|gz|html))\b"
)
MODULE: Final = re.compile(r"(?<![\w./-])(pipesd_(?:core|gateway|agent|vllm)(?:\.[a-z]\w*)+)")
PACKAGES: Final = {
    "pipesd_core": "core/src", "pipesd_gateway": "gateway/src", "pipesd_agent": "edge_agent/src",
    "pipesd_vllm": "vllm_plugin/src",
}  # fmt: skip

BAD_BEGINNING: Final = re.compile(r"(Of|Is|Are|Has|Does|Was|The same)\b|Always\b")
"""A first line that has no subject, or is a question."""


def files() -> Iterator[Path]:
    for folder in FOLDERS:
        yield from (path for path in sorted((ROOT / folder).rglob("*")) if path.is_file() and path.suffix in TEXT)
    yield from (ROOT / name for name in FILES if (ROOT / name).exists())


def lines(skip: re.Pattern[str]) -> Iterator[tuple[str, int, str]]:
    """(file, number, text) of every line of the repository's own text."""
    for path in files():
        name = path.relative_to(ROOT).as_posix()
        if "__pycache__" in name or ".egg-info" in name or skip.search(name):
            continue
        for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1):
            yield name, number, line


@pytest.fixture(scope="module")
def text() -> list[tuple[str, int, str]]:
    skip = re.compile(f"{GENERATED.pattern}|{HISTORY.pattern}")
    return [
        (name, number, line)
        for name, number, line in lines(skip)
        if not any(name == file and allowed.search(line) for file, allowed in ALLOWED)
    ]


@pytest.mark.parametrize(("retired", "now"), RETIRED.items(), ids=RETIRED.values())
def test_no_retired_word_returns(text: list[tuple[str, int, str]], retired: str, now: str) -> None:
    pattern = re.compile(retired)
    found = [f"{name}:{number}: {line.strip()}" for name, number, line in text if pattern.search(line)]
    assert found == [], f"say: {now}"


@pytest.mark.parametrize(("retired", "now"), RETIRED_IN_SOURCES.items(), ids=RETIRED_IN_SOURCES.values())
def test_no_retired_word_returns_to_the_sources(text: list[tuple[str, int, str]], retired: str, now: str) -> None:
    test_no_retired_word_returns([row for row in text if row[0].startswith(SOURCES)], retired, now)


@pytest.mark.parametrize(("retired", "now"), PAPERS.items(), ids=PAPERS.values())
def test_the_papers_words_stay_where_the_papers_figures_are(
    text: list[tuple[str, int, str]], retired: str, now: str
) -> None:
    test_no_retired_word_returns([row for row in text if not BENCH.match(row[0])], retired, now)


def test_every_path_that_is_named_exists() -> None:
    found = [
        f"{name}:{number}: {path}"
        for name, number, line in lines(
            re.compile(r"docs/benchmarks/|tests/test_glossary\.py|tests/test_docs_site\.py")
        )
        for path in PATH.findall(line)
        if "NAME" not in path and not (ROOT / path).exists()
    ]
    assert found == []


def is_module(dotted: str) -> bool:
    """Whether a dotted name begins with a module, or is a package's own attribute."""
    package, *names = dotted.split(".")
    folder = ROOT / PACKAGES[package] / package
    for name in names:
        if (folder / f"{name}.py").exists():
            return True
        if not (folder / name).is_dir():
            return re.search(rf"\b{name}\b", (folder / "__init__.py").read_text("utf-8")) is not None
        folder /= name
    return True


def test_every_module_that_is_named_exists() -> None:
    found = [
        f"{name}:{number}: {dotted}"
        for name, number, line in lines(re.compile(r"docs/benchmarks/|docs/notes/|tests/test_glossary\.py"))
        for dotted in MODULE.findall(line)
        if not is_module(dotted)
    ]
    assert found == []


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of every docstring, those of constants and attributes included."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        body = getattr(node, "body", None)
        for child in body if isinstance(body, list) else ():
            match child:
                case ast.Expr(value=ast.Constant(value=str(doc))):
                    yield child.lineno, doc


@pytest.mark.parametrize("folder", SOURCES)
def test_docstrings_begin_with_a_noun_phrase_or_an_imperative(folder: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {doc.splitlines()[0]}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for number, doc in docstrings(path)
        if BAD_BEGINNING.match(doc)
    ]
    assert found == []


def test_the_checks_find_what_they_look_for() -> None:
    assert PATH.findall("see docs/gone.md, `tests/core/test_gone.py` and http://a/docs/x.md") == [
        "docs/gone.md",
        "tests/core/test_gone.py",
    ]
    assert [is_module(f"pipesd_core.{name}") for name in ("errors", "protocol.messages.Open", "gone")] == [
        True,
        True,
        False,
    ]
    assert BAD_BEGINNING.match("Of one agent.")
    assert not BAD_BEGINNING.match("Offers a slot.")
    assert all(re.compile(retired) for retired in RETIRED)
