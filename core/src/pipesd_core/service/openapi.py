"""The OpenAPI description of an HTTP API of ours, served at /openapi.json.

It is data: `openapi_common.json` of this package, which is what both programs have, and the `openapi.json` of each laid
over it. Tests hold it to the routes, and to what the real programs answer (tests/e2e/test_schemathesis.py).
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

PATH = "/openapi.json"


def describe(package: str) -> dict[str, Any]:
    """The description of the program in `package`."""
    return _laid_over(_read("pipesd_core.service", "openapi_common.json"), _read(package, "openapi.json"))


def add_description(app: Starlette, package: str) -> None:
    """Serve the description of a package at `PATH`.

    It needs no key, as /health needs none: it is the same for everybody, tells nothing of this server's model or
    users, and says how to send a key.
    """
    data = msgspec.json.encode(describe(package))

    async def description(_: Request) -> Response:
        return Response(data, media_type="application/json")

    app.add_route(PATH, description, methods=["GET"])


def _read(package: str, name: str) -> dict[str, Any]:
    value: dict[str, Any] = msgspec.json.decode(files(package).joinpath(name).read_bytes())
    return value


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Merge objects at any depth; `above` replaces everything else."""
    merged = dict(below)
    for name, value in above.items():
        old = below.get(name)
        merged[name] = _laid_over(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
