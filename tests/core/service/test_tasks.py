from __future__ import annotations

import asyncio
import logging

import pytest

from pipesd_core.errors import Unavailable
from pipesd_core.service import tasks as tasks_module
from pipesd_core.service.tasks import Tasks


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks_module, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(tasks_module, "LONGEST_PAUSE_S", 0.002)


class Work:
    """Does what it is told at each start, and then waits."""

    def __init__(self, *ends: BaseException | None) -> None:
        self.ends = list(ends)
        self.starts = 0
        self.waiting = asyncio.Event()

    async def __call__(self) -> None:
        self.starts += 1
        if self.ends:
            end = self.ends.pop(0)
            if end is not None:
                raise end
            return
        self.waiting.set()
        await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("end", "why"),
    [
        (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero"),
        (ValueError(), "ValueError"),
        (None, "it ended"),
        (asyncio.CancelledError(), "CancelledError"),
    ],
)
async def test_what_dies_is_named_until_it_has_run_for_a_while(
    end: BaseException | None, why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tasks, work = Tasks(), Work(end)
    tasks.check()
    tasks.start("figures", work)
    async with asyncio.timeout(10):
        await work.waiting.wait()
    assert work.starts == 2
    assert tasks.faults == {"figures": why}
    with pytest.raises(Unavailable) as down:
        tasks.check()
    assert str(down.value) == f"down in this program: figures ({why}); see its log"
    await tasks.aclose()
    assert f"the task 'figures' died ({why}); it is started again" in caplog.messages

    monkeypatch.setattr(tasks_module, "STEADY_S", 0.01)
    work = Work(end)
    tasks.start("figures", work)
    async with asyncio.timeout(10):
        while "the task 'figures' runs again" not in caplog.messages:  # noqa: ASYNC110 - of another task
            await asyncio.sleep(0.005)
    assert not tasks.faults
    tasks.check()
    await tasks.aclose()
    await tasks.aclose()


async def test_the_same_death_is_logged_once_and_another_one_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    tasks = Tasks()
    work = Work(*[OSError("no route")] * 5, OSError("refused"), *[OSError("no route")] * 3)
    tasks.start("figures", work)
    async with asyncio.timeout(10):
        await work.waiting.wait()
    await tasks.aclose()
    assert work.starts == 10
    assert [message.split("(")[1].split(")")[0] for message in caplog.messages] == [
        "OSError: no route",
        "OSError: refused",
        "OSError: no route",
    ]


async def test_pauses_grow_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks_module, "FIRST_PAUSE_S", 0.5)
    monkeypatch.setattr(tasks_module, "LONGEST_PAUSE_S", 30.0)
    paused: list[float] = []
    work, sleep = Work(*[OSError()] * 9), asyncio.sleep

    async def noted(seconds: float) -> None:
        paused.append(seconds)
        await sleep(0)

    monkeypatch.setattr("random.uniform", lambda _, most: most)
    monkeypatch.setattr("pipesd_core.service.tasks.asyncio.sleep", noted)
    tasks = Tasks()
    tasks.start("figures", work)
    async with asyncio.timeout(10):
        await work.waiting.wait()
    await tasks.aclose()
    assert paused == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


async def test_threads_and_processes_are_watched() -> None:
    tasks = Tasks()
    why: list[str | None] = [None, "MemoryError"]
    tasks.watch("drafter", lambda: why[0])
    tasks.watch("decode thread", lambda: why[1])
    assert tasks.faults == {"decode thread": "MemoryError"}
    with pytest.raises(Unavailable, match=r"decode thread \(MemoryError\); see"):
        tasks.check()
    why[0] = "RuntimeError: no"
    with pytest.raises(Unavailable, match=r"drafter \(RuntimeError: no\); decode thread \(MemoryError\)"):
        tasks.check()
    why[:] = [None, None]
    tasks.check()


async def test_an_owner_that_dies_is_named_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("random.uniform", lambda *_: "no number")
    tasks = Tasks()
    tasks.start("figures", Work(OSError("x")))
    async with asyncio.timeout(10):
        while "died for good" not in caplog.text:  # noqa: ASYNC110 - of another task
            await asyncio.sleep(0.005)
    assert tasks.faults["figures"].startswith("TypeError")
    await tasks.aclose()
