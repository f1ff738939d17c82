"""Cut documented functions out of Python source and turn them into training texts.

Two kinds of text are made of a function: a stand-alone function (the shape of a HumanEval completion), and
a chat turn that asks for the function and answers with its code in a fence.
"""

from __future__ import annotations

import ast
import random
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

# {name}, {doc}, {what} = doc with a small first letter and no full stop. The first form is the commonest on
# purpose: the product's own examples ask in this way.
QUESTIONS = (
    ("Write a Python function `{name}`. {doc}", 60),
    ("Write a Python function named `{name}`. {doc}", 8),
    ("Write a function `{name}` in Python. {doc}", 8),
    ("Please write a Python function `{name}`. {doc}", 6),
    ("Implement a Python function `{name}`. {doc}", 6),
    ("Implement `{name}` in Python: {what}.", 5),
    ("Write a Python function that does the following: {what}. Call it `{name}`.", 4),
    ("{doc} Write it as a Python function `{name}`.", 3),
)
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a helpful coding assistant.",
    "You write Python code.",
    "You are a careful Python programmer. Answer with code.",
)


@dataclass(frozen=True)
class Function:
    """A documented function, dedented and without decorators."""

    name: str
    doc: str  # first paragraph of the docstring, on one line
    imports: str  # the import lines of its module that it needs; may be empty
    full: str  # the code with its own docstring
    brief: str  # the code with only the first paragraph as docstring
    bare: str  # the code without docstring
    method: bool  # takes self or cls


def module_imports(tree: ast.Module) -> dict[str, str]:
    """Which import statement binds which name at module level (no relative imports)."""
    bound: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.asname or alias.name.split(".")[0]
                bound[name] = ast.unparse(ast.Import([alias]))
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            for alias in node.names:
                statement = ast.ImportFrom(node.module, [alias], 0)
                bound[alias.asname or alias.name] = ast.unparse(statement)
    return bound


def wrap(text: str, indent: str, width: int = 90) -> list[str]:
    """A docstring of one paragraph as source lines."""
    quoted = f'{indent}"""{text}"""'
    if len(quoted) <= width:
        return [quoted]
    lines, current = [], f'{indent}"""'
    for word in text.split():
        if len(current) + len(word) + 1 > width:
            lines.append(current)
            current = indent + word
        else:
            current += word if current.endswith('"""') else " " + word
    return [*lines, current, f'{indent}"""']


def cut(node: ast.FunctionDef, lines: list[str], imports: dict[str, str]) -> Function | None:
    """One function, or None where it is not of a useful shape."""
    doc = ast.get_docstring(node)
    if not doc or node.name.startswith(("test", "__")) or len(node.body) < 2:
        return None
    brief_doc = re.sub(r"\s+", " ", doc.strip().split("\n\n")[0]).strip()
    docstring, first = node.body[0], node.body[1]
    length = (node.end_lineno or 0) - first.lineno + 1
    if not 15 < len(brief_doc) < 350 or not 2 <= length <= 28 or not brief_doc.isascii():
        return None
    if any(mark in brief_doc for mark in (":param", ">>>", "\\", '"""', ".. ", "TODO", "XXX", "----")):
        return None
    if isinstance(first, (ast.Raise, ast.Pass)) or docstring.lineno == node.lineno:
        return None
    start, end = node.lineno - 1, node.end_lineno or 0
    indent = lines[start][: len(lines[start]) - len(lines[start].lstrip())]
    if not lines[start].lstrip().startswith("def "):
        return None

    def dedent(part: list[str]) -> list[str]:
        return [line.removeprefix(indent).rstrip() for line in part]

    body_indent = " " * docstring.col_offset
    head, tail = lines[start : docstring.lineno - 1], lines[docstring.end_lineno or 0 : end]
    if not head or not tail:
        return None
    names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    wanted = sorted({imports[name] for name in names if name in imports})
    arguments = [a.arg for a in node.args.args]
    return Function(
        name=node.name,
        doc=brief_doc,
        imports="\n".join(wanted) if len(wanted) <= 3 else "",
        full="\n".join(dedent(lines[start:end])),
        brief="\n".join(dedent(head + wrap(brief_doc, body_indent) + tail)),
        bare="\n".join(dedent(head + tail)),
        method=bool(arguments) and arguments[0] in ("self", "cls"),
    )


def functions(source: str) -> Iterator[Function]:
    """All useful functions of a file, those nested in functions left out."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in the corpus are no concern of ours
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return
    lines, imports = source.splitlines(), module_imports(tree)
    stack: list[ast.AST] = [tree]
    while stack:
        for child in ast.iter_child_nodes(stack.pop()):
            if isinstance(child, (ast.ClassDef, ast.If, ast.Try)):
                stack.append(child)
            elif isinstance(child, ast.FunctionDef):
                found = cut(child, lines, imports)
                if found:
                    yield found


def question(f: Function, rng: random.Random) -> str:
    """What the user asks for."""
    form = rng.choices([q for q, _ in QUESTIONS], [w for _, w in QUESTIONS])[0]
    doc = f.doc if f.doc.endswith((".", "!", "?", ":")) else f.doc + "."
    return form.format(name=f.name, doc=doc, what=(doc[0].lower() + doc[1:]).rstrip("."))


def chat_turn(f: Function, rng: random.Random) -> str:
    """A question and its answer, in the chat template's own marks."""
    code = f.brief if rng.random() < 0.7 else f.bare
    if f.imports and rng.random() < 0.5:
        code = f"{f.imports}\n\n\n{code}"
    return f"<|user|>{question(f, rng)}<|assistant|>```python\n{code}\n```<|end|>"


def chat(fs: list[Function], rng: random.Random) -> str:
    """A conversation of one turn a function, sometimes with a system prompt."""
    system = f"<|system|>{rng.choice(SYSTEM_PROMPTS)}" if rng.random() < 0.1 else ""
    return system + "".join(chat_turn(f, rng) for f in fs)


def standalone(f: Function, rng: random.Random) -> str:
    """A function as a document of its own, with the imports it needs."""
    code = f.full if len(f.full) < 1800 and rng.random() < 0.6 else f.brief
    return (f"{f.imports}\n\n\n{code}" if f.imports else code) + "\n"
