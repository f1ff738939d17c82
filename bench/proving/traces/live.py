"""What traces of a live agent (`pipesd-agent start --trace DIR`) say: figures, and rows as far as they go.

.venv/bin/python -m bench.proving.traces.live DIR
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from bench.proving.traces.table import DEPTH, NOTHING, UNKNOWN, Trace
from pipesd_agent.telemetry.tracing import SUFFIX, VERSION, Drafted, LiveTrace

_FIGURES: Final = ("confidence", "margin", "entropy")


def read(path: Path) -> LiveTrace:
    """One file. Raises ValueError for what is no trace of this version."""
    try:
        trace = msgspec.json.decode(path.read_bytes(), type=LiveTrace)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path} is no trace of a request: {error}") from error
    if trace.version != VERSION:
        raise ValueError(f"{path} is a trace of version {trace.version}, but this program reads {VERSION}")
    return trace


def read_all(folder: Path) -> list[LiveTrace]:
    """All files of a folder, in the order of their names, which is that of time."""
    return [read(path) for path in sorted(folder.glob(f"*{SUFFIX}"))]


def rows(live: LiveTrace) -> Trace:
    """As a table's trace, up to the last verdict: `UNKNOWN` where nothing was drafted from the target's own tokens.

    A draft belongs to the row of the position where its path leaves the target's, and to the rows before it as long as
    the drafter itself drafted the tokens in between, and drafted them right. What an agent drafts behind the target's
    end of text, until it is told that the answer is over, belongs to none.
    """
    start, decided = live.prompt_length, _decided(live)
    tokens = live.tokens[: decided[-1] if decided else 0]
    shape = (len(tokens), DEPTH)
    drafts = np.full(shape, UNKNOWN, np.int32)
    figures = {field: np.zeros(shape, np.float32) for field in _FIGURES}
    ended = bool(tokens) and tokens[-1] in live.eos
    for drafted, path in _paths(live, decided):
        own = drafted.position - start
        branch = next((at for at, token in path if at >= len(tokens) or tokens[at] != token), own)
        if ended and branch >= len(tokens):
            continue
        first = branch = min(branch, len(tokens))
        while first > 0 and drafts[first - 1, 0] == tokens[first - 1]:
            first -= 1
        for row in range(max(first, own - DEPTH + 1), min(branch, len(tokens) - 1) + 1):
            drafts[row, own - row] = drafted.token
            for field, column in figures.items():
                column[row, own - row] = getattr(drafted, field)
            if drafted.token in live.eos:
                drafts[row, own - row + 1 :] = NOTHING
    return Trace(
        name=f"live/{live.request}",
        prompt_length=start,
        temperature=live.temperature,
        tokens=np.array(tokens, np.int32),
        drafts=drafts,
        confidence=figures["confidence"],
        margin=figures["margin"],
        entropy=figures["entropy"],
        eos=live.eos,
    )


def _decided(live: LiveTrace) -> list[int]:
    """Output tokens that are decided after each verdict; one that a second gateway says again adds none."""
    ends = [verdict.start + verdict.count - live.prompt_length for verdict in live.decided]
    return list(itertools.accumulate(ends, max))


def _paths(live: LiveTrace, decided: list[int]) -> Iterable[tuple[Drafted, list[tuple[int, int]]]]:
    """Each draft with the drafted tokens before it that were in the session's window: (output position, token)."""
    window: list[tuple[int, int]] = []
    seen = 0
    for drafted in live.drafted:
        for end in decided[seen : drafted.after]:
            right = all(live.tokens[at] == token for at, token in window if at < end)
            window = [(at, token) for at, token in window if at >= end] if right else []
        seen = drafted.after
        yield drafted, window
        window.append((drafted.position - live.prompt_length, drafted.token))


def figures(live: LiveTrace) -> dict[str, Any]:
    """tokens: decided. acceptance: share that is right of first drafts from the target's own tokens. drafted, sent,
    verdicts, upload_bytes (of drafts): per token. ms_per_token: from the first verdict to the last. forward_ms,
    queue_ms: medians of verdicts. answer_ms: median from a message with a wish to the next verdict. whole: see
    `LiveTrace`."""
    trace = rows(live)
    known = trace.drafts[:, 0] >= 0
    n = max(1, len(trace.tokens))
    verdicts = live.decided
    answers = [
        next(verdict.at for verdict in verdicts if verdict.at >= sent.at) - sent.at
        for sent in live.sent
        if sent.wish is not None and verdicts and verdicts[-1].at >= sent.at
    ]
    return {
        "tokens": len(trace.tokens),
        "acceptance": _ratio(int((trace.drafts[known, 0] == trace.tokens[known]).sum()), int(known.sum())),
        "drafted": _ratio(len(live.drafted), n),
        "sent": _ratio(sum(sent.count for sent in live.sent), n),
        "verdicts": _ratio(len(verdicts), n),
        "upload_bytes": _ratio(sum(sent.size for sent in live.sent), n),
        "ms_per_token": _ratio(1000 * (verdicts[-1].at - verdicts[0].at), n - verdicts[0].count) if verdicts else None,
        "forward_ms": _median(verdict.forward_us / 1000 for verdict in verdicts),
        "queue_ms": _median(verdict.queue_us / 1000 for verdict in verdicts),
        "answer_ms": _median(1000 * seconds for seconds in answers),
        "whole": live.whole,
    }


def _ratio(part: float, whole: int) -> float | None:
    return round(part / whole, 3) if whole else None


def _median(numbers: Iterable[float]) -> float | None:
    found = list(numbers)
    return round(statistics.median(found), 3) if found else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    for live in read_all(parser.parse_args().folder):
        print(live.request, msgspec.json.encode(figures(live)).decode(), flush=True)


if __name__ == "__main__":
    main()
