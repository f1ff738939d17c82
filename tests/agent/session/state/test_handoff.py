"""Another gateway goes on: what it is asked, what goes up again, and what of its answer reaches the client."""

from __future__ import annotations

import json

import pytest

from pipesd_agent.session.cannot_splice import CannotSplice
from pipesd_agent.session.state.handoff import CATCH_UP, Handoff
from pipesd_core.protocol.messages import MAX_DRAFTS_PER_MESSAGE, VERSION, Endpoint, Open, Opened
from pipesd_core.sampling.params import SamplingParams

REQUEST = Open(3, VERSION, Endpoint.COMPLETIONS, b'{"prompt":"x"}', None, "id")
OPENED = Opened(3, bytes(16), (1, 2), SamplingParams(seed=77), 5000, (0,), "m")


def chunk(text: str) -> bytes:
    return json.dumps(
        {"id": "a", "created": 1, "choices": [{"index": 0, "text": text, "finish_reason": None}]}
    ).encode()


def begun(committed: list[int], *payloads: bytes) -> Handoff:
    """After the first gateway has decided so many ids, and told so much."""
    handoff = Handoff()
    handoff.opened(2)
    assert list(handoff.decided(committed[2:], committed[:2])) == committed[2:]
    for payload in payloads:
        assert handoff.deliver(payload) == payload
    return handoff


def test_the_same_is_asked_with_the_same_noise_and_drafts_are_announced() -> None:
    request = begun([1, 2, 5]).begin(REQUEST, OPENED)
    assert json.loads(request.body) == {"prompt": "x", "seed": 77}
    assert request.fingerprint == b""


def test_what_is_committed_goes_up_in_pieces_and_not_too_far_ahead() -> None:
    committed = list(range(2000))
    handoff = begun(committed)
    assert handoff.next_replay(committed, 5000) is None, "the first gateway has all of it"
    handoff.begin(REQUEST, OPENED)
    sent: list[int] = []
    while (replay := handoff.next_replay(committed, 5000)) is not None:
        start, ids = replay
        assert start == 2 + len(sent)
        assert len(ids) <= MAX_DRAFTS_PER_MESSAGE
        sent += ids
    assert sent == committed[2 : 2 + CATCH_UP]
    assert list(handoff.decided(committed[2:102], committed)) == []
    replay = handoff.next_replay(committed, 5000)
    assert replay is not None
    assert replay[0] == 2 + CATCH_UP
    handoff.replay_again()
    replay = handoff.next_replay(committed, 5000)
    assert replay is not None
    assert replay[0] == 102


def test_its_tokens_have_to_be_the_same() -> None:
    committed = [1, 2, 5, 6]
    handoff = begun(committed)
    handoff.begin(REQUEST, OPENED)
    assert list(handoff.decided((5, 6, 7), committed)) == [7]
    handoff.begin(REQUEST, OPENED)
    with pytest.raises(CannotSplice, match="its tokens are not the same"):
        handoff.decided((5, 9), committed)


def test_the_client_gets_what_it_has_not() -> None:
    committed = [1, 2, 5, 6]
    handoff = begun(committed, chunk("ab"))
    assert handoff.possible
    handoff.begin(REQUEST, OPENED)
    assert not handoff.caught_up(committed)
    assert handoff.deliver(chunk("a")) is None
    handoff.decided((5, 6), committed)
    assert not handoff.caught_up(committed), "not all is told"
    passed = handoff.deliver(chunk("bc"))
    assert passed is not None
    assert json.loads(passed)["choices"][0]["text"] == "c"
    assert handoff.caught_up(committed)
    assert handoff.delivered.text == "abc"


def test_more_than_text_cannot_be_handed_off() -> None:
    handoff = begun([1, 2, 5], b'{"choices":[{"index":0,"text":"a","logprobs":{}}]}')
    assert not handoff.possible
    with pytest.raises(CannotSplice, match="more in it than text"):
        handoff.begin(REQUEST, OPENED)
