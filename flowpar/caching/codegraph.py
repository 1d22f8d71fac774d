"""A graph of code: what things say of themselves, and what they refer to.

What a node says of itself is hashed without what it refers to; then the digests of what it refers
to are added, from the leaves up. Those that refer to each other in a circle are refined together,
as states of an automaton would be, so that it does not matter by which of them one came in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from flowpar.caching.digest import NotDigestible, hashed
from flowpar.caching.origins import is_main

__all__ = ["Code", "Component", "Node", "components_of", "solve"]

_VERSION: Final = b"code 2"
"""What digests are made of; another one finds nothing that was kept before."""


@dataclass(frozen=True, slots=True)
class Component:
    """One thing that a function depends on.

    Attributes
    ----------
    kind
        ``"code"`` for the function itself, else ``"helper"``, ``"class"``, ``"global"``,
        ``"default"``, ``"closure"``, ``"package"``, ``"opaque"``, ``"untracked"`` or ``"dep"``.
    name
        As the code names it, as in ``"utils.pad"``.
    digest
        Of this thing alone, without what it refers to: where it differs something was edited.
    text
        A short form of a value, a package's version, or the file and line of code.
    home
        The name of the module that holds it, if any does.
    """

    kind: str
    name: str
    digest: bytes
    text: str
    home: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Code:
    """What a function's result depends on besides its arguments.

    Attributes
    ----------
    digest
        Equal if all that can be seen to matter is equal, wherever it is defined and named.
    components
        What the digest was made of: the function itself, then what it reaches.
    """

    digest: bytes
    components: tuple[Component, ...]


class Node:
    """A thing met, what it says of itself, and what it refers to.

    Attributes
    ----------
    thing
        Kept, so that nothing else gets its id.
    kind
        As that of a component; empty if it is only a step on the way to others.
    home
        As that of a component.
    parts
        What it says of itself.
    refs
        What it refers to, in an order that is part of its content, by name.
    homes
        The names of the modules in which it finds those.
    local
        Digest of the parts.
    digest
        Of all; empty until all it refers to is known.
    trouble
        Why what it reaches cannot be told from what it was or will be.
    is_unchanged
        Looks whether what was read when the node was made is still so.
    """

    __slots__ = (
        "digest",
        "home",
        "homes",
        "is_unchanged",
        "kind",
        "local",
        "name",
        "parts",
        "refs",
        "text",
        "thing",
        "trouble",
    )

    def __init__(  # noqa: PLR0917 - what people are told of it
        self, thing: object, kind: str = "", name: str = "", text: str = "", home: str = ""
    ) -> None:
        self.thing = thing
        self.kind = kind
        self.name = name
        self.text = text
        self.home = home
        self.parts: list[bytes] = []
        self.refs: list[tuple[str, Node]] = []
        self.homes: list[str] = []
        self.local = self.digest = b""
        self.trouble: NotDigestible | None = None
        self.is_unchanged: Callable[[], bool] | None = None

    def refer(self, name: str, target: Node, home: str = "") -> None:
        """Add something that this refers to, and the module it is found in, if it is another."""
        self.refs.append((name, target))
        self.homes.append(home or self.home)


def solve(root: Node) -> None:
    """Give a node its digest, and all that it refers to."""
    if root.digest:
        return
    order: dict[Node, int] = {root: 0}
    low = {root: 0}
    path: list[Node] = [root]
    stack: list[tuple[Node, Iterator[tuple[str, Node]]]] = [(root, iter(root.refs))]
    while stack:
        node, rest = stack[-1]
        for _, target in rest:
            if target.digest:
                continue
            if target not in order:
                order[target] = low[target] = len(order)
                path.append(target)
                stack.append((target, iter(target.refs)))
                break
            # Without a digest it is still on the path.
            low[node] = min(low[node], order[target])
        else:
            stack.pop()
            if stack:
                low[stack[-1][0]] = min(low[stack[-1][0]], low[node])
            if low[node] == order[node]:
                _close(_cut(path, node))


def _cut(path: list[Node], first: Node) -> list[Node]:
    """Take the end of a path off, from a node on."""
    end = [path.pop()]
    while end[-1] is not first:
        end.append(path.pop())
    return end


def _close(circle: list[Node]) -> None:
    """Give digests to nodes that can all reach each other."""
    inside = set(circle)
    for node in circle:
        found = (target.trouble for _, target in node.refs if target.trouble is not None)
        node.trouble = node.trouble or next(found, None)
    if len(circle) == 1 and all(target not in inside for _, target in circle[0].refs):
        node = circle[0]
        node.digest = hashed(_VERSION, node.local, *(target.digest for _, target in node.refs))
        return
    colours = {
        node: hashed(b"in a circle", node.local, *(target.digest for _, target in node.refs))
        for node in circle
    }
    count = len(set(colours.values()))
    while True:
        # Two nodes stay alike only if all that they refer to is alike, however far one looks.
        finer = {
            node: hashed(colours[node], *(colours[t] for _, t in node.refs if t in inside))
            for node in circle
        }
        finer_count = len(set(finer.values()))
        colours = finer
        if finer_count == count:
            break
        count = finer_count
    whole = hashed(_VERSION, b"circle", *sorted(set(colours.values())))
    trouble = next((node.trouble for node in circle if node.trouble is not None), None)
    for node in circle:
        node.trouble = trouble
        node.digest = hashed(b"of a circle", whole, colours[node])


def components_of(*roots: Node) -> Iterator[Component]:
    """Give what nodes reach, nearest to the beginning of their code first.

    What the main module has put into another one is found in that.
    """
    seen: set[object] = {*roots, *((root, False) for root in roots)}
    stack = [each for root in reversed(roots) for each in _found_by(root)]
    while stack:
        name, node, home = stack.pop()
        is_put = is_main(node.home) and not is_main(home)
        if (node, is_put) in seen:
            continue
        if node.kind and (node.kind != "package" or node not in seen):
            label = node.name if node.kind == "package" else name
            home = home if is_put else node.home
            yield Component(node.kind, label, node.local, node.text, home)
        if node not in seen:
            stack.extend(_found_by(node))
        seen.update((node, (node, is_put)))


def _found_by(node: Node) -> list[tuple[str, Node, str]]:
    found = zip(node.refs, node.homes, strict=True)
    return [(name, target, home) for (name, target), home in found][::-1]
