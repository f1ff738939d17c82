"""Variations of the textbook functions: other questions, names, parameters and annotations.

A small model that sees a function always in the same words learns the words by heart; with variations it also
learns to take the name from the question.
"""

from __future__ import annotations

import ast
import random
import re
from dataclasses import replace

from functions import Function, chat, standalone

PARAMETERS = {
    "numbers": ("nums", "values", "lst", "xs", "arr"),
    "items": ("lst", "values", "elements", "arr", "seq"),
    "text": ("s", "string", "sentence", "word"),
    "n": ("num", "number", "k"),
    "words": ("strings", "names"),
    "result": ("res", "output", "out"),
}
NAMES = ("get_{}", "compute_{}", "my_{}", "find_{}", "{}_of", "calculate_{}", "{}_function", "do_{}", "simple_{}")


def third_person(doc: str) -> str:
    """ "Return the sum." -> "It returns the sum."; texts that do not begin with a verb stay."""
    verb, _, rest = doc.partition(" ")
    if not re.fullmatch("[A-Z][a-z]+", verb) or (verb.endswith("s") and verb != "Compress") or verb == "Decorator":
        return doc
    verb = verb.lower()
    if verb.endswith("y") and verb[-2] not in "aeiou":
        verb = verb[:-1] + "ie"
    if verb.endswith(("s", "sh", "ch", "x")):
        verb += "e"
    return f"It {verb}s {rest}"


def strip_annotations(code: str) -> str:
    """The code with a plain signature (textbook signatures stand on one line)."""
    node = next(n for n in ast.parse(code).body if isinstance(n, ast.FunctionDef))
    for argument in (*node.args.args, node.args.vararg, node.args.kwarg):
        if argument is not None:
            argument.annotation = None
    lines = code.splitlines()
    lines[node.lineno - 1] = f"def {node.name}({ast.unparse(node.args)}):"
    return "\n".join(lines)


def outside_quotes(code: str, old: str, new: str) -> str:
    """Rename a word in the code but not in strings."""
    parts = re.split(r'("""[\s\S]*?"""|"[^"\n]*")', code)
    return "".join(p if i % 2 else re.sub(rf"(?<!\.)\b{old}\b", new, p) for i, p in enumerate(parts))


def vary(f: Function, also: list[str], rng: random.Random) -> Function:
    """A random variation of a function."""
    doc = rng.choice([f.doc, *also]) if rng.random() < 0.6 else f.doc
    name = f.name
    if rng.random() < 0.3:
        name = rng.choice(NAMES).format(f.name)
    if name.endswith("_list") and rng.random() < 0.5:
        name = name.removesuffix("_list")
    annotated = rng.random() < 0.35
    renames = {p: rng.choice(new) for p, new in PARAMETERS.items() if rng.random() < 0.25}
    # A new name must not be in use already; ``n`` and ``result`` are common enough for that to happen.
    renames = {old: new for old, new in renames.items() if not re.search(rf"\b{new}\b", f.bare)}
    if len(set(renames.values())) < len(renames):
        renames = {}

    def change(code: str) -> str:
        code = code.replace(f.doc, doc)
        code = re.sub(rf"\b{f.name}(?=\()", name, code)
        for old, new in renames.items():
            code = outside_quotes(code, old, new)
        return code if annotated else strip_annotations(code)

    imports, full = f.imports, change(f.full)
    if annotated and rng.random() < 0.6 and "list[" in full:
        full = re.sub(r"\blist\[", "List[", full)
        imports = "from typing import List"
    brief, bare = change(f.brief), change(f.bare)
    return replace(f, name=name, doc=doc, imports=imports, full=full, brief=brief, bare=bare)


def lesson(f: Function, also: list[str], rng: random.Random) -> str:
    """One training text: mostly a chat turn, else a stand-alone function."""
    g = vary(f, also, rng)
    if rng.random() < 0.4:
        return standalone(g, rng)
    if rng.random() < 0.4:
        g = replace(g, doc=third_person(g.doc))
    # In an answer the imports only matter where the code uses typing.List, and there it does not.
    return chat([replace(g, imports="")], rng)
