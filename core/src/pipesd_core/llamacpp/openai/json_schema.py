"""JSON schemas to grammars: an allow-list of keywords in front of llguidance, and what its own grammar lacks.

Every complete text of the grammar satisfies the schema; the grammar is narrower in form only: properties in the
schema's order and, unless `additionalProperties` says what others are like, none beside them; a tuple with all its
items; little white space. A keyword that an answer cannot be held to is refused by name, none is ignored but
annotations.

llguidance itself ignores what it does not know, and two keywords that it does know; it takes a name with an escape in
it for another name; and a count of a billion items, or definitions that refer to each other some 2,000 deep, are the
end of the process. So nothing of a schema reaches it that was not looked at here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final, NoReturn
from urllib.parse import unquote

import msgspec

from pipesd_core.errors import InvalidRequest
from pipesd_core.llamacpp.constraint import Grammar, check
from pipesd_core.llamacpp.openai.json_formats import FORMATS
from pipesd_core.llamacpp.openai.json_patterns import anything_but, checked_pattern
from pipesd_core.openai_values import is_number, show, whole, wrong

MAX_SCHEMA_BYTES: Final = 65_536
MAX_SCHEMAS: Final = 1024
"""Schemas in a schema; a definition counts once, twice where it is also joined with others."""
MAX_DEPTH: Final = 64
MAX_COUNT: Final = 1000
"""Largest minItems, maxItems and the like: each item is a place of its own in the grammar."""
MAX_ALL_COUNTS: Final = 20_000
"""The sum of these over a schema."""
MAX_LENGTH: Final = 10_000
"""Largest minLength, maxLength."""
MAX_NUMBER: Final = 2**53 - 1
"""Largest number in a schema: beyond it not every whole number is a double."""

MAX_DIGITS: Final = 15
MAX_PLACES: Final = 22
"""Most digits, and digits behind the point, of a number in a schema: beyond them llguidance reads another one."""

_SPACE: Final = r"( |\n[ \t]{0,20})?"
_OPTIONS: Final = {
    "whitespace_flexible": False,  # its white space has no end; ours is a part of what separates
    "item_separator": "," + _SPACE,
    "key_separator": ":" + _SPACE,
    "coerce_one_of": False,
    "lenient": False,
}
_ANNOTATIONS: Final = frozenset(
    (
        "title", "description", "default", "examples", "$schema", "$comment", "deprecated", "readOnly", "writeOnly",
        "discriminator",  # OpenAPI's: which alternative of a oneOf is meant
        "$defs", "definitions",  # looked at where they are referred to
    )
)  # fmt: skip
_TYPES: Final = ("object", "array", "string", "number", "integer", "boolean", "null")
_APPLICATORS: Final = ("allOf", "anyOf", "oneOf", "$ref")
_TELLING: Final = ("type", "const", "enum", "required")
"""Keywords by which alternatives are told apart."""
_LENGTHS: Final = ("minLength", "maxLength")
_COUNTS: Final = ("minItems", "maxItems", "minProperties", "maxProperties")
_LEAST: Final = {"maxLength": "minLength", "maxItems": "minItems", "maxProperties": "minProperties"}


def json_object() -> Grammar:
    """The grammar of any JSON object."""
    return grammar_of({"type": "object"}, "response_format")


def grammar_of(schema: Any, where: str) -> Grammar:
    """The grammar of the texts that a schema describes.

    where: the schema's place in the request, for messages. Raises InvalidRequest.
    """
    return Grammar("start: " + lark_of(schema, where), where)


def lark_of(schema: Any, where: str) -> str:
    """A schema's texts as an expression of Lark, which may stand in a rule with others around it.

    Raises InvalidRequest.
    """
    size = len(msgspec.json.encode(schema))
    if size > MAX_SCHEMA_BYTES:
        raise InvalidRequest(f"{where} has {size} bytes, but may have {MAX_SCHEMA_BYTES}", param=where)
    rewriter = _Rewriter(schema, where, proving=False)
    lark = _json(rewriter.rewritten())
    if rewriter.one_ofs:
        _prove(_Rewriter(schema, where, proving=True).rewritten(), rewriter.one_ofs, where)
    return lark


def _prove(schema: dict[str, Any], one_ofs: list[str], where: str) -> None:
    """Have llguidance prove that no two alternatives of a oneOf hold at once. Raises InvalidRequest."""
    try:
        check(Grammar("start: " + _json(schema), where))
    except InvalidRequest as error:
        if "oneOf" not in error.message:
            raise
        param = one_ofs[0] if len(one_ofs) == 1 else where
        raise InvalidRequest(
            f"{param}: two alternatives of {' or '.join(one_ofs[:4])} might hold at once, as far as this engine can "
            "tell: use anyOf, or give each a required property with a const of its own",
            param=param,
        ) from error


def _json(schema: dict[str, Any]) -> str:
    return "%json " + msgspec.json.encode(schema | {"x-guidance": _OPTIONS}).decode()


class _Rewriter:
    """One schema on its way to llguidance. Every schema in it becomes one of known keywords only.

    proving: leave objects and tuples as wide as they are, and a oneOf as such, for llguidance to prove that no two of
    its alternatives hold at once; else it is an anyOf, and all is narrowed.
    """

    def __init__(self, root: Any, where: str, *, proving: bool) -> None:
        self.one_ofs: list[str] = []
        self._root = root
        self._where = where
        self._proving = proving
        self._definitions: dict[str, Any] = {}
        self._names: dict[tuple[str, bool], str] = {}
        self._schemas = 0
        self._counts = 0
        self._depth = 0
        self._around: str | None = "#"
        """The reference whose definition is being looked at; None within an object or array of it."""
        self._same: dict[str, list[str]] = {}
        """By reference, what its definition refers to for the same value."""

    def rewritten(self) -> dict[str, Any]:
        root = self._visit(self._root, self._where)
        if root is False:
            raise InvalidRequest(f"{self._where} is false: no text satisfies it", param=self._where)
        try:
            TopologicalSorter(self._same).prepare()
        except CycleError as error:
            raise InvalidRequest(
                f"{self._where}: {error.args[1][0][:64]} is, in part, nothing but a reference to itself",
                param=self._where,
            ) from None
        if self._proving:  # all definitions, also those of which an outline alone is a part of the rest
            wanted = {name: {"$ref": f"#/$defs/{name}"} for name in self._definitions}
            root = {"properties": {"root": root, **wanted}}
        return ({} if root is True else root) | {"$defs": self._definitions}

    def _visit(self, schema: Any, where: str, *, joined: bool = False) -> Any:
        """A schema that llguidance takes.

        joined: others hold for the same value, so that this one must not be narrowed by itself.
        """
        self._schemas += 1
        if self._schemas > MAX_SCHEMAS:
            raise InvalidRequest(f"{where}: the schema has more than {MAX_SCHEMAS} schemas in it", param=where)
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise InvalidRequest(f"{where} must be a schema, but is {show(schema)}", param=where)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise InvalidRequest(f"{where} is nested deeper than {MAX_DEPTH} levels", param=where)
        try:
            return self._keywords(_placed(schema, where), where, joined)
        finally:
            self._depth -= 1

    def _keywords(self, schema: dict[str, tuple[str, Any]], where: str, joined: bool) -> dict[str, Any]:
        """schema: by keyword, place and value."""
        parts = [name for name in _APPLICATORS if name in schema]
        alone = len(parts) == 1 and schema.keys() <= {"type", *parts} and _length(schema.get("allOf")) <= 1
        joining = joined or (bool(parts) and not alone)
        result: dict[str, Any] = {}
        also: list[dict[str, Any]] = []  # schemas that hold as well
        for name, (place, value) in schema.items():
            if name in _APPLICATORS:
                part = self._applicator(name, value, place, joining)
                if result.keys() & part.keys():
                    also.append(part)
                else:
                    result |= part
            elif name == "format":
                also += _format(value, place, result)
            else:
                around, self._around = self._around, None
                result[name] = self._keyword(name, value, place)
                self._around = around
        _check_order(result, where)
        if "multipleOf" in result:
            _bound_multiples(result, where)
        if not self._proving and not joining:
            _complete_tuple(result)
            _close_object(result, where)
        elif not self._proving:
            _check_joined(result, where)
            if not joined and (names := self._all_names(schema)):
                also.append({"properties": dict.fromkeys(names, True), "additionalProperties": False})
        return {"allOf": [result, *also]} if also else result

    def _keyword(self, name: str, value: Any, where: str) -> Any:
        if name in _VALUES:
            return _VALUES[name](value, where)
        if name in _LENGTHS or name in _COUNTS:
            return self._count(name, value, where)
        if name in ("items", "additionalProperties"):
            return self._visit(value, where)
        if name == "prefixItems":
            return self._list(value, where)
        if name not in ("properties", "patternProperties"):
            _refuse(where)
        if not isinstance(value, dict):
            raise wrong(where, "an object of schemas", value)
        inner = {key: self._visit(item, f"{where}.{key}") for key, item in value.items()}
        if name == "properties":
            return inner
        patterns = {checked_pattern(key, where): item for key, item in inner.items()}
        if len(patterns) < len(inner):
            _refuse(where, "with one pattern in two ways")
        return patterns

    def _list(self, value: Any, where: str, *, joined: bool = False) -> list[Any]:
        schemas = _filled(value, where)
        return [self._visit(item, f"{where}[{i}]", joined=joined) for i, item in enumerate(schemas)]

    def _count(self, name: str, value: Any, where: str) -> int:
        limit = MAX_LENGTH if name in _LENGTHS else MAX_COUNT
        count = whole(value)
        if count is None or not 0 <= count <= limit:
            raise wrong(where, f"an integer from 0 to {limit}", value)
        self._counts += count if name in _COUNTS else 0
        if self._counts > MAX_ALL_COUNTS:
            raise InvalidRequest(
                f"{where}: all minItems, maxItems and their like add up to more than {MAX_ALL_COUNTS}", param=where
            )
        return count

    def _applicator(self, name: str, value: Any, where: str, joined: bool) -> dict[str, Any]:
        if name == "$ref":
            return {name: self._reference(value, where, joined)}
        if name == "oneOf":
            self.one_ofs.append(where)
            if self._proving:
                value = [self._outline(item, where, joined) for item in _filled(value, where)]
            else:
                name = "anyOf"
        return {name: self._list(value, where, joined=joined)}

    def _reference(self, ref: Any, where: str, joined: bool) -> str:
        target = self._find(ref, where)
        if self._around is not None:
            self._same.setdefault(self._around, []).append(ref)
        if (ref, joined) not in self._names:
            name = self._names[ref, joined] = f"d{len(self._names)}"
            around, self._around = self._around, ref
            self._definitions[name] = self._visit(target, ref, joined=joined)
            self._around = around
        return f"#/$defs/{self._names[ref, joined]}"

    def _outline(self, schema: Any, where: str, joined: bool) -> Any:
        """What an alternative refers to, as far as it may be told from others by it, in place of the reference.

        llguidance does not look through references. What is referred to is wanted whole as a definition all the same.
        """
        seen = set()
        while isinstance(schema, dict) and schema.keys() - _ANNOTATIONS == {"$ref"} and id(schema) not in seen:
            seen.add(id(schema))
            self._reference(schema["$ref"], where, joined)
            schema = self._find(schema["$ref"], where)
        if not seen or not isinstance(schema, dict):
            return schema
        outline = {name: schema[name] for name in _TELLING if name in schema}
        properties = {
            name: item if isinstance(item, dict) and item.keys() - _ANNOTATIONS <= set(_TELLING) else True
            for name, item in schema.get("properties", {}).items()
        }
        return outline | ({"properties": properties} if properties else {})

    def _find(self, ref: Any, where: str) -> Any:
        if not isinstance(ref, str) or not (ref == "#" or ref.startswith("#/")):
            _refuse(where, f"to {show(ref)}: only places in the schema itself, #/$defs/NAME, can be referred to")
        found = self._root
        for part in ref.split("/")[1:]:
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and key.isascii() and key.isdigit() and int(key) < len(found):
                found = found[int(key)]
            elif isinstance(found, dict) and key in found:
                found = found[key]
            else:
                raise InvalidRequest(f"{where}: there is no {ref[:64]} in the schema", param=where)
        return found

    def _all_names(self, schema: dict[str, tuple[str, Any]]) -> list[str]:
        """Names of all properties that a schema, or one that is joined with it, has or requires."""
        names: dict[str, None] = {}
        left: list[Any] = [{name: value for name, (_, value) in schema.items()}]
        seen = set()
        while left:
            item = left.pop()
            if isinstance(item, bool) or id(item) in seen:
                continue
            seen.add(id(item))
            names |= dict.fromkeys(item.get("properties", ())) | dict.fromkeys(item.get("required", ()))
            for name in ("allOf", "anyOf", "oneOf"):
                left += item.get(name, ())
            if "$ref" in item:
                left.append(self._find(item["$ref"], ""))
        return list(names)


def _placed(schema: dict[str, Any], where: str) -> dict[str, tuple[str, Any]]:
    """A schema by keyword, place and value, without annotations; tuples of older drafts as the newest has them."""
    new = {"items": "prefixItems", "additionalItems": "items"} if isinstance(schema.get("items"), list) else {}
    if new and "prefixItems" in schema:
        _refuse(f"{where}.prefixItems", "beside a list of items")
    return {new.get(k, k): (f"{where}.{k}", value) for k, value in schema.items() if k not in _ANNOTATIONS}


def _check_order(schema: dict[str, Any], where: str) -> None:
    for most, least in _LEAST.items():
        if most in schema and schema[most] < schema.get(least, 0):
            place = f"{where}.{most}"
            raise InvalidRequest(f"{place} is {schema[most]}, less than {least}, which is {schema[least]}", param=place)


def _bound_multiples(schema: dict[str, Any], where: str) -> None:
    """Say which multiples llguidance can write: none below 0. Refuse bounds with none between: it would begin one."""
    step = Fraction(repr(schema["multipleOf"]))
    kinds = schema.get("type", ["number"])
    if "integer" in kinds and "number" not in kinds:
        step = Fraction(step.numerator)
    schema["minimum"] = max(0, schema.get("minimum", 0))
    first = step * math.ceil(Fraction(repr(schema["minimum"])) / step)
    if first <= (above := Fraction(repr(schema.get("exclusiveMinimum", -1)))):
        first = step * (math.floor(above / step) + 1)
    last, below = (Fraction(repr(schema.get(name, MAX_NUMBER))) for name in ("maximum", "exclusiveMaximum"))
    if first > last or first >= below:
        _refuse(f"{where}.multipleOf", "with bounds that have no multiple from 0 up between them")


def _complete_tuple(schema: dict[str, Any]) -> None:
    """Have a tuple written with all its items, and with no others that are not spoken of."""
    if "prefixItems" in schema:
        count = len(schema["prefixItems"])
        if schema.setdefault("minItems", min(count, schema.get("maxItems", count))) <= count:
            schema.setdefault("items", False)


def _check_joined(schema: dict[str, Any], where: str) -> None:
    """Refuse what cannot be known, or is too large for llguidance, before all schemas of a value are one."""
    if "multipleOf" in schema:
        _refuse(f"{where}.multipleOf", "beside other schemas for the same number")
    if "patternProperties" in schema:
        _refuse(f"{where}.patternProperties", "beside other schemas for the same object")
    if schema.get("additionalProperties", True) not in (True, False, {}):
        _refuse(f"{where}.additionalProperties", "beside other schemas for the same object")


def _close_object(schema: dict[str, Any], where: str) -> None:
    """Have no properties written that are not spoken of; say which names the others may have, if there are any.

    By llguidance's own rule "\\u0061" is another name than "a", and a name that comes twice counts twice.
    """
    properties, required = schema.get("properties", {}), schema.get("required", ())
    others = schema.get("additionalProperties", True if not properties and not required else None)
    if "patternProperties" in schema:
        if others not in (None, True, False, {}):
            _refuse(f"{where}.additionalProperties", "beside patternProperties")
        schema["additionalProperties"] = False
    elif properties or required:
        unlisted = {name: True if others is None else others for name in required if name not in properties}
        if unlisted and others is False:
            raise InvalidRequest(
                f"{where}.required names {next(iter(unlisted))[:64]!r}, which is no property and no other may be there",
                param=f"{where}.required",
            )
        schema["properties"] = properties | unlisted
        schema["additionalProperties"] = False
        if others not in (None, False):
            names = anything_but(schema["properties"], f"{where}.additionalProperties")
            schema["patternProperties"] = {names: others}
    has_others = "patternProperties" in schema or schema.get("additionalProperties", True) is not False
    if has_others and schema.get("minProperties", 0) > max(1, len(set(required))):
        _refuse(f"{where}.minProperties", "of more than 1, and than there are required ones,")


def _type(value: Any, where: str) -> Any:
    kinds = value if isinstance(value, list) else [value]
    if not kinds or not all(isinstance(kind, str) and kind in _TYPES for kind in kinds):
        raise InvalidRequest(f"{where} must be one or a list of {', '.join(_TYPES)}, but is {show(value)}", param=where)
    return list(dict.fromkeys(kinds))


def _required(value: Any, where: str) -> Any:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise wrong(where, "a list of names", value)
    return value


def _pattern(value: Any, where: str) -> Any:
    if not isinstance(value, str):
        raise wrong(where, "a string", value)
    return checked_pattern(value, where)


def _format(value: Any, where: str, result: dict[str, Any]) -> list[dict[str, Any]]:
    """Put a format into `result`, or return the schemas that hold as well."""
    if not isinstance(value, str):
        raise wrong(where, "a string", value)
    if value not in FORMATS:
        _refuse(where, f"of {show(value)}, which is none of {', '.join(FORMATS)},")
    if (pattern := FORMATS[value]) is not None:
        return [{"pattern": pattern}]
    result["format"] = value
    return []


def _bound(value: Any, where: str) -> Any:
    if not is_number(value):
        raise wrong(where, "a number", value)
    return _exact(value, where)


def _multiple_of(value: Any, where: str) -> Any:
    if _bound(value, where) <= 0:
        raise wrong(where, "a number above 0", value)
    return value


def _exact(value: Any, where: str) -> Any:
    """A value whose numbers are written as they are. Raises InvalidRequest for others."""
    if isinstance(value, dict):
        return {name: _exact(item, where) for name, item in value.items()}
    if isinstance(value, list):
        return [_exact(item, where) for item in value]
    if not is_number(value):
        return value
    if (number := whole(value)) is not None:
        if abs(number) <= MAX_NUMBER:
            return number
    elif math.isfinite(value):
        _, digits, exponent = Decimal(repr(value)).as_tuple()
        if len(digits) <= MAX_DIGITS and isinstance(exponent, int) and exponent >= -MAX_PLACES:
            return value
    raise InvalidRequest(
        f"{where} has the number {show(value)}, but it may have {MAX_DIGITS} digits, {MAX_PLACES} places, and be "
        f"{MAX_NUMBER} at most: beyond that numbers are not exact",
        param=where,
    )


def _filled(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise wrong(where, "a list that is not empty", value)
    return value


def _length(part: tuple[str, Any] | None) -> int:
    return len(part[1]) if part is not None and isinstance(part[1], list) else 1


_VALUES: Final[dict[str, Callable[[Any, str], Any]]] = {
    "type": _type,
    "const": _exact,
    "enum": lambda value, where: _exact(_filled(value, where), where),
    "required": _required,
    "pattern": _pattern,
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _bound),
    "multipleOf": _multiple_of,
}


def _refuse(param: str, more: str = "") -> NoReturn:
    raise InvalidRequest(
        f"{param[:256]} {more + ' ' if more else ''}is not supported by this engine", param=param[:256]
    )
