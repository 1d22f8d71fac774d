"""What the names in code stand for."""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import inspect
import sys
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from flowpar.caching.codegraph import Node
from flowpar.caching.instructions import global_names
from flowpar.caching.kinds import is_users, unwrapped
from flowpar.caching.origins import Origin, is_extension, origin_of_file, origin_of_module
from flowpar.caching.reading import Chain, Import, Reading

__all__ = ["MISSING", "Names", "Namespace", "Place", "Things", "content_of_cell", "imported"]

Namespace = Any
"""What names are looked up in: a dict, or a mapping proxy of a class."""

MISSING: Final = object()

_TEXTS: Final = frozenset({"__name__", "__qualname__", "__module__", "__doc__", "__annotations__"})
"""What functions and classes have that does not count unless somebody reads it."""

_OF_MODULES: Final = frozenset({"__name__", "__file__", "__package__", "__spec__", "__doc__"})
"""Names that say where a module is, and not what is in it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where something was found that code refers to.

    Attributes
    ----------
    role
        As the kind of a component.
    name
        What it is called there.
    owner
        What refers to it.
    namespace
        The names of the module that binds it, if one does.
    bound
        The name in that; of an attribute of a class that of the class.
    attribute
        Of the class.
    home
        The name of the module that it is in.
    is_lenient
        Whether it may be without content, and without a statement that binds it.
    """

    role: str
    name: str = ""
    owner: str = ""
    namespace: Namespace = None
    bound: str = ""
    attribute: str = ""
    home: str = ""
    is_lenient: bool = False

    @property
    def path(self) -> str:
        """What leads there, in errors."""
        words = {"closure": "captured", "dep": "dependency", "class": "attribute", "code": ""}
        word = words.get(self.role, self.role)
        owner = self.owner.rpartition("<locals>.")[2]
        return f"{owner}: {word} {self.name}" if word else self.name


class Things(Protocol):
    """Gives things their nodes."""

    def node(self, thing: object) -> Node:
        """Return the node of something that counts by its code."""

    def referred(self, thing: object, place: Place) -> Node:
        """Return the node of whatever is found somewhere."""

    def refer_package(self, node: Node, module: str) -> None:
        """Have a node refer to the package that a module belongs to."""

    def untracked(self, name: str) -> Node:
        """Return the node of something that cannot be seen."""


