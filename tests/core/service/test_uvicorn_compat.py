"""What we touch of uvicorn's private parts is declared, is there, and is missed by name when it is not."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from importlib.metadata import version
from types import FunctionType

import pytest
import uvicorn
from packaging.specifiers import SpecifierSet
from repository import ROOT
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from pipesd_core.errors import ConfigError
from pipesd_core.service import uvicorn_compat
from pipesd_core.service.limits import BoundedHttp, BoundedWebSocket, KeptAlive
from pipesd_core.service.server import Server
from pipesd_core.service.uvicorn_compat import Part

OURS = (BoundedHttp, BoundedWebSocket, KeptAlive, Server)
NOT_THEIRS = {"headers"}
"""Attributes that our classes use and that are not uvicorn's: one of an error of ours."""


def declared(of: type) -> Part:
    """What is declared of a class of uvicorn."""
    return uvicorn_compat.CLASSES[f"{of.__module__}:{of.__qualname__}"]


def base_of(ours: type) -> type:
    """uvicorn's class that ours extends."""
    return next(base for base in ours.__mro__ if base.__module__.startswith("uvicorn"))


def test_everything_is_where_it_was() -> None:
    uvicorn_compat.check()


def test_the_installed_version_is_a_tested_one() -> None:
    project = tomllib.loads((ROOT / "core" / "pyproject.toml").read_text())["project"]
    assert f"uvicorn{uvicorn_compat.TESTED}" in project["optional-dependencies"]["serve"]
    assert version("uvicorn") in SpecifierSet(uvicorn_compat.TESTED)


@pytest.mark.parametrize("ours", OURS, ids=lambda ours: ours.__name__)
def test_every_function_that_is_overridden_is_declared(ours: type) -> None:
    base = base_of(ours)
    overridden = {name for name in vars(ours) if hasattr(base, name) and not hasattr(object, name)}
    assert overridden
    assert overridden <= set(declared(base).methods)


@pytest.mark.parametrize("ours", OURS, ids=lambda ours: ours.__name__)
def test_every_attribute_that_is_used_is_declared(ours: type) -> None:
    base = base_of(ours)
    init: object = base.__init__  # type: ignore[misc]
    assert isinstance(init, FunctionType)
    theirs = set(init.__code__.co_names) - set(init.__globals__) - set(declared(base).methods)
    functions = [value.fget if isinstance(value, property) else value for value in vars(ours).values()]
    used = {name for one in functions if isinstance(one, FunctionType) for name in one.__code__.co_names}
    assert used & theirs - NOT_THEIRS <= set(declared(base).attributes)


@pytest.mark.parametrize(
    ("break_", "says"),
    [
        (lambda patch: patch.delattr(H11Protocol, "_should_upgrade"), "H11Protocol._should_upgrade is gone"),
        (
            lambda patch: patch.setattr(WebSocketsSansIOProtocol, "handle_ping", BoundedWebSocket.handle_cont),
            "WebSocketsSansIOProtocol.handle_ping takes (self,event), expected (self)",
        ),
        (lambda patch: patch.delattr(uvicorn.Server, "on_tick"), "uvicorn.server:Server.on_tick is gone"),
        (
            lambda patch: patch.setattr(H11Protocol, "__init__", Server.__init__),
            "H11Protocol.__init__ sets no timeout_keep_alive_task",
        ),
        (lambda patch: patch.delattr("uvicorn.server.ServerState"), "uvicorn.server:ServerState.__init__ is gone"),
    ],
)
def test_what_has_moved_is_named(
    break_: Callable[[pytest.MonkeyPatch], None], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_(monkeypatch)
    with pytest.raises(ConfigError) as refused:
        Server(lambda: None, _nothing)
    assert says in str(refused.value)
    assert f"uvicorn {version('uvicorn')} " in str(refused.value)


def test_a_module_that_is_gone_is_named() -> None:
    table: Mapping[str, Part] = {"uvicorn.nowhere:Nothing": Part(methods={"run": "self"}, attributes=("x",))}
    with pytest.raises(ConfigError, match=r"uvicorn\.nowhere:Nothing\.run is gone .*Nothing\.__init__ is gone"):
        uvicorn_compat.check(table)


async def _nothing() -> None: ...
