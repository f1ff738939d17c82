"""Ctrl-C at every moment of a program's life, and models that load for long. How it starts else: test_server.py."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import httpx
import pytest

from pipesd_core.errors import ModelLoadError
from pipesd_core.service.program import load_in_thread, run

BEFORE = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # else as in a shell's background, where it is ignored

def interrupt(*_):
    os.kill(os.getpid(), signal.SIGINT)
"""


def python(code: str, *arguments: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a program."""
    done = subprocess.run(
        [sys.executable, "-c", BEFORE + code, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("package", ["pipesd_agent", "pipesd_gateway"])
def test_an_interrupt_while_the_modules_load(package: str) -> None:
    """It ends the process as any other one: by the signal, without a word."""
    code = f"""
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "{package}.cli":
            interrupt()

import runpy
sys.meta_path.insert(0, Interrupting())
runpy.run_module("{package}", run_name="__main__")
"""
    assert python(code) == (-signal.SIGINT, "", "")


COMMANDS: dict[str, str] = {
    "pipesd-agent": "-m pipesd_agent",
    "pipesd-agent start": "-m pipesd_agent start",
    "pipesd-agent chat": "-m pipesd_agent chat",
    "pipesd-gateway": "-m pipesd_gateway",
    "pipesd-gateway serve": "-m pipesd_gateway serve",
    "pipesd-vllm": "-c 'import sys; from pipesd_vllm.cli import main; sys.exit(main())'",
}
"""Every command of ours, as Python starts it."""
WRONG = dict.fromkeys(COMMANDS, "--port=x") | {"pipesd-agent chat": "--max-tokens=x", "pipesd-vllm": "x"}
"""Arguments that each refuses."""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_its_streams_as_they_are(name: str) -> None:
    """What they may be is in test_standard_streams; this is that each command begins so."""
    for command, code, said in (
        ("RUN --help >/dev/full", 1, "No space left on device"),
        ("RUN --help | true; exit ${PIPESTATUS[0]}", None, ""),
        (f"RUN {WRONG[name]} <&- >&- 2>&-", 2, ""),
    ):
        done = subprocess.run(
            ["bash", "-c", command.replace("RUN", f'"$python" {COMMANDS[name]}')],
            env={**os.environ, "python": sys.executable},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        lines = done.stderr.split("\n")[:-1]
        assert done.returncode in ((0, 141) if code is None else (code,)), (command, done)
        assert len(lines) == bool(said), (command, done)
        assert said in done.stderr
        assert all(line.startswith(f"{name.split()[0]}: cannot write to standard output: ") for line in lines)


def test_an_interrupt_at_the_very_end() -> None:
    code = """
import atexit, runpy
atexit.register(interrupt)
sys.argv = ["pipesd-agent", "--version"]
runpy.run_module("pipesd_agent", run_name="__main__")
"""
    exit_code, out, errors = python(code)
    assert (exit_code, errors) == (-signal.SIGINT, "")
    assert out.startswith("pipesd-agent ")


def test_an_interrupt_while_a_model_loads_is_not_waited_for() -> None:
    code = """
import asyncio, time
from pipesd_core.service.program import load_in_thread, run, run_program

def load():
    interrupt()
    time.sleep(50)

async def serve():
    await load_in_thread(load)

sys.exit(run("prog", lambda: run_program("prog", "info", serve())))
"""
    assert python(code) == (130, "", "")


def test_an_interrupt_while_chat_waits_for_an_agent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        command = [sys.executable, "-m", "pipesd_agent", "chat", "--url", url]
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        finally:
            signal.signal(signal.SIGINT, before)
        silent.settimeout(60)
        connection, _ = silent.accept()
        with connection, process:
            assert connection.recv(4) == b"GET "
            for _ in range(
                60
            ):  # one that comes just before a call of the kernel waits for its end, in any Python program
                os.kill(process.pid, signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(1)
                    break
            assert process.communicate(timeout=60) == ("", "")
            assert process.returncode == 130


async def test_loading() -> None:
    assert await load_in_thread(lambda: threading.current_thread().name) == "load"
    with pytest.raises(ModelLoadError, match="broken"):
        await load_in_thread(lambda: (_ for _ in ()).throw(ModelLoadError("broken")))


async def test_what_is_loaded_when_nobody_waits_any_more() -> None:
    done = threading.Event()
    task = asyncio.create_task(load_in_thread(lambda: done.wait(60)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    done.set()
    await asyncio.sleep(0.05)


def test_a_thread_may_run_a_command() -> None:
    """As tests do. Only the main thread can say what Ctrl-C does."""
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(run("prog", lambda: 5)))
    thread.start()
    thread.join(60)
    assert codes == [5]


def test_a_server_that_cannot_say_where_it_listens_serves_and_says_that() -> None:
    """A full disk, or whoever started it gone, is no reason to serve nobody."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [
                "bash",
                "-c",
                'exec "$0" -m pipesd_agent start --port 0 --gateway http://127.0.0.1:9 >/dev/full',
                sys.executable,
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    timer = threading.Timer(60, process.kill)
    timer.start()
    with process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "nobody is told" in line)
        assert "cannot write to standard output: No space left on device" in line
        found = re.search(r"listens, 127\.0\.0\.1:(\d+)", line)
        assert found is not None
        assert httpx.get(f"http://127.0.0.1:{found[1]}/health", timeout=30).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert "Traceback" not in process.stderr.read()
        assert process.wait(60) == 0
    timer.cancel()
