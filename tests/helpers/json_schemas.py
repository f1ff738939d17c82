"""Random JSON schemas, served ones and others, and what says whether an answer satisfies one: `jsonschema`."""

from __future__ import annotations

import json
import warnings
from fractions import Fraction
from typing import Any, Final

import jsonschema
from hypothesis import strategies as st
from hypothesis_jsonschema import from_schema

NAMES: Final = ("a", "b", "ab", "é", '"', "\\u0061", "x1", "", "not")
PATTERNS: Final = (
    "a", "^a+$", "^[a-c]{2,4}$", r"^\d{3}-\d{2}$", r"^\w+@\w+\.(com|org)$", r"\D", r"^\S\s\S$", r"^[^\W\d]+$", "^.{3}$",
    "^(foo|ba[rz])$", r"^\x41\u00e9?$", "^[a-z&&b]+$", "^a|b$", r"^[\s\-.]*x$", "(?=a)", r"\bx", "", "^[ -~]{1,3}$",
)  # fmt: skip
FORMATS: Final = ("date", "date-time", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid", "regex")
_COUNT: Final = {"type": "integer", "minimum": 0, "maximum": 4}
_LIMIT: Final = {
    "anyOf": [{"type": "integer", "minimum": -40, "maximum": 40}, {"type": "number", "minimum": -1e6, "maximum": 1e6}]
}
_VALUE: Final = {
    "anyOf": [
        {"enum": [None, True, False, "", "a", 0, 1, -1.5, 1e-7, 1e15, [], {}, [1, None], {"a": 1, "": [2]}, 2**53]},
        {"type": ["string", "number", "integer"], "maxLength": 4, "minimum": -1e9, "maximum": 1e9},
    ]
}
KEYWORDS: Final[dict[str, dict[str, Any]]] = {
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), _COUNT),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _LIMIT),
    "multipleOf": {"enum": [1, 2, 3, 7, 10, 0.5, 0.25, 0.01, 1.5, 1e-3]},
    "pattern": {"enum": list(PATTERNS)},
    "format": {"enum": list(FORMATS)},
    "const": _VALUE,
    "enum": {"type": "array", "items": _VALUE, "minItems": 1, "maxItems": 4},
    "required": {"type": "array", "items": {"enum": list(NAMES)}, "maxItems": 2, "uniqueItems": True},
    "title": {"type": "string"},
}
"""By keyword, the schema of its values."""
REFUSED: Final[dict[str, Any]] = {
    "uniqueItems": True, "contentEncoding": "base64", "not": {"const": 1}, "if": {"const": 1}, "contains": {}, "x": 1
}  # fmt: skip
OF_TYPE: Final = {
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "integer": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "array": ("minItems", "maxItems"),
    "object": ("minProperties", "maxProperties", "required"),
    "boolean": (),
    "null": (),
}


def _short(value: Any) -> Any:
    """A value whose numbers have few places."""
    if isinstance(value, dict):
        return {name: _short(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_short(item) for item in value]
    return round(value, 7) if isinstance(value, float) else value


_VALUES: Final = {name: from_schema(schema).map(_short) for name, schema in KEYWORDS.items()}


@st.composite
def _plain(draw: st.DrawFn) -> Any:
    """A schema without others in it."""
    kind = draw(st.sampled_from((*OF_TYPE, "any", "value", "value", "reference", "refused", "true")))
    if kind == "true":
        return draw(st.booleans())
    if kind == "reference":
        return {"$ref": draw(st.sampled_from(("#", "#/$defs/x", "#/$defs/y~1z")))}
    if kind == "value":
        name = draw(st.sampled_from(("const", "enum")))
        return {name: draw(_VALUES[name])}
    if kind == "refused" and not draw(st.integers(0, 3)):
        return dict([draw(st.sampled_from(list(REFUSED.items())))])
    own = OF_TYPE.get(kind, tuple(KEYWORDS))
    names = draw(st.lists(st.sampled_from(own), max_size=3, unique=True)) if own else []
    schema = {name: draw(_VALUES[name]) for name in names}
    return schema | {"type": kind} if kind in OF_TYPE else schema


_KINDS: Final = ("object", "object", "object", "array", "tuple", "anyOf", "anyOf", "allOf", "oneOf", "one of")


@st.composite
def _containing(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> Any:
    """A schema with others in it, perhaps joined with a plain one."""
    some = st.lists(inner, min_size=1, max_size=3)
    properties = st.dictionaries(st.sampled_from(NAMES), inner, min_size=1, max_size=3)
    kind = draw(
        st.sampled_from(("object", "object", "object", "array", "tuple", "anyOf", "anyOf", "allOf", "oneOf", "one of"))
    )
    schema: dict[str, Any] = {}
    if kind == "object":
        schema = {"type": "object", "properties": draw(properties)}
        if draw(st.booleans()):
            schema["required"] = draw(_VALUES["required"])
        if draw(st.booleans()):
            schema["additionalProperties"] = draw(st.booleans() | inner)
        if not draw(st.integers(0, 5)):
            schema["patternProperties"] = draw(st.dictionaries(st.sampled_from(PATTERNS), inner, max_size=2))
    elif kind == "array":
        schema = {"type": "array", "items": draw(inner)}
    elif kind == "tuple":
        schema = {"type": "array", "prefixItems": draw(some)}
        if draw(st.booleans()):
            schema["items"] = draw(inner)
    elif kind == "one of":
        tagged = enumerate(draw(st.lists(properties, min_size=1, max_size=3)))
        schema["oneOf"] = [
            {"type": "object", "properties": {"kind": {"const": f"k{i}"}, **more}, "required": ["kind"]}
            for i, more in tagged
        ]
    else:
        schema = {kind: draw(some)}
    if not draw(st.integers(0, 3)):
        more = draw(_plain())
        schema = (more | schema if draw(st.booleans()) else schema | more) if isinstance(more, dict) else schema
    return schema


@st.composite
def schemas(draw: st.DrawFn) -> Any:
    """A schema of any kind; two definitions are there in any case."""
    inner = st.recursive(_plain(), _containing, max_leaves=6)
    schema: Any = draw(inner)
    return schema | {"$defs": {"x": draw(inner), "y/z": draw(_plain())}} if isinstance(schema, dict) else schema


def _multiple_of(validator: Any, divisor: float, value: Any, schema: Any) -> Any:
    """By their decimal digits: jsonschema's own has 0.3 as no multiple of 0.1."""
    del schema
    if validator.is_type(value, "number") and Fraction(repr(value)) % Fraction(repr(divisor)):
        yield jsonschema.ValidationError(f"{value} is no multiple of {divisor}")


_VALIDATOR: Final = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"multipleOf": _multiple_of})


def check(text: str, schema: Any) -> None:
    """Check that a text is JSON that satisfies a schema, formats included. Raises ValueError, ValidationError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of `re`, about patterns that it may read otherwise one day
        _VALIDATOR(schema, format_checker=_VALIDATOR.FORMAT_CHECKER).validate(json.loads(text))
