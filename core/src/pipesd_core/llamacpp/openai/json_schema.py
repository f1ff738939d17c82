"""JSON schemas to llama.cpp grammars (GBNF).

Every text of the grammar satisfies the schema; the grammar is narrower in form only: properties in the schema's order
and none beside them, whitespace of one blank or one line break with indentation, numbers of at most 16 digits. A
keyword that this module cannot hold an answer to is refused by name, none is ignored but annotations.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NoReturn

import msgspec

from pipesd_core.errors import InvalidRequest
from pipesd_core.llamacpp.openai.json_schema_bounds import Node, Tag, is_bounded
from pipesd_core.openai_values import show, whole

MAX_SCHEMA_BYTES: Final = 65_536
MAX_RULES: Final = 1024
"""Values of an enum count as well. With so many a step of the grammar takes some 10 ms."""
MAX_DEPTH: Final = 64
MAX_REPEATS: Final = 1000
"""Largest maxItems, maxLength and their minima; llama.cpp's own limit is 2000."""
MAX_ALL_REPEATS: Final = 20_000
"""The sum of these over a schema: llama.cpp unrolls them, which takes about 0.1 s."""

_ANNOTATIONS: Final = frozenset(
    ("title", "description", "default", "examples", "$schema", "$comment", "deprecated", "readOnly", "writeOnly")
)
_OF_TYPE: Final = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "minItems", "maxItems"),
    "string": ("minLength", "maxLength"),
    "number": (),
    "integer": (),
    "boolean": (),
    "null": (),
}
_COMMON: Final = {
    "ws": r'( " " | "\n" [ \t]{0,20} )?',
    "hex": "[0-9a-fA-F]",
    # One character of the text of a string, so that lengths count what JSON counts: no halves of surrogate pairs.
    "char": r'[^"\\\x00-\x1F\x7F] | "\\" ( ["\\/bfnrt] | "u" ( [0-9a-cA-CeEfF] hex hex hex | [dD] [0-7] hex hex ) )',
    "string": r'"\"" char* "\""',
    "integer": '"-"? ( "0" | [1-9] [0-9]{0,15} )',
    "number": 'integer ( "." [0-9]{1,15} )? ( [eE] [-+]? [1-9] [0-9]? )?',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "value": "object | array | string | number | boolean | null",
    "object": r'"{" ws ( "}" | member more-members )',
    "member": 'string ":" ws value',
    "more-members": r'"," ws member more-members | ws "}"',
    "array": '"[" ws ( "]" | value more-values )',
    "more-values": '"," ws value more-values | ws "]"',
}

JSON_OBJECT: Final = "\n".join(f"{name} ::= {body}" for name, body in {"root": "object", **_COMMON}.items())
"""The grammar of any JSON object."""


def grammar_of(schema: Any, where: str) -> str:
    """The grammar of the texts that a schema describes.

    where: the schema's place in the request, for messages. Raises InvalidRequest.
    """
    size = len(msgspec.json.encode(schema))
    if size > MAX_SCHEMA_BYTES:
        raise InvalidRequest(f"{where} has {size} bytes, but may have {MAX_SCHEMA_BYTES}", param=where)
    return _Converter(schema, where).grammar()


