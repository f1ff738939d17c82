"""The table of docs/api.md says what the parameters that are not served may be; it is made from the code's."""

from __future__ import annotations

import re

from repository import ROOT

from pipesd_core.openai_parameters import SERVED, TABLE, Parameter
from pipesd_core.openai_values import show
from pipesd_core.protocol.messages import Endpoint
from pipesd_core.translation import parameters

PAGE = ROOT / "docs" / "api.md"
ONLY = {
    Endpoint.CHAT_COMPLETIONS: " (chat)",
    Endpoint.COMPLETIONS: " (completions)",
    Endpoint.RESPONSES: " (responses)",
    Endpoint.MESSAGES: " (messages)",
    None: "",
}


def row(parameter: Parameter) -> str:
    values = [f"`{show(value)}`" for value in parameter.neutral]
    if parameter.hint is not None:
        values.append(f"any: {parameter.hint}")
    return (
        f"| `{parameter.name}`{ONLY[parameter.endpoint]} | {parameter.meaning} | {', '.join(values) or 'null alone'} |"
    )


def table(parameters: tuple[Parameter, ...] = TABLE) -> str:
    return "\n".join(["| parameter | what it is | accepted |", "|---|---|---|", *map(row, parameters)])


def test_the_table_is_the_code_s() -> None:
    """To write it: `PYTHONPATH=tests:tests/helpers python -c "import test_parameters_doc as t; print(t.table())"`."""
    (found,) = re.findall(
        r"<!-- begin parameters -->\n\n(.*?)\n\n<!-- end parameters -->", PAGE.read_text("utf-8"), re.DOTALL
    )
    assert found == table()


def test_the_table_of_responses_and_messages_is_the_code_s() -> None:
    """To write it: as above, with `t.table(t.parameters.TABLE)`."""
    (found,) = re.findall(
        r"<!-- begin translated parameters -->\n\n(.*?)\n\n<!-- end translated parameters -->",
        PAGE.read_text("utf-8"),
        re.DOTALL,
    )
    assert found == table(parameters.TABLE)


def test_the_page_names_all_that_is_translated() -> None:
    (listed,) = re.findall(r"^\| served \|(.*?)$", PAGE.read_text("utf-8"), re.MULTILINE)
    for names, cell in zip(parameters.TRANSLATED.values(), listed.split("|"), strict=False):
        assert tuple(re.findall(r"`([a-z_]+)`", cell)) == names


def test_the_page_names_all_that_is_served() -> None:
    (listed,) = re.findall(r"streaming or not, with (.*?)choices in all", PAGE.read_text("utf-8"), re.DOTALL)
    named = set(re.findall(r"`([a-z_]+)`", listed))
    assert frozenset().union(*SERVED.values()) <= named | {"model"}
