"""What payloads that are passed on tell of an answer; through an agent in test_passthrough."""

from __future__ import annotations

import pytest

from pipesd_agent.link.forwarded_figures import ForwardedFigures

USAGE = b'{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}'


def test_a_whole_answer() -> None:
    figures = ForwardedFigures()
    figures.take_payload(b'{"id":"x","choices":[{"index":0,"text":"a"},{"index":1,"text":"b"}],"usage":' + USAGE + b"}")
    assert figures.record() == {"prompt_tokens": 5, "output_tokens": 7, "choices": 2}


def test_a_stream() -> None:
    figures = ForwardedFigures()
    figures.take_events(
        b': comment\n\ndata: {"choices":[{"index":1}]}\n\ndata: {"choices":[{"index":0}],"usage":null}\n\n'
    )
    assert figures.record() == {"prompt_tokens": None, "output_tokens": None, "choices": 2}
    figures.take_events(b'data: {"choices":[],"usage":' + USAGE + b"}\r\n\r\ndata: [DONE]\n\n")
    assert figures.record() == {"prompt_tokens": 5, "output_tokens": 7, "choices": 2}


@pytest.mark.parametrize(
    "payload", [b"", b"{", b"[]", b"7", b'{"choices":7}', b'{"usage":{"prompt_tokens":1}}', b"\xff", b"[" * 9999]
)
def test_what_tells_nothing(payload: bytes) -> None:
    figures = ForwardedFigures()
    figures.take_payload(payload)
    figures.take_events(b"data: " + payload + b"\n\n")
    assert figures.record() == {"prompt_tokens": None, "output_tokens": None, "choices": 0}


@pytest.mark.parametrize(
    "events",
    [
        b'event: response.completed\ndata: {"type":"response.completed","response":{"usage":USAGE}}\n\n',
        b'event: message_delta\ndata: {"type":"message_delta","usage":USAGE}\n\n',
    ],
)
def test_events_with_names(events: bytes) -> None:
    figures = ForwardedFigures()
    figures.take_events(events.replace(b"USAGE", b'{"input_tokens":5,"output_tokens":7}'))
    assert figures.record() == {"prompt_tokens": 5, "output_tokens": 7, "choices": 1}
