"""What the demo shows: two columns that grow on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from itertools import groupby
from typing import IO, TYPE_CHECKING, Final, Protocol

from examples.demo.figures import ALONE, THROUGH, marked, printable, table
from examples.demo.pair import Question
from examples.demo.race import Progress, Scene
from pipesd_core.service.standard_streams import write

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.text import Text

WIDTH: Final = 96
LEAST_WIDTH: Final = 92
"""Below it two columns and the figures have no room."""
ROWS: Final = 11
"""Lines of a column: a screen of 24 has the question and the figures too."""
ACCEPTED: Final = "bold green"
CUT: Final = "bold red"
CUT_LINE: Final = "the link is cut"
MENDED_LINE: Final = "the link is there again"


class View(Protocol):
    """Shows the scenes of one question."""

    def show(self, scene: Scene) -> None: ...


class Screen(Protocol):
    """Shows all of the demo."""

    legend: str

    def heading(self, text: str) -> None: ...

    def question(self, question: Question) -> AbstractContextManager[View]:
        """The view of a question, for as long as a with statement."""


def screen_for(output: IO[str] | None, environ: Mapping[str, str]) -> Screen:
    """The screen for standard output as it is."""
    if (
        output is None
        or not output.isatty()
        or environ.get("TERM") in (None, "", "dumb")
        or shutil.get_terminal_size().columns < LEAST_WIDTH
    ):
        return Lines()
    return Columns(colours="NO_COLOR" not in environ)


class Lines:
    """Plain lines: each question, what happens to the link, and both answers with their figures once they are over."""

    legend = "Text between « and » was drafted here and accepted; the rest of it is the target's own."

    def heading(self, text: str) -> None:
        write(f"── {text} ".ljust(WIDTH, "─"))

    @contextmanager
    def question(self, question: Question) -> Iterator[View]:
        self.heading(question.title)
        write(indented(question.prompt))
        view = _LinesView()
        yield view
        view.end()


class _LinesView:
    def __init__(self) -> None:
        self._scene: Scene | None = None

    def show(self, scene: Scene) -> None:
        before = self._scene is not None and self._scene.cut
        if scene.cut != before:
            write(f"** {CUT_LINE if scene.cut else MENDED_LINE} **")
        self._scene = scene

    def end(self) -> None:
        if self._scene is None:
            return
        write(f"{ALONE}:\n{indented(printable(self._scene.alone.text))}")
        write(f"{THROUGH}:\n{indented(printable(marked(self._scene.through_agent.pieces)))}")
        write("\n".join([*table(self._scene), ""]))


def indented(text: str) -> str:
    """Paragraphs folded at `WIDTH` behind a margin."""
    lines: list[str] = []
    for line in text.split("\n"):
        lines += textwrap.wrap(line, WIDTH - 4, drop_whitespace=False, break_on_hyphens=False) or [""]
    return "\n".join(f"  | {line}".rstrip() for line in lines)


class Columns:
    """Two columns on a terminal, redrawn as they grow."""

    def __init__(self, *, colours: bool) -> None:
        from rich.console import Console

        self._console: Console = Console(
            file=sys.stdout, no_color=not colours, highlight=False, width=min(WIDTH, shutil.get_terminal_size().columns)
        )
        shown = "green" if colours else "bold"
        self.legend = f"Text in {shown} was drafted here and accepted; the rest of it is the target's own."

    def heading(self, text: str) -> None:
        from rich.text import Text

        self._console.print(Text(f"── {text} ".ljust(self._console.width, "─"), "bold"))

    @contextmanager
    def question(self, question: Question) -> Iterator[View]:
        from rich.live import Live

        self.heading(question.title)
        self._console.print(question.prompt, style="dim", markup=False)
        with Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
            yield _ColumnsView(live)


class _ColumnsView:
    def __init__(self, live: Live) -> None:
        self._live = live
        self._scene: Scene | None = None

    def show(self, scene: Scene) -> None:
        if scene != self._scene:
            self._scene = scene
            self._live.update(drawn(scene, self._live.console.width), refresh=True)


def drawn(scene: Scene, width: int) -> RenderableType:
    """Both columns, and the figures below them."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    columns = Table.grid(expand=True, padding=0)
    for _ in range(2):
        columns.add_column(ratio=1)
    title = f"{THROUGH}: {CUT_LINE}" if scene.cut else THROUGH
    inner = width // 2 - 4
    columns.add_row(
        Panel(end_of(coloured(scene.alone), inner), title=ALONE, height=ROWS + 2),
        Panel(
            end_of(coloured(scene.through_agent), inner),
            title=Text(title, CUT if scene.cut else ""),
            height=ROWS + 2,
            border_style=CUT if scene.cut else "",
        ),
    )
    headings, *sides = table(scene)
    return Group(columns, Text(headings, "dim"), *(Text(line) for line in sides))


def coloured(progress: Progress) -> Text:
    """Text of an answer, its accepted tokens in a style of their own."""
    from rich.text import Text

    text = Text()
    for accepted, pieces in groupby(progress.pieces, lambda piece: piece.accepted):
        text.append(printable("".join(piece.text for piece in pieces)), ACCEPTED if accepted else "")
    return text


def end_of(text: Text, width: int) -> Text:
    """The last `ROWS` lines of a text that is folded at a width."""
    from rich.console import Console
    from rich.text import Text

    lines = text.wrap(Console(width=width, color_system=None), width)
    return Text("\n").join(lines[-ROWS:])
