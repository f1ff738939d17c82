"""PipeSD in half a minute: an edge agent and a gateway on this machine, two answers, and what they cost.

    make demo            (or: .venv/bin/python examples/demo.py)
    make demo KEEP=1     leaves both running, for the OpenAI SDK to be pointed at

Exit codes: 0; 1 when a program did not start, a text is not the target's own or the output is full; 130 after Ctrl-C;
141 when nobody reads the output.
"""

from __future__ import annotations

import argparse
import codecs
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import httpx
from openai import OpenAI

from pipesd_core.llamacpp.binding import Model
from pipesd_core.service.program import run
from pipesd_core.service.standard_streams import write

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / ".build" / "demo-target-F32.gguf"
STEP_MS = 40
READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 8.0
REQUEST_TIMEOUT_S = 30.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WIDTH = 96
PLAIN, BOLD, DIM, DRAFTED, OWN, BAD = "", "1", "2", "32", "1;35", "1;31"
COLOUR = (
    sys.stdout is not None
    and sys.stdout.isatty()
    and "NO_COLOR" not in os.environ
    and os.environ.get("TERM") not in (None, "", "dumb")
)

LARGEST = '''def max_element(l: list):
    """ Return maximum element in the list.
    >>> max_element([1, 2, 3])
    3
    """
    result ='''
"""A HumanEval prompt with the answer begun, lest a toy ends the answer before it has begun."""


@dataclass(frozen=True)
class Question:
    title: str
    prompt: str
    options: dict[str, Any]
    chat: bool


QUESTIONS = (
    Question(
        "chat, T = 0.8",
        "Write a Python function `is_palindrome`. Check whether a text is a palindrome.",
        {"temperature": 0.8, "seed": 7, "max_tokens": 80},
        chat=True,
    ),
    Question("completion, T = 0", LARGEST, {"temperature": 0.0, "max_tokens": 80}, chat=False),
)


@dataclass(frozen=True)
class Answer:
    text: str
    tokens: int
    seconds: float

    @property
    def ms_per_token(self) -> float:
        return 1000 * self.seconds / self.tokens


# ---- the two programs ----


