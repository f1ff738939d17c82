"""The fields of the OpenAI SDK's request types, and what becomes of each: the table of docs/api.md.

To write it: `PYTHONPATH=tests/helpers:. python -m sdk_fields`; vLLM's fields anew, where .venv-vllm is, with `--vllm`.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import Final, get_type_hints

from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params
from repository import ROOT

from pipesd_core import openai_parameters
from pipesd_core.openai_parameters import Parameter
from pipesd_core.protocol.messages import Endpoint
from pipesd_core.translation import parameters as translated

PAGE: Final = ROOT / "docs" / "api.md"
VLLM_FIELDS: Final = ROOT / "tests" / "helpers" / "vllm_fields.json"
"""Of vLLM's request types, by endpoint: `tests/vllm/test_vllm_parameters.py` holds it against what is installed."""
BETWEEN: Final = re.compile(r"(?<=<!-- begin fields -->\n\n).*?(?=\n\n<!-- end fields -->)", re.DOTALL)
SDK: Final[dict[Endpoint, type]] = {
    Endpoint.CHAT_COMPLETIONS: chat_create_params.CompletionCreateParamsStreaming,
    Endpoint.COMPLETIONS: completion_create_params.CompletionCreateParamsStreaming,
    Endpoint.RESPONSES: response_create_params.ResponseCreateParamsStreaming,
}
VLLM_TYPES: Final = {
    Endpoint.CHAT_COMPLETIONS: ("chat_completion", "ChatCompletionRequest"),
    Endpoint.COMPLETIONS: ("completion", "CompletionRequest"),
    Endpoint.RESPONSES: ("responses", "ResponsesRequest"),
}


def fields(endpoint: Endpoint) -> list[str]:
    """The fields of the installed SDK's type for the requests of an endpoint."""
    return sorted(get_type_hints(SDK[endpoint]))


def vllm_fields(endpoint: Endpoint) -> list[str]:
    """Those of the installed vLLM's type, from its source: to import it would take half a minute."""
    folder, name = VLLM_TYPES[endpoint]
    (source,) = ROOT.glob(f".venv-vllm/lib/python3*/site-packages/vllm/entrypoints/openai/{folder}/protocol.py")
    classes = (node for node in ast.parse(source.read_text("utf-8")).body if isinstance(node, ast.ClassDef))
    (request,) = (node for node in classes if node.name == name)
    annotated = (node.target for node in request.body if isinstance(node, ast.AnnAssign))
    return sorted(node.id for node in annotated if isinstance(node, ast.Name) and not node.id.startswith("_"))


def embedded(endpoint: Endpoint, name: str) -> str | None:
    """What the embedded engine does with a field, as the page says it; None: nobody has thought of it."""
    if endpoint in translated.TRANSLATED and name in translated.TRANSLATED[endpoint]:
        return "served"
    for parameter in translated.TABLE:
        if parameter.name == name and parameter.endpoint is endpoint:
            return _not_served(parameter)
    chat = Endpoint.CHAT_COMPLETIONS if endpoint in translated.TRANSLATED else endpoint
    if name in openai_parameters.SERVED[chat]:
        return "served"
    for parameter in openai_parameters.TABLE:
        if parameter.name == name and parameter.endpoint in (None, chat):
            return _not_served(parameter)
    return None


def _not_served(parameter: Parameter) -> str:
    if parameter.hint is not None:
        return "changes nothing"
    return "neutral only" if parameter.neutral else "refused"


def table() -> str:
    """The table as it stands in the page: a row for each field, a pair of columns for each endpoint."""
    on_vllm = json.loads(VLLM_FIELDS.read_text("utf-8"))
    names = sorted(set().union(*map(fields, SDK)))
    lines = [
        "| field | chat | with vLLM | completions | with vLLM | responses | with vLLM |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in names:
        cells = []
        for endpoint in SDK:
            if name in fields(endpoint):
                cells += [embedded(endpoint, name) or "?", "vLLM's" if name in on_vllm[endpoint.name] else "ignored"]
            else:
                cells += ["", ""]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    if "--vllm" in sys.argv:
        read = {endpoint.name: vllm_fields(endpoint) for endpoint in VLLM_TYPES}
        Path(VLLM_FIELDS).write_text(json.dumps(read, indent=1) + "\n", "utf-8")
    page, count = BETWEEN.subn(lambda _: table(), PAGE.read_text("utf-8"))
    if count != 1:
        sys.exit(f"{PAGE} has no one place for the table")
    PAGE.write_text(page, "utf-8")


if __name__ == "__main__":
    main()
