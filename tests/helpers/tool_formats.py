"""Chat templates that teach each of the known formats of calls, and answers written in them."""

from __future__ import annotations

import json
from typing import Any, Final

from pipesd_core.llamacpp.openai.tool_calls import HERMES, LLAMA3, MISTRAL, CallFormat

_TOLD: Final = "{% if tools %}<tools>{{ tools | tojson }}</tools>{% endif %}"
_CHAT: Final = "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
_END: Final = "</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
CALLS: Final[dict[str, str]] = {
    HERMES.name: """{% for c in m.tool_calls %}<tool_call>
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}
</tool_call>{% endfor %}""",
    LLAMA3.name: """{% for c in m.tool_calls %}{{ '; ' if not loop.first }}{"name": "{{ c.function.name }}", \
"parameters": {{ c.function.arguments | tojson }}}{% endfor %}""",
    MISTRAL.name: """{% if m.tool_calls %}{% if m.tool_calls[0].id | length != 9 %}{{ raise_exception("id") }}\
{% endif %}[TOOL_CALLS] [{% for c in m.tool_calls %}{{ ', ' if not loop.first }}{{ (c.function | tojson)[:-1] }}, \
"id": "{{ c.id }}"}{% endfor %}]{% endif %}""",
}
"""The part of a template that writes a message's calls, by format."""


def template(calls: str = "", *, told: bool = True) -> str:
    """A chat template. calls: its part that writes calls. told: it tells the model of the tools."""
    return (_TOLD if told else "") + _CHAT + calls + _END


def written(
    form: CallFormat, called: list[tuple[str, dict[str, Any]]], blank: str = " ", indent: int | None = None
) -> str:
    """Calls as a model writes them."""
    key = "parameters" if form is LLAMA3 else "arguments"
    objects = [json.dumps({"name": name, key: arguments}, indent=indent) for name, arguments in called]
    if form is HERMES:
        return blank.join(f"<tool_call>{blank}{one}{blank}</tool_call>" for one in objects)
    inner = f"{blank}{form.separator}{blank}".join(objects)
    return form.opening + (f"{blank}[{blank}{inner}{blank}]" if form.listed else blank + inner)
