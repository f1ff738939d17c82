"""Events as bytes: what is written has the same lines for every client, and what is read goes by the format's own."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
import msgspec
import pytest
from event_stream import data_by_unicode_s_lines
from hypothesis import given
from hypothesis import strategies as st
from openai._streaming import SSEDecoder
from repository import ROOT

from pipesd_core import sse
from pipesd_core.sse import EventReader, EventTooLarge, escaped, event

LINE_ENDS: Final = "\n\r\x0b\x0c\x1c\x1d\x1e\u0085\u2028\u2029"
"""Everything that `str.splitlines` ends a line at."""
TEXTS: Final = st.text(st.sampled_from('ab\\"\u00c2\u0080\u2027\u202a\N{GRINNING FACE}' + LINE_ENDS), max_size=12)

PROGRAMS: Final = ("core/src", "gateway/src", "edge_agent/src", "vllm_plugin/src", "bench", "examples", "scripts")
BY_UNICODE: Final = ("splitlines", "iter_lines", "aiter_lines")
"""Functions that go by Unicode's line ends, `bytes.splitlines` apart, which a reader cannot tell from it."""
NO_WIRE: Final = {
    "examples/demo_pair/train/corpus.py": "Python's own source code, whose lines are counted",
    "examples/demo_pair/train/functions.py": "the same, cut into functions",
    "examples/demo_pair/train/lessons.py": "the same, cut into lessons",
    "examples/demo_pair/train/prep.py": "the same, compared line by line",
}
"""Files that may call them, and why: what they split is neither on a wire nor written by a program for another one."""


@given(TEXTS)
def test_what_is_sent_is_the_same_json_and_one_line(text: str) -> None:
    plain = msgspec.json.encode({text: [text]})
    sent = escaped(plain)
    assert json.loads(sent) == {text: [text]}
    assert len(sent.decode().splitlines()) == 1
    if not set(text) & set("\u0085\u2028\u2029"):
        assert sent == plain
    assert escaped(sent) == sent


@given(st.lists(TEXTS, max_size=4))
def test_lenient_clients_read_what_was_sent(texts: list[str]) -> None:
    """httpx's `iter_lines`, over which half of all clients are made, and OpenAI's own decoder."""
    response = httpx.Response(200, content=b"".join(event(msgspec.json.encode(text)) for text in texts))
    assert [json.loads(line) for line in data_by_unicode_s_lines(response)] == texts
    decoder = SSEDecoder()
    decoded = decoder.iter_bytes(response.iter_bytes())
    assert [json.loads(found.data) for found in decoded] == texts


@given(st.lists(TEXTS, max_size=4), st.sampled_from(["\n", "\r\n", "\r"]), st.integers(1, 9), st.booleans())
def test_reading(texts: list[str], end: str, size: int, mark: bool) -> None:
    """Any line end of the format, any cut, unescaped JSON, comments and other fields, a mark at the beginning."""
    shown = "".join(
        f": comment{end}event: x{end}data:{json.dumps(text, ensure_ascii=False)}{end}retry{end}{end}" for text in texts
    )
    data = ("\ufeff" * mark + shown).encode()
    reader = EventReader()
    found = [one for at in range(0, len(data), size) for one in reader.feed(data[at : at + size])]
    assert [json.loads(one) for one in found] == texts


def test_data_of_several_lines_and_of_none() -> None:
    reader = EventReader()
    assert reader.feed(b"data: a\ndata\ndata:  b\n\n\n\n: ping\n\ndata: [DO") == [b"a\n\n b"]
    assert reader.feed(b"NE]\n") == []
    assert reader.feed(b"\n") == [b"[DONE]"]


@pytest.mark.parametrize("line_end", [b"", b"\n"])
def test_an_event_has_a_bound(monkeypatch: pytest.MonkeyPatch, line_end: bytes) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 20)
    reader = EventReader()
    chunk = b"data: aa" + line_end
    assert reader.feed(chunk) == reader.feed(chunk) == []
    with pytest.raises(EventTooLarge, match="more than 20 bytes"):
        reader.feed(chunk)


def calls(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr in BY_UNICODE:
            yield f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"


def test_no_program_goes_by_unicode_s_line_ends() -> None:
    found: set[str] = set()
    for folder in PROGRAMS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if lines := list(calls(path)):
                name = path.relative_to(ROOT).as_posix()
                assert name in NO_WIRE, f'{lines}: split at "\\n", or read events by sse.EventReader'
                found.add(name)
    assert found == set(NO_WIRE)


def test_no_test_reads_events_so() -> None:
    """Nor the body of any other response."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        if path.name != "event_stream.py":
            wrong = [line for line in calls(path) if not line.endswith(".splitlines") or ".text.splitlines" in line]
            assert not wrong, 'use helpers/event_stream.py, or split at "\\n"'
