"""The agent as a person at a terminal has it: chat, help, and what answers at once whatever the cloud does."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import MODEL, ROOT, Process, agent_process, free_port, gateway, run_to_end, slow_agent, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

INSTANT_S = 0.5


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with gateway(tmp_path_factory.mktemp("gateway"), "--step-floor-ms", "30") as process:
        yield process


@pytest.fixture(scope="module")
def agent(target: Process, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with slow_agent(tmp_path_factory.mktemp("agent"), target.root) as process:
        wait_until(lambda: bool(httpx.get(f"{process.url}/models").json()["data"]))
        yield process


def chat(url: str, *flags: str, typed: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipesd_agent", "chat", "--url", url, *flags]
    return subprocess.run(command, input=typed, capture_output=True, text=True, timeout=60, check=False)


def test_a_conversation_through_a_pipe(agent: Process) -> None:
    typed = "Write a function that adds two numbers.\n\n/new\nAnd now one that subtracts.\n"
    flags = ("--temperature", "0", "--max-tokens", "12")
    done = chat(agent.url, *flags, typed=typed)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Talking to {MODEL}. Ctrl-D ends, /new begins a new conversation.\n")
    answers = [text.strip() for text in done.stdout.split("\n> ")[1:]]
    assert len(answers) == 5  # two answers, an empty line, /new, the end
    assert answers[0]
    assert answers[3]
    # The second conversation knows nothing of the first, so it is what a client gets who asks that alone.
    ask = {"messages": [{"role": "user", "content": "And now one that subtracts."}], "temperature": 0, "max_tokens": 12}
    target_only = httpx.post(f"{agent.url}/chat/completions", json=ask, timeout=30).json()
    assert answers[3] == target_only["choices"][0]["message"]["content"].strip()


def test_an_answer_that_fails_is_said_and_the_conversation_goes_on(agent: Process) -> None:
    done = chat(agent.url, "--model", "nonesuch", typed="hello\nhello\n")
    assert done.returncode == 0
    assert done.stderr.count(f"[the model 'nonesuch' does not exist; this server has '{MODEL}']") == 2


@pytest.mark.parametrize(
    ("ends", "code", "said"),
    [
        ("| head -c 30 >/dev/null", 141, ""),
        (">/dev/full", 1, "cannot write to standard output: No space left on device"),
        ("<&-", 1, "cannot read standard input: Bad file descriptor"),
    ],
)
def test_a_conversation_whose_ends_are_no_terminal(agent: Process, ends: str, code: int, said: str) -> None:
    command = f"printf 'hi\\n' | \"$0\" -m pipesd_agent chat --url {agent.url} --max-tokens 12 {ends}"
    done = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[1]}}", sys.executable],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code
    assert done.stderr.startswith(f"pipesd-agent chat: {said}") if said else done.stderr == ""
    assert done.stderr.count("\n") == bool(said)


def test_the_demo_begins_as_the_programs_do() -> None:
    done = subprocess.run(
        ["bash", "-c", '"$0" -m examples.demo --help >/dev/full', sys.executable],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "demo: cannot write to standard output: No space left on device; send it elsewhere\n"


def test_the_demo_without_a_terminal() -> None:
    """Both sides at once, a cut link, equal texts, and no control character."""
    done = subprocess.run(
        [sys.executable, "-m", "examples.demo", "--toy"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("── the toy pair")
    assert "\nStep: EMULATED, 40 ms a target pass; the toy target is faster than any link.\n" in done.stdout
    assert done.stdout.count("\n** the link is cut **\n** the link is there again **\n") == 1
    answers = re.findall(r"the target alone:\n(.*?)\nthrough the agent:\n(.*?)\n {9}", done.stdout, re.DOTALL)
    assert len(answers) == 3
    for alone, through_agent in answers:
        assert "«" in through_agent
        assert re.sub(r"[«»|\s]", "", through_agent) == re.sub(r"[|\s]", "", alone)  # marks change where lines fold
    figures = done.stdout.partition("── figures")[2]
    assert [line.split()[-1] for line in figures.splitlines()[2:5]] == ["yes"] * 3
    assert "every text is byte for byte the target's own" in figures
    assert "was cut for 3 s in mid-answer" in figures
    assert "make demo KEEP=1" in figures
    assert "\x1b" not in done.stdout


def test_the_demo_on_a_terminal_ends_in_mid_answer() -> None:
    """Columns that are drawn again and again, accepted tokens in green. Ctrl-C ends it, with all that it started: its
    processes are in sessions of their own, so that no signal but the demo's reaches them."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    demo = subprocess.Popen(
        [sys.executable, "-m", "examples.demo", "--toy"],
        cwd=ROOT,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment | {"TERM": "xterm-256color"},
    )
    signal.signal(signal.SIGINT, before)
    os.close(slave)
    try:
        shown = read_until(master, b"through the agent: the link is cut", 100)
        children = Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text().split()
        assert len(children) == 3
        demo.send_signal(signal.SIGINT)
        shown += read_until(master, None, 30)
        assert demo.wait(5) == 130
        assert [child for child in children if Path(f"/proc/{child}").exists()] == []
    finally:
        demo.kill()
        demo.wait()
        os.close(master)
    text = shown.decode("utf-8", "replace")
    assert text.count("─ the target alone ─") > 10
    assert "\x1b[1;32m" in text
    assert "figures" not in text
    assert "Traceback" not in text