@contextmanager
def running(name: str, folder: str, *arguments: str) -> Iterator[tuple[str, int]]:
    """Run a program of ours; gives its URL (…/v1) and process id when it is ready, and ends it in every case."""
    log = Path(folder) / f"{name}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            (sys.executable, "-m", name, *arguments),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for this script, which then stops both in order
        )
    try:
        yield wait_until_ready(name, process, log), process.pid
    finally:
        handlers = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}  # nothing may interrupt this
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def wait_until_ready(name: str, process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        if found := re.search(r"^listening on (\S+)$", log.read_text(errors="replace"), re.MULTILINE):
            return found[1]
        if process.poll() is not None:
            break
        time.sleep(0.05)
    why = f"is not ready after {READY_TIMEOUT_S:g} s" if process.poll() is None else f"ended with {process.returncode}"
    lines = log.read_text("utf-8", errors="replace").rstrip("\n").split("\n")[-30:]
    raise SystemExit("\n".join([f"{name} {why}. The end of its log:", *lines]))


def port(wanted: int) -> str:
    """The wanted port if it is free, else 0: any other."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            return "0"
    return str(wanted)


# ---- questions and answers ----


def ask(client: OpenAI, model: str, question: Question, request_id: str, show: Sheet | None = None) -> Answer:
    """Ask with streaming; the time is from the request to the last chunk, as the client sees it."""
    common: dict[str, Any] = question.options | {
        "model": model,
        "stream": True,
        "stream_options": {"include_usage": True},
        "extra_headers": {"x-request-id": request_id},
    }
    began = time.monotonic()
    if question.chat:
        chunks = client.chat.completions.create(messages=[{"role": "user", "content": question.prompt}], **common)
    else:
        chunks = client.completions.create(prompt=question.prompt, **common)
    text, tokens = "", 0
    for chunk in chunks:
        for choice in chunk.choices:
            piece = (choice.delta.content if question.chat else choice.text) or ""
            text += piece
            if show:
                show.write(piece)
        if chunk.usage:
            tokens = chunk.usage.completion_tokens
    return Answer(text, tokens, time.monotonic() - began)


def record_of(agent_url: str, request_id: str) -> dict[str, Any]:
    """What the agent says that a request did; it is there a moment after the answer."""
    for _ in range(100):
        response = httpx.get(f"{agent_url}/pipesd/requests/{request_id}", timeout=REQUEST_TIMEOUT_S)
        if response.status_code != httpx.codes.NOT_FOUND:
            break
        time.sleep(0.02)
    record: dict[str, Any] = response.raise_for_status().json()
    return record


def pieces(model: Model, tokens: Iterable[tuple[int, bool]]) -> Iterator[tuple[str, bool]]:
    """(text, was it drafted?) of each token. A character in several tokens comes with the last of them."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token, accepted in tokens:
        yield decoder.decode(model.piece(token, special=False)), accepted


# ---- what is printed ----


class Sheet:
    """Indented text, folded at WIDTH, in which drafted tokens can be told from the target's own."""

    def __init__(self) -> None:
        self._column = 0

    def write(self, text: str, code: str = PLAIN) -> None:
        """code: PLAIN, DIM, or whose the text is: DRAFTED or OWN; without colours OWN is put in marks."""
        if code == OWN and not COLOUR and (core := text.strip()):
            text = text.replace(core, f"«{core}»")
        shown = "".join(map(self._place, text.replace("\t", "    ")))
        write(style(shown, code), end="")

    def _place(self, character: str) -> str:
        if character == "\n":
            self._column = 0
            return character
        margin = "  | " if self._column == 0 else "\n  > " if self._column == WIDTH - 4 else ""
        self._column = 1 if margin else self._column + 1
        return margin + (character if character.isprintable() else "\N{REPLACEMENT CHARACTER}")

    def end(self) -> None:
        write("\n" if self._column else "")
        self._column = 0


def style(text: str, code: str) -> str:
    return f"\033[{code}m{text}\033[0m" if COLOUR and code and text else text


def heading(text: str) -> None:
    write(style(f"── {text} ".ljust(WIDTH, "─"), BOLD))


def row(label: str, cells: Iterable[str], code: str = PLAIN) -> None:
    write(style(f"{label:38}" + "".join(f"{cell:>20}" for cell in cells), code))


def print_figures(records: list[dict[str, Any]], shared: list[Answer], alone: list[Answer]) -> bool:
    """The table; True if every text is the target's own."""
    counts = [record["counts"] for record in records]
    heading("figures")
    row("", [question.title for question in QUESTIONS])
    forwards = [f"{c['forwards'] / r['output_tokens']:.2f}" for c, r in zip(counts, records, strict=True)]
    row("target forward passes per token", forwards, BOLD)
    row("  the target alone", ["1.00" for _ in records])
    row("drafts accepted, of those sent", [f"{c['accepted']} of {c['sent']}" for c in counts])
    row("  acceptance", [f"{100 * c['accepted'] / max(1, c['sent']):.0f} %" for c in counts])
    row(
        "verifications per token",
        [f"{c['verifications'] / r['output_tokens']:.2f}" for c, r in zip(counts, records, strict=True)],
    )
    row(
        "bytes up per drafted token sent",
        [f"{r['upload_bytes']['drafts'] / max(1, c['sent']):.1f}" for c, r in zip(counts, records, strict=True)],
    )
    row(f"wall time per token, {STEP_MS} ms EMULATED step", [f"{answer.ms_per_token:.1f} ms" for answer in shared])
    row("  the target alone, the same step", [f"{answer.ms_per_token:.1f} ms" for answer in alone])
    same = [together.text == own.text for together, own in zip(shared, alone, strict=True)]
    row("text equals the target's own", ["yes" if equal else "NO" for equal in same], PLAIN if all(same) else BAD)
    write(
        "\nWall time: from the request to the last chunk, as the client sees it, over output tokens; prompt,"
        "\nHTTP and link (this machine, no delay added) are in it. Wishes for verification coalesce: several"
        "\nmay be met by one forward pass. Bytes: WebSocket frames with drafts, header and mask included, acks"
        f"\nand opening not. The models are toys (their text makes little sense), and the {STEP_MS} ms of a target"
        "\nstep are EMULATED, by waiting: the toy target alone is faster than any link. Passes, drafts and"
        "\nbytes are counted, not emulated."
    )
    return all(same)


def demo(agent_url: str, gateway_url: str) -> bool:
    """Ask, show, compare. True if every text is the target's own."""
    agent = OpenAI(base_url=agent_url, api_key="unused", timeout=REQUEST_TIMEOUT_S, max_retries=0)
    gateway = OpenAI(base_url=gateway_url, api_key="unused", timeout=REQUEST_TIMEOUT_S, max_retries=0)
    model = gateway.models.list().data[0].id
    for question in QUESTIONS:  # connections, chat template, first pages of the models: no part of the figures
        first = Question(question.title, question.prompt, question.options | {"max_tokens": 2}, question.chat)
        ask(agent, model, first, "demo-first")
        ask(gateway, model, first, "demo-first")
    records, shared, alone = [], [], []
    sheet = Sheet()
    with Model(TARGET) as vocabulary:
        for number, question in enumerate(QUESTIONS):
            heading(f"{question.title}, streamed by the agent")
            sheet.write(question.prompt, DIM)
            if question.chat:
                sheet.end()
            request_id = f"demo-{number}-{os.getpid()}"
            shared.append(ask(agent, model, question, request_id, sheet))
            sheet.end()
            records.append(record_of(agent_url, request_id))
            plain, own = ("green", "the target's own magenta") if COLOUR else ("plain", "the target's own «marked»")
            write(f"The same: {style(f'drafted and accepted tokens {plain}', DRAFTED)}, {style(own, OWN)}\n")
            for accepted, run in groupby(pieces(vocabulary, records[-1]["tokens"]), itemgetter(1)):
                sheet.write("".join(text for text, _ in run), DRAFTED if accepted else OWN)
            sheet.end()
            alone.append(ask(gateway, model, question, request_id))
    return print_figures(records, shared, alone)


def wait_for_ctrl_c(agent_url: str, gateway_url: str, model: str) -> None:
    heading("both are running; Ctrl-C ends them")
    write(
        f"from openai import OpenAI\n"
        f'client = OpenAI(base_url="{agent_url}", api_key="unused")\n'
        f'answer = client.completions.create(model="{model}", prompt="def add(a, b):", max_tokens=40)\n'
        f"print(answer.choices[0].text)\n\n"
        f"At a terminal:       .venv/bin/pipesd-agent chat --url {agent_url}\n"
        f"The target alone:    {gateway_url}"
    )
    try:
        signal.pause()
    except KeyboardInterrupt:
        write("")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="leave both running until Ctrl-C")
    keep = parser.parse_args().keep
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pipesd-demo-"))
            write(f"starting gateway (target) and agent (drafter); target step EMULATED: at least {STEP_MS} ms\n")
            arguments = ("serve", "--model", str(TARGET), "--step-floor-ms", str(STEP_MS))
            gateway_url, _ = stack.enter_context(
                running("pipesd_gateway", folder, *arguments, "--port", port(8100) if keep else "0")
            )
            gateway = gateway_url.removesuffix("/v1")
            arguments = ("start", "--config", "configs/agent.toml", "--mode", "collaborative", "--gateway", gateway)
            agent_url, _ = stack.enter_context(
                running("pipesd_agent", folder, *arguments, "--port", port(8101) if keep else "0")
            )
            same = demo(agent_url, gateway_url)
            if keep:
                write("")
                name = httpx.get(f"{agent_url}/models", timeout=REQUEST_TIMEOUT_S).json()["data"][0]["id"]
                wait_for_ctrl_c(agent_url, gateway_url, name)
    except KeyboardInterrupt:
        write("\nstopped")
        return 130
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(run("demo", main))
