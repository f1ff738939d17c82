"""A live agent's traces: what of the drafter's rows can be told from what happened to be drafted."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from bench.proving.traces.live import figures, main, read, read_all, rows
from bench.proving.traces.table import DEPTH, NOTHING, UNKNOWN
from pipesd_agent.drafting.drafter import DraftToken
from pipesd_agent.telemetry.tracing import Decided, Drafted, LiveTrace, SentDrafts
from pipesd_core.protocol.messages import Reason

PROMPT = 3
EOS = 50


def proposal(path: list[int]) -> DraftToken:
    number = hash((len(path), *path[-4:])) % 10_007
    return DraftToken(len(path), number % (EOS + 1), 1 / (1 + number % 7), number % 11, number % 3)


def lived(seed: int) -> LiveTrace:
    """A session with a drafter that is a function of its path, and verdicts that come when they like."""
    rng = np.random.default_rng(seed)
    truth = [1, 2, 3]
    while len(truth) < PROMPT + 70:
        agreed = proposal(truth).token
        truth.append(agreed if rng.random() < 0.8 and agreed != EOS else int(rng.integers(0, EOS)))
    base, window = PROMPT, list[int]()
    drafted: list[Drafted] = []
    sent: list[SentDrafts] = []
    decided: list[Decided] = []
    at = 0.0
    while base < len(truth):
        at += 0.25
        if rng.random() < 0.8 and len(window) < 16 and not (window and window[-1] == EOS):
            token = proposal([*truth[:base], *window])
            figures = (token.confidence, token.margin, token.entropy)
            drafted.append(Drafted(at, len(decided), token.position, token.token, *figures))
            window.append(token.token)
            continue
        right = 0
        while right < len(window) and base + right < len(truth) and window[right] == truth[base + right]:
            right += 1
        new = truth[base : base + int(rng.integers(1, right + 2))]
        sent.append(SentDrafts(at - 0.125, base, len(window), base + len(window) - 1, 20))
        decided.append(Decided(at, base, len(new), len(window), min(right, len(new)), Reason.VERIFICATION, 1000, 3000))
        window = window[len(new) :] if new == window[: len(new)] else []
        base += len(new)
    output = tuple(truth[PROMPT:])
    return LiveTrace(1, f"r{seed}", PROMPT, 0.5, 7, (EOS,), output, tuple(drafted), tuple(sent), tuple(decided), True)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_known_is_what_the_drafter_proposes(seed: int) -> None:
    live = lived(seed)
    trace = rows(live)
    assert trace.tokens.tolist() == list(live.tokens)
    path = [1, 2, 3, *live.tokens]
    known = 0
    for position in range(len(trace.tokens)):
        row: list[int] = []
        for depth in range(DEPTH):
            found = trace.drafts[position, depth]
            if row and row[-1] == EOS:
                assert found in (NOTHING, UNKNOWN)
                continue
            token = proposal([*path[: PROMPT + position], *row])
            row.append(token.token)
            if found == UNKNOWN:
                assert not trace.confidence[position, depth]
                continue
            known += 1
            assert found == token.token
            assert trace.confidence[position, depth] == pytest.approx(token.confidence)
            assert trace.margin[position, depth] == pytest.approx(token.margin)
            assert trace.entropy[position, depth] == pytest.approx(token.entropy)
    assert known >= len(live.drafted), "each draft is in one row at least, and in the rows before it that agree"


def test_what_is_drafted_behind_the_end_of_text_is_in_no_row() -> None:
    """The verdict with the target's end of text is there; that the answer is over, is not."""
    ids = (7, EOS, 8, 9)
    drafted = tuple(Drafted(float(n), n // 2, PROMPT + n, token, 0.5, 0.5, 0.5) for n, token in enumerate(ids))
    decided = (Decided(1.5, PROMPT, 2, 2, 2, Reason.VERIFICATION, 1000, 3000),)
    trace = rows(LiveTrace(1, "r", PROMPT, 0.0, 7, (EOS,), ids[:2], drafted, (), decided, True))
    assert trace.drafts[:, :3].tolist() == [[7, EOS, NOTHING], [EOS, NOTHING, NOTHING]]


def test_a_verdict_that_another_gateway_says_again_changes_nothing() -> None:
    live = lived(1)
    again = [msgspec.structs.replace(v, start=PROMPT, count=2) for v in live.decided[:1]]
    later = [msgspec.structs.replace(d, after=d.after + (d.after > 4)) for d in live.drafted]
    moved = msgspec.structs.replace(live, decided=(*live.decided[:5], *again, *live.decided[5:]), drafted=tuple(later))
    np.testing.assert_array_equal(rows(moved).drafts, rows(live).drafts)


def test_a_trace_that_was_cut_goes_to_its_last_verdict() -> None:
    live = lived(2)
    cut = msgspec.structs.replace(live, decided=live.decided[:4], drafted=live.drafted[:30], whole=False)
    n = sum(verdict.count for verdict in cut.decided)
    assert rows(cut).tokens.tolist() == list(live.tokens[:n])
    assert rows(msgspec.structs.replace(live, decided=())).tokens.tolist() == []


def test_figures() -> None:
    live = lived(3)
    found = figures(live)
    n = len(live.tokens)
    assert found["tokens"] == n
    assert 0.4 < found["acceptance"] < 1
    assert found["drafted"] == round(len(live.drafted) / n, 3)
    assert found["verdicts"] == round(len(live.decided) / n, 3)
    assert (found["forward_ms"], found["queue_ms"], found["answer_ms"]) == (3.0, 1.0, 125.0)
    span = live.decided[-1].at - live.decided[0].at
    assert found["ms_per_token"] == round(1000 * span / (n - live.decided[0].count), 3)
    assert figures(msgspec.structs.replace(live, decided=()))["tokens"] == 0


def test_files(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (2, 1):
        (tmp_path / f"{number}.trace.json").write_bytes(msgspec.json.encode(lived(number)))
    (tmp_path / "notes.txt").write_text("not a trace")
    assert read_all(tmp_path) == [lived(1), lived(2)]
    monkeypatch.setattr("sys.argv", ["live", str(tmp_path)])
    main()
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["r1", "r2"]


def test_what_is_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "a.trace.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match="no trace of a request: Object missing required field"):
        read(path)
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(lived(1), version=2)))
    with pytest.raises(ValueError, match="trace of version 2, but this program reads 1"):
        read(path)