class _Converter:
    def __init__(self, root: Any, where: str) -> None:
        self._root = root
        self._where = where
        self._rules: dict[str, str] = {}
        self._refs: dict[str, str] = {}
        self._nodes = {  # of the rules in `_COMMON`
            "object": Node("object", ()), "array": Node("array", ()), "value": Node("union", ("object", "array"))
        }  # fmt: skip
        self._values_of: dict[str, frozenset[str]] = {}
        self._size = 0
        self._repeats = 0
        self._depth = 0

    def grammar(self) -> str:
        self._rules["root"] = self._visit(self._root, self._where)
        if not is_bounded(self._nodes):
            raise InvalidRequest(
                f"{self._where} has an anyOf of objects or arrays that begin alike and contain each other, or too many "
                "such: make a required property with a const of its own the first of each object",
                param=self._where,
            )
        return "\n".join(f"{name} ::= {body}" for name, body in {**self._rules, **_COMMON}.items())

    def _new(self, where: str) -> str:
        """A rule's name; its body comes later, so that schemas may refer to themselves."""
        self._size += 1
        if self._size > MAX_RULES:
            raise InvalidRequest(f"{where}: the schema needs more than {MAX_RULES} rules; simplify it", param=where)
        name = f"r{len(self._rules)}"
        self._rules[name] = ""
        return name

    def _rule(self, body: str, where: str) -> str:
        name = self._new(where)
        self._rules[name] = body
        return name

    def _visit(self, schema: Any, where: str) -> str:
        """The name of a schema's rule."""
        if schema is True:
            return "value"
        if not isinstance(schema, dict):
            raise InvalidRequest(f"{where} must be a schema, but is {show(schema)}", param=where)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise InvalidRequest(f"{where} is nested deeper than {MAX_DEPTH} levels", param=where)
        try:
            return self._keywords({k: v for k, v in schema.items() if k not in _ANNOTATIONS}, where)
        finally:
            self._depth -= 1

    def _keywords(self, schema: dict[str, Any], where: str) -> str:
        left = {name: value for name, value in schema.items() if name not in {"$defs", "definitions"}}
        if "$ref" in left:
            return self._ref(_only(left, "$ref", (), where), where)
        if "anyOf" in left:
            return self._any_of(_only(left, "anyOf", (), where), f"{where}.anyOf")
        if "allOf" in left:
            parts = _only(left, "allOf", (), where)
            if not isinstance(parts, list) or len(parts) != 1:
                _refuse(f"{where}.allOf", "of other than one schema")
            return self._visit(parts[0], f"{where}.allOf[0]")
        kinds = _types(left.pop("type", None), where)
        if "const" in left:
            return self._values([_only(left, "const", (), where)], kinds, where)
        if "enum" in left:
            values = _only(left, "enum", (), where)
            if not isinstance(values, list):
                _refuse(f"{where}.enum", "that is no list")
            return self._values(values, kinds, where)
        allowed = {name for kind in kinds or _OF_TYPE for name in _OF_TYPE[kind]}
        for name in left:
            if name not in allowed:
                _refuse(f"{where}.{name}", f"in a schema of type {' or '.join(kinds)}" if kinds else "")
        if not kinds and not left:
            return "value"
        rules = [self._of_type(kind, left, where) for kind in kinds or _OF_TYPE if kinds or kind != "integer"]
        return rules[0] if len(rules) == 1 else self._union(rules, where)

    def _of_type(self, kind: str, schema: dict[str, Any], where: str) -> str:
        own = {name: schema[name] for name in _OF_TYPE[kind] if name in schema}
        if not own:
            return kind
        if kind == "object":
            return self._object(own, where)
        if kind == "array":
            return self._array(own, where)
        least, most = self._bounds(own, "minLength", "maxLength", where)
        return self._rule(rf'"\"" char{{{least},{"" if most is None else most}}} "\""', where)

    def _bounds(self, schema: dict[str, Any], low: str, high: str, where: str) -> tuple[int, int | None]:
        bounds = {}
        for name, value in ((name, schema[name]) for name in (low, high) if name in schema):
            bound = whole(value)
            if bound is None or not 0 <= bound <= MAX_REPEATS:
                raise InvalidRequest(
                    f"{where}.{name} must be an integer from 0 to {MAX_REPEATS}, but is {show(value)}",
                    param=f"{where}.{name}",
                )
            bounds[name] = bound
        least, most = bounds.get(low, 0), bounds.get(high)
        if most is not None and most < least:
            raise InvalidRequest(
                f"{where}.{high} is {most}, less than {low}, which is {least}", param=f"{where}.{high}"
            )
        self._repeats += least if most is None else most
        if self._repeats > MAX_ALL_REPEATS:
            raise InvalidRequest(
                f"{where}: all {low}, {high} and their like add up to more than {MAX_ALL_REPEATS}; lower or omit some",
                param=where,
            )
        return least, most

    def _ref(self, ref: Any, where: str) -> str:
        if not isinstance(ref, str) or not (ref == "#" or ref.startswith("#/")):
            _refuse(
                f"{where}.$ref", f"to {show(ref)}: only places in the schema itself, #/$defs/NAME, can be referred to"
            )
        if ref not in self._refs:
            name = self._refs[ref] = self._new(where)
            self._rules[name] = target = self._visit(self._find(ref, where), ref)
            self._nodes[name] = Node("union", (target,))
        return self._refs[ref]

    def _find(self, ref: str, where: str) -> Any:
        found = self._root
        for part in ref.split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or key not in found:
                raise InvalidRequest(f"{where}.$ref: there is no {ref[:64]} in the schema", param=f"{where}.$ref")
            found = found[key]
        return found

    def _any_of(self, parts: Any, where: str) -> str:
        if not isinstance(parts, list) or not parts:
            raise InvalidRequest(f"{where} must be a list of schemas, but is {show(parts)}", param=where)
        return self._union([self._visit(part, f"{where}[{i}]") for i, part in enumerate(parts)], where)

    def _union(self, rules: list[str], where: str) -> str:
        name = self._rule(" | ".join(rules), where)
        self._nodes[name] = Node("union", tuple(rules))
        return name

    def _values(self, values: Iterable[Any], kinds: tuple[str, ...], where: str) -> str:
        fitting = [value for value in values if not kinds or any(_is(value, kind) for kind in kinds)]
        if not fitting:
            raise InvalidRequest(f"{where} has no value that its type allows", param=where)
        literals = [_literal(value) for value in fitting]
        self._size += len(literals)
        name = self._rule(" | ".join(literals), where)
        self._values_of[name] = frozenset(literals)
        return name

    def _object(self, schema: dict[str, Any], where: str) -> str:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, dict):
            raise InvalidRequest(f"{where}.properties must be an object of schemas", param=f"{where}.properties")
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise InvalidRequest(f"{where}.required must be a list of names", param=f"{where}.required")
        others = schema.get("additionalProperties", True)
        unlisted = [name for name in required if name not in properties]
        if not properties and not unlisted and others is not False:
            return self._map(others, f"{where}.additionalProperties")
        if not isinstance(others, bool):
            _refuse(f"{where}.additionalProperties", "that is a schema, beside properties or required")
        if unlisted and not others:
            raise InvalidRequest(
                f"{where}.required names {unlisted[0][:64]!r}, which is no property and no other may be there",
                param=f"{where}.required",
            )
        members = [
            (name, self._visit(property, f"{where}.properties.{name}")) for name, property in properties.items()
        ] + [(name, "value") for name in unlisted]
        # From the last property on: what may follow when there is a member before (later), when there is none (first).
        first, later = self._rule('"}"', where), self._rule('ws "}"', where)
        for name, rule in reversed(members):
            member = f'{_literal(name)} ":" ws {rule} {later}'
            begun, continued = member, f'"," ws {member}'
            if name not in required:
                begun, continued = f"{begun} | {first}", f"{continued} | {later}"
            first, later = self._rule(begun, where), self._rule(continued, where)
        name = self._rule(f'"{{" ws {first}', where)
        self._nodes[name] = Node("object", tuple(rule for _, rule in members), self._tag(members, required))
        return name

    def _tag(self, members: list[tuple[str, str]], required: list[str]) -> Tag | None:
        if not members or members[0][0] not in required or members[0][1] not in self._values_of:
            return None
        return members[0][0], self._values_of[members[0][1]]

    def _map(self, others: Any, where: str) -> str:
        value, more = self._visit(others, where), self._new(where)
        self._rules[more] = f'"," ws string ":" ws {value} {more} | ws "}}"'
        name = self._rule(f'"{{" ws ( "}}" | string ":" ws {value} {more} )', where)
        self._nodes[name] = Node("object", (value,))
        return name

    def _array(self, schema: dict[str, Any], where: str) -> str:
        least, most = self._bounds(schema, "minItems", "maxItems", where)
        item = self._visit(schema.get("items", True), f"{where}.items")
        full = f'{item} ws "]"'
        if most not in (0, 1):
            more = self._rule(f'"," ws {item}', where)
            full = f'{item} {more}{{{max(least - 1, 0)},{"" if most is None else most - 1}}} ws "]"'
        ends = [*(['"]"'] if least == 0 else []), *([full] if most != 0 else [])]
        name = self._rule(f'"[" ws ( {" | ".join(ends)} )', where)
        self._nodes[name] = Node("array", (item,))
        return name


