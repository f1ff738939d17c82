"""Bounds on the ambiguity of a schema: in how many ways may a text be read at once? llama.cpp follows all of them.

Alternatives of an `anyOf` that begin alike are followed side by side until the text decides; where such a one contains
itself their number doubles with every level of the text, so that a dozen brackets cost seconds and more cost for ever.
Objects whose first property is required and tells them apart (`{"kind": "a"...}` or `{"kind": "b"...}`) do not count.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final

MAX_READINGS: Final = 16

Tag = tuple[str, frozenset[str]]
"""Name of an object's first property, required, and the texts of the values that it may have."""


@dataclass(frozen=True)
class Node:
    """A rule of a schema: what may come inside an object or array of it, or, of a union, instead of it.

    kind: object, array, union (one part: another name of it). parts: names of rules; those without a node have neither
    objects nor arrays in them.
    """

    kind: str
    parts: tuple[str, ...]
    tag: Tag | None = None


def is_bounded(nodes: dict[str, Node]) -> bool:
    """Whether a text can never be read in more than `MAX_READINGS` ways at once."""
    readings = {name: {"object": 0, "array": 0} for name in nodes}
    users: dict[str, list[str]] = {name: [] for name in nodes}
    for name, node in nodes.items():
        for part in node.parts:
            users.get(part, []).append(name)
    stale = dict.fromkeys(nodes)
    while stale:  # ends: the numbers only grow, and stop at the limit
        name = next(iter(stale))
        del stale[name]
        node = nodes[name]
        new = _union(node, nodes, readings) if node.kind == "union" else {node.kind: _inside(node, readings)}
        if max(new.values()) > MAX_READINGS:
            return False
        if new.items() - readings[name].items():
            readings[name] |= new
            stale |= dict.fromkeys(users[name])
    return True


def _inside(node: Node, readings: dict[str, dict[str, int]]) -> int:
    return max([1, *(count for part in node.parts for count in readings.get(part, {}).values())])


def _union(node: Node, nodes: dict[str, Node], readings: dict[str, dict[str, int]]) -> dict[str, int]:
    objects = [part for part in node.parts if readings.get(part, {}).get("object")]
    together = max if _told_apart([_tag(part, nodes) for part in objects]) else sum
    return {
        "object": together([0, *(readings[part]["object"] for part in objects)]),
        "array": sum(readings[part]["array"] for part in node.parts if part in readings),
    }


def _tag(name: str, nodes: dict[str, Node]) -> Tag | None:
    seen = set()
    while name in nodes and name not in seen:
        seen.add(name)
        node = nodes[name]
        if node.kind != "union" or len(node.parts) != 1:
            return node.tag
        name = node.parts[0]
    return None


def _told_apart(tags: list[Tag | None]) -> bool:
    return all(
        one is not None and other is not None and (one[0] != other[0] or not one[1] & other[1])
        for one, other in itertools.combinations(tags, 2)
    )
