"""PipeSD in a minute: three questions to a target alone, and to the same target through an edge agent, side by side.

    make demo            (or: .venv/bin/python -m examples.demo)
    make demo KEEP=1     leaves both ends running, for the OpenAI SDK to be pointed at

The real pair (SmolLM2-135M-Instruct) is taken where `python -m examples.smollm2.build F16` has built it, else, and with
--toy, the models of this repository.

Exit codes: 0; 1 when a program did not start, a text is not the target's own or the output is full; 130 after Ctrl-C;
141 when nobody reads the output.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx
from openai import OpenAI, OpenAIError

from bench.link.emulator import Emulator
from examples.demo.figures import last_table, summary
from examples.demo.pair import Pair, Question, real_pair, toy_pair
from examples.demo.programs import port, running
from examples.demo.race import REQUEST_TIMEOUT_S, RaceFailed, Scene, Track
from examples.demo.screen import Screen, screen_for
from examples.demo.step import Step, step_for
from pipesd_core.llamacpp.binding import Model
from pipesd_core.service.standard_streams import complain, write

QUESTION_S: Final = 11.0
"""For the target's passes in one answer: three, with start and cut, take less than a minute then."""
DRAIN_S: Final = "1"
"""What still runs when the demo ends is nobody's."""


@dataclass(frozen=True)
class Ends:
    """What runs. agent_url, gateway_url: of their APIs (…/v1)."""

    track: Track
    agent_url: str
    gateway_url: str


@contextmanager
def both_ends(pair: Pair, step: Step, vocabulary: Model, *, keep: bool) -> Iterator[Ends]:
    """Run two gateways (one for the target alone, one for the agent) and the agent, with links between."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pipesd-demo-"))
        serve = ["serve", "--model", str(pair.target), "--n-seq", "1", "--drain-timeout", DRAIN_S]
        serve += [] if step.floor_ms is None else ["--step-floor-ms", f"{step.floor_ms:g}"]
        alone_url, _ = stack.enter_context(
            running("pipesd_gateway", folder, *serve, "--port", "0", log_name="target-alone")
        )
        gateway_url, _ = stack.enter_context(
            running("pipesd_gateway", folder, *serve, "--port", port(8100) if keep else "0")
        )
        alone, link = (stack.enter_context(Emulator(address(url))) for url in (alone_url, gateway_url))
        start = ["start", "--mode", "collaborative", "--gateway", link.url, "--drain-timeout", DRAIN_S]
        start += ["--draft-model", str(pair.draft)]
        if step.drafts is not None:
            settings = Path(folder) / "agent.toml"
            settings.write_text(f"[session]\nwindow = {step.drafts}\n")
            start += ["--config", str(settings)]
        agent_url, _ = stack.enter_context(
            running("pipesd_agent", folder, *start, "--port", port(8101) if keep else "0")
        )
        name = httpx.get(f"{gateway_url}/models", timeout=REQUEST_TIMEOUT_S).json()["data"][0]["id"]
        yield Ends(Track(alone, link, agent_url, name, vocabulary), agent_url, gateway_url)


def address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "127.0.0.1", parts.port or 80


def warm_up(track: Track) -> None:
    """Ask each side for two tokens: connections, chat template and first pages of models are no part of the race."""
    for url in (f"{track.alone.url}/v1", track.agent_url):
        with OpenAI(base_url=url, api_key="unused", timeout=REQUEST_TIMEOUT_S, max_retries=0) as client:
            client.chat.completions.create(
                model=track.model, messages=[{"role": "user", "content": "Hello"}], max_tokens=2
            )


def race(track: Track, questions: Sequence[Question], screen: Screen) -> list[Scene]:
    """Ask all questions. Raises RaceFailed."""
    scenes = []
    for number, question in enumerate(questions, start=1):
        with screen.question(question) as view:
            scenes.append(track.race(question, f"demo-{number}-{os.getpid()}", view.show))
    return scenes


def print_figures(scenes: list[Scene], step: Step, screen: Screen) -> bool:
    """The last screen; True if every text is the target's own."""
    screen.heading("figures")
    write("\n".join([*last_table(scenes), "", *summary(scenes), f"Step: {step.why}.", ""]))
    return all(scene.same for scene in scenes)


def print_next(screen: Screen, ends: Ends, *, keep: bool) -> None:
    """What to type next; with `keep` both ends run, and have URLs."""
    screen.heading("both ends are running; Ctrl-C ends them" if keep else "next")
    if not keep:
        write(
            "make demo KEEP=1                             leaves both ends running, at http://127.0.0.1:8101/v1\n"
            ".venv/bin/pipesd-agent chat                  then: a chat at the terminal\n"
            ".venv/bin/python examples/openai_sdk.py      or the OpenAI SDK"
        )
        return
    write(
        f"from openai import OpenAI\n"
        f'client = OpenAI(base_url="{ends.agent_url}", api_key="unused")\n'
        f'messages = [{{"role": "user", "content": "Write a haiku about the sea."}}]\n'
        f'answer = client.chat.completions.create(model="{ends.track.model}", messages=messages, max_tokens=40)\n'
        f"print(answer.choices[0].message.content)\n\n"
        f"At a terminal:       .venv/bin/pipesd-agent chat --url {ends.agent_url}\n"
        f"The target alone:    {ends.gateway_url}"
    )


def demo(pair: Pair, screen: Screen, *, keep: bool) -> bool:
    """Start, race, compare; True if every text is the target's own."""
    screen.heading(f"{pair.name}, drafts of {pair.draft.name}")
    with Model(pair.target) as target:
        step = step_for(pair, target)
        write(f"Step: {step.why}.\n{screen.legend}\n")
        questions = [question.within(QUESTION_S, step.pass_ms) for question in pair.questions]
        if questions != list(pair.questions):
            write("A pass takes long here: answers are cut short, lest the demo takes more than a minute.\n")
        with both_ends(pair, step, target, keep=keep) as ends:
            warm_up(ends.track)
            same = print_figures(race(ends.track, questions, screen), step, screen)
            print_next(screen, ends, keep=keep)
            if keep:
                try:
                    signal.pause()
                except KeyboardInterrupt:
                    write("")
    return same


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keep", action="store_true", help="leave both ends running until Ctrl-C")
    parser.add_argument("--toy", action="store_true", help="the toy pair, though the real one has been built")
    args = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    pair = (None if args.toy else real_pair()) or toy_pair()
    try:
        same = demo(pair, screen_for(sys.stdout, os.environ), keep=args.keep)
    except KeyboardInterrupt:
        write("\nstopped")
        return 130
    except (RaceFailed, OpenAIError, httpx.HTTPError) as error:
        complain(f"demo: {error}")
        return 1
    return 0 if same else 1