def _types(value: Any, where: str) -> tuple[str, ...]:
    kinds = [] if value is None else value if isinstance(value, list) else [value]
    if value == [] or not all(isinstance(kind, str) and kind in _OF_TYPE for kind in kinds):
        raise InvalidRequest(
            f"{where}.type must be one or a list of {', '.join(_OF_TYPE)}, but is {show(value)}", param=f"{where}.type"
        )
    return tuple(dict.fromkeys(kinds))


def _only(schema: dict[str, Any], name: str, beside: tuple[str, ...], where: str) -> Any:
    """The value of a keyword beside which no other can be held to."""
    for other in schema:
        if other != name and other not in beside:
            _refuse(f"{where}.{other}", f"beside {name}")
    return schema[name]


def _is(value: Any, kind: str) -> bool:
    match value:
        case bool():
            return kind == "boolean"
        case int():
            return kind in {"integer", "number"}
        case float():
            return kind == "number" or (kind == "integer" and value.is_integer())
        case str():
            return kind == "string"
        case None:
            return kind == "null"
    return kind == ("array" if isinstance(value, list) else "object")


def _literal(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _refuse(param: str, more: str) -> NoReturn:
    raise InvalidRequest(
        f"{param[:256]} {more + ' ' if more else ''}is not supported by this engine", param=param[:256]
    )
