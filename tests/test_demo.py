"""The demo's own parts without its programs: which step it takes, what it shows, and when it cuts the link."""

from __future__ import annotations

import io
import itertools
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from bench.link.emulator import Emulator
from examples.demo import pair, race, screen, step
from examples.demo.figures import last_table, marked, printable, row, summary, table
from examples.demo.pair import Question
from examples.demo.race import Cut, Piece, Progress, Scene

QUESTION = Question("a question", "Why?", {"max_tokens": 8}, cut_at=2)
OWN = Progress((Piece("as it is"),), "as it is", 3, 3, 0.5, 0.16, 800, 9000, finished=True)
SHARED = Progress((Piece("as "), Piece("it", True), Piece(" is", True)), "as it is", 3, 1, 0.25, 0.04, 1200, 3000, True)
SCENE = Scene(QUESTION, OWN, SHARED, was_cut=True)
TIMES = {2: 50.0, 3: 60.0, 5: 75.0}


def test_rows_are_those_that_the_gateway_computes() -> None:
    assert [step.rows_of(drafts) for drafts in (0, 1, 2, 4)] == [2, 2, 3, 5]


def test_the_target_s_own_step_where_drafting_wins() -> None:
    chosen = step.choose(TIMES, {1: 1.4, 2: 1.8, 4: 1.9}, 80.0)
    assert (chosen.floor_ms, chosen.drafts, chosen.pass_ms) == (None, 2, 50.0)
    faster = "with 2 drafts in each, tokens should come 1.41 times as fast"
    assert chosen.why == f"the target's own, 50 ms a pass here; {faster}"
    slow_drafts = step.choose(TIMES, {1: 1.4, 2: 1.8, 4: 1.9}, 80.0, draft_ms=8.0)
    assert slow_drafts.drafts == 1
    assert "with 1 draft in each" in slow_drafts.why


def test_an_emulated_step_where_drafting_wins_too_little() -> None:
    chosen = step.choose(TIMES, {1: 1.02, 2: 1.03, 4: 1.05}, 80.0)
    assert (chosen.floor_ms, chosen.drafts, chosen.pass_ms) == (80.0, None, 80.0)
    assert chosen.why == "EMULATED, 80 ms a target pass; at its own 50 ms drafting gains less than 5 %"


def test_an_emulated_step_is_no_shorter_than_what_a_slow_machine_takes() -> None:
    assert step.choose({2: 101.0, 3: 120.0, 5: 151.0}, {1: 1.02, 2: 1.03, 4: 1.05}, 80.0).floor_ms == 160.0


