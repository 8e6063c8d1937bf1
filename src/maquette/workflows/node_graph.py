"""The graph of nodes that ComfyUI writes into its pictures, and ways through it.

    {"3": {"class_type": "KSampler", "inputs": {"seed": 7, "model": ["4", 0], ...}}, "4": {...}}

An input is a value, or a link [node, output]. A graph may be damaged or hostile: links may lead nowhere or in circles.
"""

import json
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

from maquette.errors import MaquetteError

MAX_NODES = 3000
NEXT = "save the picture again with ComfyUI, or give its settings by hand"


@dataclass(frozen=True, eq=False)
class Node:
    """One node: its kind, and its inputs by name."""

    kind: str
    inputs: dict[str, Any]


class Graph:
    """Nodes by name; every walk ends, whatever the links."""

    def __init__(self, text: str) -> None:
        try:
            made = json.loads(text)
        except (ValueError, RecursionError):
            made = None
        if not isinstance(made, dict) or len(made) > MAX_NODES:
            raise MaquetteError(f"the text 'prompt' is no graph of ComfyUI's; {NEXT}")
        self.nodes = {name: _node(name, told) for name, told in made.items()}

    def linked(self, node: Node, name: str) -> Node | None:
        """The node that an input is linked to."""
        link = node.inputs.get(name)
        if not isinstance(link, list):
            return None
        if len(link) != 2 or not isinstance(link[0], str | int) or str(link[0]) not in self.nodes:
            raise MaquetteError(
                f"the input {name!r} of a {node.kind} is linked to {link!r:.40}, which is no node; {NEXT}"
            )
        return self.nodes[str(link[0])]

    def value(self, node: Node | None, *names: str) -> Any:
        """The first of these inputs that a node has; through links, if they end at a node with one value of a kind.

        None where there is none, or where a node computes it.
        """
        for name in names if node is not None else ():
            seen: set[Node] = set()
            at, told = node, node.inputs.get(name) if node is not None else None
            while at is not None and isinstance(told, list) and at not in seen:
                seen.add(at)
                at = self.linked(at, name)
                name, told = _only_value(at)
            if told is not None and not isinstance(told, list | dict):
                return told
        return None

    def upstream(self, node: Node | None, along: Container[str]) -> dict[Node, Node]:
        """All nodes that are reached through inputs of these names, nearest first, and where each was reached from."""
        reached: dict[Node, Node] = {}
        waiting = [] if node is None else [node]
        for at in waiting:  # grows as it goes
            for name in at.inputs:
                to = self.linked(at, name) if name in along else None
                if to is not None and to is not node and to not in reached:
                    reached[to] = at
                    waiting.append(to)
        return reached

    def find(
        self, node: Node | None, along: Container[str], wanted: Callable[[Node], bool]
    ) -> tuple[Node | None, list[Node]]:
        """The nearest wanted node upstream, and those on the way, nearest first; all upstream where there is none."""
        reached = self.upstream(node, along)
        found = next(filter(wanted, reached), None)
        if found is None:
            return None, list(reached)
        way, at = [], reached[found]
        while at is not node:
            way.append(at)
            at = reached[at]
        return found, way[::-1]


def _node(name: str, told: object) -> Node:
    if isinstance(told, dict):
        kind, inputs = told.get("class_type"), told.get("inputs")
        if isinstance(kind, str) and isinstance(inputs, dict):
            return Node(kind, inputs)
    raise MaquetteError(f"node {name!r:.40} of the picture's graph has no class_type and inputs; {NEXT}")


def _only_value(node: Node | None) -> tuple[str, Any]:
    """The name and value of the one input of a node that holds a value: what nodes for a number or a text have."""
    plain = {} if node is None else {name: value for name, value in node.inputs.items() if not isinstance(value, dict)}
    for name in ("value", "text", "string", "seed", "int", "float", "noise_seed"):
        if name in plain:
            return name, plain[name]
    return next(iter(plain.items())) if len(plain) == 1 else ("", None)
