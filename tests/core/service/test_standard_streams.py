"""Standard input, output and error of a real process, in every state that a shell can give them."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

PROGRAM = """
import sys
from pipesd_core.errors import PipeSDError
from pipesd_core.service import standard_streams
from pipesd_core.service.program import run
from pipesd_core.service.standard_streams import complain, read_line, write

def command():
    {0}
    return 7

sys.exit(run("prog", command))
"""


def shell(command: str, program: str, stdin: bytes = b"", **environ: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a shell's command, in which PROGRAM is a program of ours that does so much."""
    code = PROGRAM.format(program.replace("\n", "\n    "))
    done = subprocess.run(
        ["bash", "-c", command.replace("PROGRAM", '"$python" -c "$code"')],
        env={**os.environ, "python": sys.executable, "code": code, **environ},
        input=stdin,
        capture_output=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")


WRITES = "write('good')"
PRINTS = "print('good')"
MANY = "for _ in range(100_000): write('good')"
LOST = "prog: cannot write to standard output: {}; send it elsewhere\n"


@pytest.mark.parametrize(
    ("command", "program", "expected"),
    [
        ("PROGRAM", WRITES, (7, "good\n", "")),
        ("PROGRAM <&-", WRITES, (7, "good\n", "")),
        ("PROGRAM 2>&-", WRITES, (7, "good\n", "")),
        ("PROGRAM 2>&-", "complain('lost')", (7, "", "")),
        ("PROGRAM 2>/dev/full", "complain('lost')", (7, "", "")),
        ("PROGRAM 2>/dev/full", "import argparse; argparse.ArgumentParser().error('lost')", (2, "", "")),
        ("PROGRAM >&-", WRITES, (1, "", LOST.format("Bad file descriptor"))),
        ("PROGRAM >&-", "pass", (7, "", "")),
        ("PROGRAM >/dev/full", WRITES, (1, "", LOST.format("No space left on device"))),
        ("PROGRAM >/dev/full", PRINTS, (1, "", LOST.format("No space left on device"))),
        ("PROGRAM >/dev/full", "write('x' * 100_000)", (1, "", LOST.format("No space left on device"))),
        ("PROGRAM >/dev/full 2>&1", WRITES, (1, "", "")),
        ("PROGRAM >/dev/full <&- 2>&-", WRITES, (1, "", "")),
        ("PROGRAM | head -c 4; exit ${PIPESTATUS[0]}", MANY, (141, "good", "")),
        ("PROGRAM | head -c 4; exit ${PIPESTATUS[0]}", "for _ in range(100_000): print('good')", (141, "good", "")),
        ("PROGRAM 2>&1 | head -c 4; exit ${PIPESTATUS[0]}", MANY, (141, "good", "")),
        ("PROGRAM", "raise SystemExit(3)", (3, "", "")),
        ("PROGRAM >/dev/full", "print('help'); raise SystemExit(0)", (1, "", LOST.format("No space left on device"))),
        ("PROGRAM", "raise KeyboardInterrupt", (130, "", "")),
        ("PROGRAM", "raise PipeSDError('wrong')", (1, "", "prog: wrong\n")),
        ("PROGRAM", "write(str(read_line()))", (7, "None\n", "")),
        (
            "PROGRAM <&-",
            "read_line()",
            (1, "", "prog: cannot read standard input: Bad file descriptor; type at a terminal, or send lines "
             "through a pipe\n"),
        ),
        # What libraries open does not get into the place of a closed stream.
        ("PROGRAM <&- >&- 2>&-", "import socket; raise SystemExit(socket.socket().fileno() < 3)", (0, "", "")),
    ],
)  # fmt: skip
def test_every_state_of_the_streams(command: str, program: str, expected: tuple[int, str, str]) -> None:
    for unbuffered in ("", "1") if set("|>") & set(command) else ("",):
        assert shell(command, program, PYTHONUNBUFFERED=unbuffered) == expected


@pytest.mark.parametrize(
    ("environ", "shown"),
    [
        ({"PYTHONIOENCODING": "utf-8"}, "\N{GRINNING FACE}\u00e4"),
        ({"PYTHONIOENCODING": "ascii"}, r"\U0001f600\xe4"),
        ({"PYTHONIOENCODING": "latin-1"}, "\\U0001f600\N{REPLACEMENT CHARACTER}"),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, r"\U0001f600\xe4"),
    ],
)
def test_a_terminal_that_lacks_a_character(environ: dict[str, Any], shown: str) -> None:
    assert shell("PROGRAM", r"write('\U0001f600\xe4')", **environ) == (7, f"{shown}\n", "")


LINES = """
while True:
    try:
        line = read_line()
    except standard_streams.LineUnusable as error:
        line = str(error)[:36]
    write(ascii(line))
    if line is None: break
"""


@pytest.mark.parametrize(
    ("stdin", "shown"),
    [
        (b"a\r\n\n b\x85c", "''"),
        (b"\xef\xbb\xbfa\r\n\nb", "'a'\n''\n'b'\nNone\n"),
        ("a\u2028b\u0085\x0bc\n".encode(), r"'a\u2028b\x85\x0bc'" + "\nNone\n"),
        (b"a\n\xff\nb\n", "'a'\n'that line is not utf-8 text (its byt'\n'b'\nNone\n"),
    ],
)
def test_lines_of_standard_input(stdin: bytes, shown: str) -> None:
    code, out, errors = shell("PROGRAM", LINES, stdin, PYTHONIOENCODING="utf-8")
    assert (code, errors) == (7, "")
    assert shown in out


@pytest.mark.parametrize(
    ("stdin", "why"),
    [
        ("héllo\n".encode("utf-16"), "standard input is UTF-16 text; send UTF-8"),
        (b"x" * (4 * 2**20 + 1), "a line of standard input has more than 4194304 bytes; is it text?"),
    ],
)
def test_input_that_is_no_text_at_all(stdin: bytes, why: str) -> None:
    assert shell("PROGRAM", "read_line()", stdin) == (1, "", f"prog: {why}\n")