def test_times_are_medians_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0.0, 0.25)
    monkeypatch.setattr(step, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    asked: list[int] = []
    assert step.timed(asked.append, [2, 3]) == {2: 250.0, 3: 250.0}
    assert asked == [2, 3] * step.LEAST_REPEATS


def test_which_pair(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pair, "BUILD", tmp_path)
    assert pair.real_pair() is None
    (tmp_path / "smollm2-F16.gguf").touch()
    assert pair.real_pair() is None, "its draft is missing"
    (tmp_path / "smollm2-draft.gguf").touch()
    real = pair.real_pair()
    assert real is not None
    assert (real.draft, real.questions) == (tmp_path / "smollm2-draft.gguf", pair.REAL_QUESTIONS)
    assert pair.toy_pair().draft == tmp_path / "demo-draft-F16.gguf"


@pytest.mark.parametrize("questions", [pair.REAL_QUESTIONS, pair.TOY_QUESTIONS], ids=["real", "toy"])
def test_of_three_questions_one_is_sampled_and_the_last_is_cut(questions: tuple[Question, ...]) -> None:
    assert [question.cut_at is None for question in questions] == [True, True, False]
    assert any(question.options["temperature"] > 0 for question in questions)
    assert all("seed" in question.options for question in questions if question.options["temperature"] > 0)


def test_answers_are_shorter_where_a_pass_takes_long() -> None:
    question = Question("", "", {"max_tokens": 80, "seed": 1}, cut_at=16)
    assert question.within(11.0, 80.0) == question
    assert dict(question.within(11.0, 220.0).options) == {"max_tokens": 50, "seed": 1}
    assert question.within(11.0, 5000.0).max_tokens == 32
    assert Question("", "", {"max_tokens": 80}).within(11.0, 5000.0).max_tokens == pair.LEAST_TOKENS


def test_figures_of_both_sides() -> None:
    assert table(SCENE) == [
        "                    tokens  target passes  per token     TTFT     TPOT  bytes up     down",
        "the target alone         3              3       1.00   0.50 s    80 ms       800    9,000",
        "through the agent        3              1       0.33   0.25 s    20 ms     1,200    3,000",
    ]
    nothing_yet = table(Scene(QUESTION, Progress(), Progress()))[1]
    assert nothing_yet.split()[3:] == ["0", "0", "-", "-", "-", "0", "0"]


def test_the_last_table() -> None:
    headings, line = last_table([SCENE])
    assert headings.split()[0] == "alone"
    assert line == "1 a question                     3   1.00 → 0.33     80 → 20   0.50 → 0.25    800 → 1,200    yes"
    other = Scene(QUESTION, OWN, Progress(text="as it is not"))
    assert last_table([other])[1].endswith(" NO")
    assert max(map(len, last_table([SCENE]))) <= screen.WIDTH


def test_the_summary_is_loud_about_what_went_wrong() -> None:
    assert summary([SCENE]) == [
        "1 target passes instead of 3; every text is byte for byte the target's own.",
        'The link of "a question" was cut for 3 s in mid-answer.',
    ]
    wrong = summary([SCENE, Scene(QUESTION, OWN, Progress(text="other"))])
    assert "A TEXT DIFFERS" in wrong[0]
    assert wrong[2].endswith("was NOT cut: the answer was over first.")


def test_rows_are_aligned() -> None:
    assert row(("a", "b"), (3, 4)) == "a     b"


def test_accepted_tokens_are_marked_where_there_are_no_colours() -> None:
    assert marked(SHARED.pieces) == "as «it is»"
    assert marked([Piece("", True), Piece("x")]) == "x"


def test_nothing_moves_the_cursor() -> None:
    assert printable("a\tb\r\x1b[2J\nc") == "a    b\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}[2J\nc"


def test_lines_say_what_happens(capsys: pytest.CaptureFixture[str]) -> None:
    lines = screen.Lines()
    with lines.question(QUESTION) as view:
        for cut in (False, True, True, False):
            view.show(Scene(QUESTION, OWN, SHARED, cut))
    shown = capsys.readouterr().out
    assert shown.startswith("── a question ──")
    assert shown.count("** the link is cut **\n** the link is there again **\n") == 1
    assert "  | as «it is»\n" in shown
    assert "\x1b" not in shown
    with lines.question(QUESTION):
        pass
    assert "tokens" not in capsys.readouterr().out


def test_long_lines_are_folded() -> None:
    folded = screen.indented("word " * 40 + "\n\nend").split("\n")
    assert max(map(len, folded)) <= screen.WIDTH
    assert folded[-2:] == ["  |", "  | end"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("output", "environ", "columns", "colours"),
    [
        (None, {"TERM": "xterm"}, 100, None),
        (io.StringIO(), {"TERM": "xterm"}, 100, None),
        (Terminal(), {"TERM": "dumb"}, 100, None),
        (Terminal(), {}, 100, None),
        (Terminal(), {"TERM": "xterm"}, 80, None),
        (Terminal(), {"TERM": "xterm"}, 100, True),
        (Terminal(), {"TERM": "xterm", "NO_COLOR": ""}, 100, False),
    ],
)
def test_which_screen(
    output: Any, environ: dict[str, str], columns: int, colours: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = os.terminal_size((columns, 24))
    monkeypatch.setattr(screen, "shutil", SimpleNamespace(get_terminal_size=lambda: size))
    chosen = screen.screen_for(output, environ)
    assert isinstance(chosen, screen.Lines) == (colours is None)
    if colours is not None:
        assert ("green" in chosen.legend) == colours


def test_columns_show_both_answers_side_by_side() -> None:
    console = Console(file=io.StringIO(), width=screen.WIDTH, color_system="standard", force_terminal=True)
    console.print(screen.drawn(Scene(QUESTION, OWN, SHARED, cut=True), screen.WIDTH))
    shown = cast("io.StringIO", console.file).getvalue()
    assert "through the agent: the link is cut" in shown
    assert "\x1b[1;32mit is\x1b[0m" in shown
    assert shown.count("\n") == screen.ROWS + 2 + 3
    assert shown.split("\n")[-2].startswith("through the agent        3")


def test_of_a_long_answer_the_end_is_shown() -> None:
    progress = Progress(tuple(Piece(f"{number}\n") for number in range(30)))
    assert screen.end_of(screen.coloured(progress), 20).plain.split() == [str(n) for n in range(30)][1 - screen.ROWS :]


class FakeVocabulary:
    def piece(self, token: int, *, special: bool) -> bytes:
        assert not special
        return {1: b"a", 2: b"\xc3", 3: b"\xa4", 4: b""}[token]


def test_a_character_in_two_tokens_comes_with_the_last() -> None:
    found = race.pieces_of(FakeVocabulary(), [(1, False), (2, True), (3, True), (4, False)])
    assert found == (Piece("a"), Piece("", True), Piece("ä", True), Piece(""))


def test_what_the_agent_says_of_an_answer_that_runs() -> None:
    record = {"tokens": [[1, True]], "output_tokens": 1, "counts": {"forwards": 7}}
    running = Progress((Piece("x"),), "x", 2, 2, 0.1, 0.2)
    assert race.with_record(running, None, FakeVocabulary()) == running
    shown = race.with_record(running, record, FakeVocabulary())
    assert (shown.pieces, shown.tokens, shown.passes, shown.text) == ((Piece("a", True),), 1, 7, "x")
    assert race.with_record(OWN, record, FakeVocabulary()).tokens == 3


class FakeLink:
    def __init__(self) -> None:
        self.told: list[str] = []

    def refuse(self) -> None:
        self.told.append("refuse")

    def cut(self) -> None:
        self.told.append("cut")

    def normal(self) -> None:
        self.told.append("normal")


def test_the_link_is_cut_once_and_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(race, "time", SimpleNamespace(monotonic=lambda: now[0]))
    link = FakeLink()
    cut = Cut(cast(Emulator, link), 2)
    for time_s, tokens, is_cut in ((0.0, 1, False), (1.0, 2, True), (3.9, 3, True), (4.0, 3, False), (9.0, 9, False)):
        now[0] = time_s
        cut.look(tokens)
        assert cut.now == is_cut
    assert link.told == ["refuse", "cut", "normal"]
    assert cut.happened


def test_a_cut_is_mended_whatever_ends_the_race() -> None:
    link = FakeLink()
    cut = Cut(cast(Emulator, link), 0)
    cut.look(0)
    cut.mend()
    cut.mend()
    assert link.told == ["refuse", "cut", "normal"]
    never = Cut(cast(Emulator, link), None)
    never.look(100)
    assert not never.happened
