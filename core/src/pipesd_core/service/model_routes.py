"""The routes of the models that a server has: OpenAI's list, and each entry of it by its id."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from pipesd_core.errors import ModelNotFound, Unavailable
from pipesd_core.openai_body import names_served_model
from pipesd_core.service.api_keys import Keys
from pipesd_core.service.http import json_response

MODELS = "/v1/models"


def add_model_routes(app: Starlette, keys: Keys, models: Callable[[], Sequence[dict[str, Any]]]) -> None:
    """Serve the entries that `models` gives at the moment; none: nobody knows them yet."""

    async def listed(request: Request) -> Response:
        keys.authorize(request)
        return json_response({"object": "list", "data": models()})

    async def one(request: Request) -> Response:
        keys.authorize(request)
        return json_response(_entry(models(), request.path_params["model"]))

    app.add_route(MODELS, listed, methods=["GET"])
    # A path: ids such as org/name come with their slash escaped, or not.
    app.add_route(f"{MODELS}/{{model:path}}", one, methods=["GET"])


def _entry(models: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    for model in models:
        if model.get("id") == name or (len(models) == 1 and names_served_model(name, model.get("id", ""))):
            return model
    if not models:
        raise Unavailable(f"whether there is a model {name[:128]!r} is not known yet: no gateway has said what it has")
    raise ModelNotFound(f"The model {name[:128]!r} does not exist", param="model")
