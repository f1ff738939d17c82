"""Observers of a session."""

from __future__ import annotations

import inspect
from typing import Any

from pipesd_agent.session.observer import NullObserver, Observers, SessionObserver

EVENTS = [name for name, value in vars(SessionObserver).items() if inspect.isfunction(value) and name[0] != "_"]


class Noting:
    """Notes the events that it is told."""

    def __init__(self, name: str, noted: list[tuple[Any, ...]]) -> None:
        self._name, self._noted = name, noted

    def __getattr__(self, event: str) -> Any:
        return lambda *args: self._noted.append((self._name, event, *args))


def test_several_observers_are_each_told_every_event_in_their_order() -> None:
    noted: list[tuple[Any, ...]] = []
    observers = Observers(Noting("one", noted), Noting("two", noted))
    for event in EVENTS:
        count = len(inspect.signature(getattr(SessionObserver, event)).parameters) - 1
        getattr(observers, event)(*range(count))
        assert noted == [("one", event, *range(count)), ("two", event, *range(count))]
        noted.clear()


def test_the_null_observer_takes_every_event() -> None:
    for event in EVENTS:
        signature = inspect.signature(getattr(SessionObserver, event))
        assert inspect.signature(getattr(NullObserver, event)).parameters.keys() == signature.parameters.keys()
        getattr(NullObserver(), event)(*[None] * (len(signature.parameters) - 1))