class Names:
    """Resolves the names that a function or statement reads, and looks later if they are the same.

    Parameters
    ----------
    things
        Gives nodes.
    node
        What the names are read by.
    reading
        What was read of it.
    namespace
        Of the module.
    """

    def __init__(self, things: Things, node: Node, reading: Reading, namespace: Namespace) -> None:
        self._things = things
        self._node = node
        self._reading = reading
        self._namespace = namespace
        self._home = str(namespace.get("__name__") or "")
        self._resolved: list[tuple[Namespace, str, object]] = []

    def is_unchanged(self) -> bool:
        """Return whether all names stand for the same things still."""
        return all(
            namespace.get(name, MISSING) is value for namespace, name, value in self._resolved
        )

    def refer_function(self, function: Any) -> None:
        """Refer to what the names in a function stand for."""
        reading, node = self._reading, self._node
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        outside = global_names(function.__code__)
        implicit = [name for name in cells if name not in reading.names]
        for at, name in enumerate((*reading.names, *implicit)):
            node.parts.append(b"%d" % at)
            actual = name if name in outside else _mangled(name, outside)
            if name in cells:
                self._refer_cell(name, cells[name])
            elif actual is not None:
                self._refer_global(actual, name)
            # A function within may import what another one finds outside.
            if name in reading.imports:
                self._refer_imports(name)

    def refer_statements(self, own: str) -> None:
        """Refer to what the names in statements stand for that bind a name, other than that."""
        for name in self._reading.names:
            # Others are those of functions and comprehensions.
            if name in self._namespace and name != own and name not in _OF_MODULES:
                self._node.parts.append(name.encode())
                self._refer_global(name, name)

    def _chains(self, name: str) -> set[Chain]:
        return self._reading.chains.get(name) or {()}

    def _refer_cell(self, name: str, cell: types.CellType) -> None:
        value = content_of_cell(cell)
        if value is MISSING:
            self._node.parts.append(b"empty cell")
            return
        place = Place("closure", owner=self._node.name, home=self._home)
        self._refer(name, value, self._chains(name), place)

    def _refer_global(self, name: str, written: str) -> None:
        value = self._namespace.get(name, MISSING)
        self._resolved.append((self._namespace, name, value))
        if value is not MISSING:
            self._refer(name, value, self._chains(written), self._global(self._namespace))
        elif hasattr(builtins, name):
            self._node.parts.append(b"builtin " + name.encode())
        else:
            self._miss(name)

    def _global(self, namespace: Namespace) -> Place:
        home = str(namespace.get("__name__") or "")
        return Place("global", owner=self._node.name, namespace=namespace, home=home)

    def _refer_imports(self, name: str) -> None:
        chains = self._chains(name)
        for what in self._reading.imports[name]:
            module = imported(what, self._namespace)
            if module is None:
                self._miss(name)
            elif isinstance(module, str):
                self._things.refer_package(self._node, module)
            elif what.attribute is None:
                self._refer(name, module, chains, self._global(vars(module)))
            else:
                wanted = {(what.attribute, *chain) for chain in chains}
                self._refer(module.__name__, module, wanted, self._global(vars(module)))

    def _refer(self, path: str, value: object, chains: Iterable[Chain], place: Place) -> None:
        """Refer to what a name stands for; of a module only to those attributes that are used."""
        module = value
        if not isinstance(module, types.ModuleType) or not is_users(module) or is_extension(module):
            bound = path.rpartition(".")[2]
            place = replace(place, name=path, bound=bound)
            self._node.refer(path, self._things.referred(value, place), place.home)
            self._refer_texts(path, unwrapped(value), chains)
            return
        by_first: dict[str, set[Chain]] = {}
        for chain in chains:
            if chain:
                by_first.setdefault(chain[0], set()).add(chain[1:])
            else:
                self._node.refer(path, self._things.node(module))
        inner = vars(module)
        for first, rest in sorted(by_first.items()):
            found = inner.get(first, MISSING)
            self._resolved.append((inner, first, found))
            if found is MISSING:
                found = _attribute(module, first)
            self._node.parts.append(first.encode())
            if found is MISSING:
                self._miss(f"{path}.{first}")
            else:
                self._refer(f"{path}.{first}", found, rest, self._global(inner))

    def _refer_texts(self, path: str, value: object, chains: Iterable[Chain]) -> None:
        """Refer to the name or docstring of a function or class, where it is read."""
        if not any(name in _TEXTS for chain in chains for name in chain):
            return
        for chain in sorted(chains):
            thing: Any = value
            for at, name in enumerate(chain):
                is_described = isinstance(thing, (type, types.FunctionType)) and is_users(thing)
                if name in _TEXTS and is_described:
                    label = ".".join((path, *chain[: at + 1]))
                    place = Place("global", label, home=self._home, is_lenient=True)
                    text = getattr(thing, name, None)
                    self._node.refer(label, self._things.referred(text, place))
                thing = unwrapped(inspect.getattr_static(thing, name, None))
                thing = getattr(thing, "__func__", thing)

    def _miss(self, name: str) -> None:
        self._node.parts.append(b"missing " + name.rpartition(".")[2].encode())
        self._node.refer(name, self._things.untracked(name))


def content_of_cell(cell: types.CellType) -> object:
    """Return what a captured variable is bound to, or `MISSING`."""
    try:
        return cell.cell_contents
    except ValueError:
        return MISSING


def _mangled(name: str, outside: set[str]) -> str | None:
    """Return the global name that a private name in a class stands for."""
    if not name.startswith("__") or name.endswith("__"):
        return None
    return min(
        (each for each in outside if each.startswith("_") and each.endswith(name)), default=None
    )


# Imports ------------------------------------------------------------------------------------------


def imported(what: Import, namespace: Mapping[str, Any]) -> types.ModuleType | str | None:
    """Return the module that a module would import: one of others' only by name.

    Parameters
    ----------
    what
        The import.
    namespace
        Of the module that has the statement.
    """
    name = what.module
    if what.level:
        base = str(namespace.get("__package__") or "").rsplit(".", what.level - 1)[0]
        name = f"{base}.{name}" if name else base
    found = sys.modules.get(name)
    if found is not None:
        # One of others' is taken alike whether it was imported before or not.
        return found if origin_of_module(name, found) is Origin.USER else name
    try:
        spec = importlib.util.find_spec(name.partition(".")[0])
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None:
        return None
    where = spec.origin or next(iter(spec.submodule_search_locations or ()), "<frozen >")
    if where in {"built-in", "frozen"} or origin_of_file(where) is not Origin.USER:
        return name
    return _import(name)


def _import(name: str) -> types.ModuleType | None:
    try:
        return importlib.import_module(name)
    except Exception:  # noqa: BLE001 - it may not even be meant to work here
        return None


def _attribute(module: Any, name: str) -> object:
    """Return what a module has by a function of its own, or as a submodule."""
    found = getattr(module, name, MISSING)
    if found is MISSING and hasattr(module, "__path__"):
        return _import(f"{module.__name__}.{name}") or MISSING
    return found
