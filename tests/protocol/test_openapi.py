"""The descriptions that both programs serve: valid, and of the routes and limits that there are, no more and no less.

Whether the programs answer as described is for tests/e2e/test_schemathesis.py to find out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, cast

import httpx
import jsonschema_rs
import pytest
from repository import ROOT
from starlette.applications import Starlette
from starlette.routing import Route

from pipesd_agent.agent import Agent
from pipesd_agent.api import app
from pipesd_core import openai_parameters
from pipesd_core.engine import choices
from pipesd_core.engine.interface import Engine
from pipesd_core.llamacpp.openai import chat_messages, logits_processing, request, tools
from pipesd_core.protocol import messages
from pipesd_core.protocol.messages import Endpoint
from pipesd_core.service.api_keys import Keys
from pipesd_core.service.openapi import PATH, describe
from pipesd_gateway import api, verify_api

API = ROOT / "docs" / "api.md"
PACKAGES = ["pipesd_gateway", "pipesd_agent"]


def app_of(package: str, keys: Keys | None = None) -> Starlette:
    """Its routes; nothing that they do works."""
    if package == "pipesd_gateway":
        return api.create_app(cast(Engine, None), keys=keys)
    return app.create_app(cast(Agent, None), keys=keys)


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for part in value.values():
            yield from references(part)
    elif isinstance(value, list):
        for part in value:
            yield from references(part)


def at(description: dict[str, Any], reference: str) -> Any:
    assert reference.startswith("#/")
    found: Any = description
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_every_route_is_described_and_nothing_else(package: str) -> None:
    routes = {
        (route.path_format, method.lower())
        for route in app_of(package).routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}  # comes with every GET
    }
    described = {(path, method) for path, methods in describe(package)["paths"].items() for method in methods}
    assert routes == described


@pytest.mark.parametrize("package", PACKAGES)
async def test_it_is_served_without_a_key(package: str) -> None:
    transport = httpx.ASGITransport(app_of(package, Keys(frozenset({"k"}))))
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        response = await client.get(PATH)
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/json"
        assert response.json() == describe(package)
        for path, methods in describe(package)["paths"].items():
            for method, operation in methods.items():
                if operation["security"]:
                    answer = await client.request(method, path)
                    assert answer.status_code == 401, (path, answer.text)


@pytest.mark.parametrize("package", PACKAGES)
def test_it_is_valid(package: str) -> None:
    description = describe(package)
    assert description["openapi"] == "3.1.0"
    for reference in references(description):
        at(description, reference)
    used = set(references(description))
    for kind in ("responses", "headers"):
        own = {f"#/components/{kind}/{name}" for name in description["components"][kind]}
        assert own - used <= {"#/components/responses/Mismatch"}
    for name, schema in description["components"]["schemas"].items():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})
        jsonschema_rs.validator_for({"$ref": f"#/components/schemas/{name}", "components": description["components"]})
    ids = [operation["operationId"] for methods in description["paths"].values() for operation in methods.values()]
    assert len(set(ids)) == len(ids)
    for methods in description["paths"].values():
        for operation in methods.values():
            assert bool(operation["security"]) == ("401" in operation["responses"])


def test_limits_are_those_of_the_code() -> None:
    schemas = describe("pipesd_gateway")["components"]["schemas"]
    common, chat, completions = (
        schemas[name]["properties"] for name in ("Parameters", "ChatRequest", "CompletionRequest")
    )
    numbers, until_the_context_ends = common["max_tokens"]["anyOf"]
    assert numbers["maximum"] == request.MAX_TOKENS
    assert until_the_context_ends == {"const": request.UNTIL_CONTEXT_ENDS}
    assert common["n"]["maximum"] == choices.MAX_CHOICES
    assert completions["best_of"]["maximum"] == choices.MAX_CHOICES
    one, several_stops = common["stop"]["anyOf"][1:]
    assert several_stops["maxItems"] == request.MAX_STOPS
    assert one["maxLength"] == several_stops["items"]["maxLength"] == request.MAX_STOP_CHARS
    assert common["logit_bias"]["additionalProperties"]["maximum"] == logits_processing.MAX_BIAS
    assert common["repetition_penalty"]["maximum"] == logits_processing.MAX_REPETITION
    assert common["repetition_penalty"]["minimum"] == 1 / logits_processing.MAX_REPETITION
    assert chat["top_logprobs"]["maximum"] == logits_processing.MAX_TOP_LOGPROBS
    assert completions["logprobs"]["anyOf"][0]["maximum"] == logits_processing.MAX_COMPLETION_LOGPROBS
    assert tuple(schemas["Message"]["properties"]["role"]["enum"]) == chat_messages.ROLES
    part = schemas["Message"]["properties"]["content"]["anyOf"][1]["items"]
    assert set(part["properties"]) - {"type", "text"} == chat_messages.PART_HINTS
    assert chat["tools"]["maxItems"] == tools.MAX_TOOLS
    assert schemas["Tool"]["properties"]["function"]["properties"]["name"]["maxLength"] == tools.MAX_NAME_CHARS
    assert set(schemas["Tool"]["properties"]) - {"type", "function"} == chat_messages.PART_HINTS
    longest = describe("pipesd_agent")["components"]["headers"]["Ignored"]["schema"]["maxLength"]
    assert longest == 2 * messages.MAX_IGNORED_CHARS + len(", "), "the agent's list and its gateway's"
    batch = schemas["VerifyRequest"]["properties"]["requests"]
    assert batch["maxItems"] == verify_api.MAX_REQUESTS
    assert set(batch["items"]["properties"]) == set(verify_api.RawRequest.__struct_fields__)


@pytest.mark.parametrize("package", PACKAGES)
def test_both_endpoints_take_the_same_parameters_and_all_that_the_page_names(package: str) -> None:
    schemas = describe(package)["components"]["schemas"]
    common = set(schemas["Parameters"]["properties"])
    chat, completions = (set(schemas[name]["properties"]) for name in ("ChatRequest", "CompletionRequest"))
    assert common <= chat & completions
    for endpoint, described in ((Endpoint.CHAT_COMPLETIONS, chat), (Endpoint.COMPLETIONS, completions)):
        assert openai_parameters.SERVED[endpoint] <= described
        assert all(map(openai_parameters.is_known, described))
    text = API.read_text("utf-8")
    (listed,) = re.findall(r"streaming or not, with (.*?)choices in all", text, re.DOTALL)
    assert set(re.findall(r"`([a-z_]+)`", listed)) <= chat | completions