def read_until(terminal: int, wanted: bytes | None, seconds: float) -> bytes:
    """What a program shows until these bytes; None: until it closes its terminal. Raises AssertionError for neither."""
    shown, deadline = b"", time.monotonic() + seconds
    while wanted is None or wanted not in shown:
        assert select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))[0], shown[-2000:]
        try:
            read = os.read(terminal, 65536)
        except OSError:  # EIO: nobody writes to it any more
            read = b""
        if not read:
            assert wanted is None, shown[-2000:]
            break
        shown += read
    return shown


def test_without_an_agent_it_says_how_to_start_one() -> None:
    for url in (f"http://127.0.0.1:{free_port()}/v1", "http://localhost:99999", "nonsense"):
        done = chat(url, typed="hello\n")
        assert done.returncode in (1, 2)
        (line,) = done.stderr.splitlines()
        assert url in line
        assert done.stdout == ""


class Terminal:
    """`pipesd-agent chat` on a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self.shown = ""
        self._master, slave = pty.openpty()
        command = [sys.executable, "-m", "pipesd_agent", "chat", *arguments]
        # Whoever runs the tests in the background has them ignore SIGINT, and children inherit that.
        before = signal.signal(signal.SIGINT, signal.SIG_DFL)
        self._popen = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave)
        signal.signal(signal.SIGINT, before)
        os.close(slave)

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def until(self, pattern: str, seconds: float = 20.0) -> str:
        """What is shown up to a pattern, from the last call on."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.shown, re.DOTALL)):
            ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{pattern!r} is not in {self.shown!r}"
            self.shown += os.read(self._master, 65536).decode("utf-8", "replace")
        before, self.shown = self.shown[: found.end()], self.shown[found.end() :]
        return before

    def exit_code(self) -> int:
        try:
            return self._popen.wait(10)
        finally:
            self._popen.kill()
            os.close(self._master)

    def interrupt(self) -> None:
        """Ctrl-C, which the terminal would turn into this signal were it the controlling one."""
        self._popen.send_signal(signal.SIGINT)


def test_a_terminal(agent: Process) -> None:
    """Ctrl-C stops an answer and no more; Ctrl-D ends."""
    terminal = Terminal("--url", agent.url, "--temperature", "0", "--max-tokens", "1500")
    terminal.until("Talking to .*> ")
    terminal.type("0, 0, 0, 0, 0, 0, 0, 0, 0, 0,\r")
    terminal.until("0,\r\n.+")  # the echo, and the first of the answer
    time.sleep(0.3)
    terminal.interrupt()
    terminal.until(r"\[stopped\].*> ")
    terminal.type("hi\r")
    terminal.until("hi\r\n.+")
    terminal.interrupt()
    terminal.until(r"\[stopped\].*> ")
    terminal.type("\x04")
    assert terminal.exit_code() == 0


@pytest.mark.parametrize(
    "words", ["pipesd_agent", "pipesd_agent start", "pipesd_agent chat", "pipesd_gateway", "pipesd_gateway serve"]
)
def test_help_fits_a_screen(words: str) -> None:
    module, *command = words.split()
    done = run_to_end(module, *command, "--help", COLUMNS="80")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("usage: " + words.replace("_", "-"))
    assert len(lines) <= 42
    assert all(len(line) <= 80 for line in lines)


def instantly(url: str) -> Any:
    """What is there, at once: of three times the best, since the machine may be busy."""
    times: list[float] = []
    while True:
        began = time.monotonic()
        answer = httpx.get(url).json()
        times.append(time.monotonic() - began)
        if times[-1] < INSTANT_S:
            return answer
        assert len(times) < 3, times


def test_models_and_health_are_instant_whatever_the_cloud_does(tmp_path: Path) -> None:
    port = free_port()

    def models(agent: Process) -> list[str]:
        listed = instantly(f"{agent.url}/models")
        assert listed["object"] == "list"
        return [model["id"] for model in listed["data"]]

    def state(agent: Process) -> str:
        health = instantly(f"{agent.root}/health")
        assert health["status"] == "ok"
        assert health["drafter"]["capacity"] == 4
        gateway_state: str = health["gateway"]
        return gateway_state

    with agent_process(tmp_path, f"http://127.0.0.1:{port}") as agent:
        assert models(agent) == []
        wait_until(lambda: "cannot reach" in state(agent))
        done = chat(agent.url, typed="hello\n")
        assert done.returncode == 1
        assert "does not know its gateway's models yet" in done.stderr
        with gateway(tmp_path, "--port", str(port)) as target:
            wait_until(lambda: models(agent) == [MODEL], 15)
            wait_until(lambda: state(agent) == "connected", 15)
            target.kill()
            wait_until(lambda: state(agent) != "connected")
            assert models(agent) == [MODEL]


def test_the_ready_configurations_run(tmp_path: Path) -> None:
    """Both files of configs/ as they stand, from the repository's root, as their first lines say."""
    done: list[Process] = []
    try:
        for program, command, file in (
            ("pipesd_gateway", "serve", "gateway.toml"),
            ("pipesd_agent", "start", "agent.toml"),
        ):
            address = [] if program == "pipesd_gateway" else ["--gateway", done[0].root]
            done.append(
                Process(
                    program,
                    command,
                    "--config",
                    str(ROOT / "configs" / file),
                    "--port",
                    "0",
                    *address,
                    log=tmp_path / file,
                    cwd=ROOT,
                )
            )
        answer = httpx.post(f"{done[1].url}/completions", json={"prompt": "def", "max_tokens": 4}, timeout=30)
        assert answer.status_code == 200, answer.text
    finally:
        for process in reversed(done):
            assert process.stop() == 0
