"""Things met in code, and in values, as nodes of its graph."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from flowpar.caching import classes
from flowpar.caching.codegraph import Node, solve
from flowpar.caching.digest import hashed
from flowpar.caching.kinds import (
    DESCRIPTORS,
    LRU_CACHE,
    file_of,
    is_code,
    is_untracked,
    is_users,
    label,
    module_name,
    name_of,
    origin_of,
    short_text,
    unwrapped,
)
from flowpar.caching.names import (
    MISSING,
    Names,
    Namespace,
    Place,
    content_of_cell,
    imported,
)
from flowpar.caching.opaque import Taken, is_harmless, is_state
from flowpar.caching.origins import (
    Origin,
    is_extension,
    name_to_import,
    origin_of_module,
    package_of,
)
from flowpar.caching.reading import Import, Reading
from flowpar.caching.sources import Bound, Sources

__all__ = ["Things"]

_MOST: Final = 200_000
"""How many are kept from one epoch to the next: whoever makes functions all the time has many."""
_SCALARS: Final = (int, float, complex, bool, str, bytes, type(None), type(...))

_Fill = Callable[[Node], None]


class Things:
    """The nodes of the things met so far."""

    def __init__(self) -> None:
        self._sources = Sources()
        self._nodes: dict[object, Node] = {}
        self._made: list[Node] = []
        self._queue: list[tuple[Node, _Fill]] = []

    def are_unchanged(self) -> bool:
        """Return whether all is as it was when it was met."""
        checks = (node.is_unchanged for node in self._made)
        return len(self._made) <= _MOST and all(check() for check in checks if check is not None)

    def forget(self) -> None:
        """Begin anew."""
        self._nodes.clear()
        self._made.clear()
        self._queue.clear()

    def finish(self, root: Node) -> None:
        """Make a node and all it refers to complete."""
        while self._queue:
            node, fill = self._queue.pop()
            fill(node)
            node.local = hashed(*node.parts)
            node.parts = []
        solve(root)

    def referred(self, thing: object, place: Place) -> Node:
        """Return the node of whatever is found somewhere."""
        thing = unwrapped(thing)
        if place.role == "dep" and isinstance(thing, types.ModuleType):
            return self._new(Node(thing, "dep", thing.__name__, file_of(thing)), self._fill_module)
        if is_code(thing):
            return self.node(thing)
        node = Node(thing, place.role, place.name, short_text(thing), place.home)
        fill = functools.partial(self._fill_data, place=place)
        if isinstance(thing, _SCALARS):
            return self._new(node, fill)
        key = (id(thing), place.role, id(place.namespace), place.name, place.is_lenient)
        node.thing = thing, place.namespace
        return self._nodes.get(key) or self._new(node, fill, key)

    def node(self, thing: object) -> Node:
        """Return the node of something that counts by its code."""
        thing = unwrapped(thing)
        known = self._nodes.get(id(thing))
        return known if known is not None else self._new(*self._begin(thing), id(thing))

    def named(self, thing: object) -> bytes:
        """Return what a function is called, which counts where it is a value, and of nothing else.

        Two functions that say the same are one to who calls them, and two to who compares them, or
        asks for their names.
        """
        thing = unwrapped(thing)
        # A class has it in its node.
        return b"" if isinstance(thing, (type, types.ModuleType)) else label(thing)

    def untracked(self, name: str) -> Node:
        """Return the node of something that cannot be seen."""
        return self._new(Node(name, "untracked", name), self._fill_untracked)

    def refer_package(self, node: Node, module: str) -> None:
        """Have a node refer to the package that a module belongs to."""
        if origin_of_module(module.partition(".")[0]) is Origin.STDLIB:
            return
        name, version = package_of(module)
        key = "package", name
        known = self._nodes.get(key)
        if known is None:

            def fill(package: Node) -> None:
                package.parts += [b"package", name.encode(), version.encode()]

            known = self._new(Node(name, "package", name, version, name), fill, key)
        node.refer(name, known)

    def _new(self, node: Node, fill: _Fill, key: object = None) -> Node:
        if key is not None:
            self._nodes[key] = node
        self._made.append(node)
        self._queue.append((node, fill))
        return node

    def _begin(self, thing: Any) -> tuple[Node, _Fill]:  # noqa: PLR0911 - one for each kind
        name = str(getattr(thing, "__qualname__", None) or type(thing).__name__)
        home = module_name(thing)
        if is_untracked(thing):
            return Node(thing, "untracked", name), self._fill_untracked
        if isinstance(thing, types.MethodType):
            return Node(thing, name=name, home=home), self._fill_method
        if isinstance(thing, DESCRIPTORS):
            return Node(thing, name=name, home=home), self._fill_descriptor
        if not is_users(thing):
            return Node(thing, name=name, home=home), self._fill_foreign
        if isinstance(thing, types.ModuleType):
            return Node(thing, "helper", home, file_of(thing), home), self._fill_module
        if isinstance(thing, types.FunctionType):
            code = thing.__code__
            place = f"{Path(code.co_filename).name}:{code.co_firstlineno}"
            home = str(thing.__globals__.get("__name__") or home)
            return Node(thing, "helper", name, place, home), self._fill_function
        module = sys.modules.get(getattr(thing, "__module__", None) or "")
        if module is not None and is_extension(module):
            return Node(module, "helper", name, file_of(module), home), self._fill_compiled
        if isinstance(thing, type):
            return Node(thing, "class", name, file_of(thing), home), self._fill_class
        return Node(thing, name=name, home=home), self._fill_foreign

    # Values ---------------------------------------------------------------------------------------

    def _own(self, thing: object) -> bytes:
        """Return what can be said of a thing at once; it orders those met in a set."""
        name = self.named(thing)
        thing = unwrapped(thing)
        if isinstance(thing, types.MethodType):
            thing = thing.__func__
        if isinstance(thing, DESCRIPTORS):
            return hashed(b"descriptor", name, type(thing).__qualname__.encode())
        if not is_users(thing):
            return hashed(b"foreign", label(thing))
        if isinstance(thing, types.FunctionType):
            return hashed(b"function", name, self._sources.read(thing).digest)
        names = [name for name, _ in classes.content_of(thing)] if isinstance(thing, type) else []
        return hashed(b"own", label(thing), *(name.encode() for name in names))

    def _fill_data(self, node: Node, place: Place) -> None:
        is_scalar = isinstance(node.thing, _SCALARS)
        value = node.thing if is_scalar else node.thing[0]  # type: ignore[index]
        taken = Taken(value, place.path, self._own)
        node.parts += [b"data", taken.digest]
        for thing in taken.things:
            node.refer(name_of(thing), self.node(thing))
        if taken.unknown or is_harmless(value):
            self._refer_binding(node, value, taken, place)
        if not is_scalar:
            node.is_unchanged = lambda: taken.is_like(Taken(value, place.path, self._own))

    # What has no content --------------------------------------------------------------------------

    def _refer_binding(self, node: Node, value: object, taken: Taken, place: Place) -> None:
        """Take what has no content by how it was made, if that can be seen."""
        kind = type(value)
        node.kind, node.text = "opaque", f"{kind.__module__}.{kind.__qualname__}"
        binding = self._binding(value, place)
        if binding is not None:
            node.refer(place.name, binding)
        elif taken.unknown and not place.is_lenient:
            node.trouble = taken.unknown[0]

    def _binding(self, value: object, place: Place) -> Node | None:
        """Return the node of the statements that bind a value, in the module that really does."""
        namespace, name, seen = place.namespace, place.bound, set[tuple[int, str]]()
        while namespace is not None and (id(namespace), name) not in seen:
            seen.add((id(namespace), name))
            bound = self._sources.bound(namespace)
            if bound is None:
                return None
            if place.attribute:
                return self._statement(namespace, name, _of_class(bound, value, place))
            reading = bound.read(name, is_state=is_state(value))
            imports = reading.imports.get(name, []) if reading is not None else []
            onward = imports or [Import(each.module, name, each.level) for each in bound.stars]
            modules = [(each, imported(each, namespace)) for each in onward]
            source = next((each for each in modules if _gives(*each, value)), None)
            if source is None:
                # What was imported once, and is another thing now.
                is_stale = any(module is not None for _, module in modules) and imports
                return None if is_stale else self._statement(namespace, name, reading)
            what, module = source
            if isinstance(module, str):
                return self._of_package(module, what.attribute or "")
            namespace, name = vars(module), what.attribute or ""
        return None

    def _statement(self, namespace: Namespace, name: str, reading: Reading | None) -> Node | None:
        if reading is None:
            return None
        key = "statement", id(namespace), name, reading.digest

        def fill(node: Node) -> None:
            node.parts += [b"statement", reading.digest]
            names = Names(self, node, reading, namespace)
            names.refer_statements(name)
            node.is_unchanged = names.is_unchanged

        home = str(namespace.get("__name__") or "")
        fresh = Node(namespace, name=name, home=home)
        return self._nodes.get(key) or self._new(fresh, fill, key)

    def _of_package(self, module: str, name: str) -> Node:
        def fill(node: Node) -> None:
            node.parts += [b"from", module.encode(), name.encode()]
            self.refer_package(node, module)

        return self._new(Node(module, name=name), fill)

    # Functions ------------------------------------------------------------------------------------

    def _fill_function(self, node: Node) -> None:
        function: Any = node.thing
        reading = self._sources.read(function)
        node.parts += [b"function", reading.digest]
        names = Names(self, node, reading, function.__globals__)
        names.refer_function(function)
        self._refer_defaults(node, function)
        for call in reading.dynamic:
            node.refer(f"{call}()", self.untracked(f"{call}()"))
        if "__wrapped__" in vars(function):
            place = Place("closure", owner=node.name, home=node.home)
            node.refer("__wrapped__", self.referred(function.__wrapped__, place))
        counted = _stored_on_itself(function, reading)
        for name, value in sorted(_attributes(function, counted).items()):
            path = f"{node.name}.{name}"
            place = Place("global", path, node.name, home=node.home, is_lenient=True)
            node.parts.append(b"attribute " + name.encode())
            node.refer(path, self.referred(value, place))
        made_of = _made_of(function, counted)

        def is_unchanged() -> bool:
            now = _made_of(function, counted)
            same = len(now) == len(made_of) and all(map(_is, now, made_of))
            return same and names.is_unchanged()

        node.is_unchanged = is_unchanged

    def _refer_defaults(self, node: Node, function: Any) -> None:
        code = function.__code__
        names = code.co_varnames[: code.co_argcount]
        defaults = function.__defaults__ or ()
        pairs = list(zip(names[len(names) - len(defaults) :], defaults, strict=True))
        pairs += sorted((function.__kwdefaults__ or {}).items())
        for name, value in pairs:
            node.parts.append(b"default " + name.encode())
            place = Place("default", name, node.name, home=node.home)
            node.refer(name, self.referred(value, place))

    def _fill_method(self, node: Node) -> None:
        method: Any = node.thing
        node.parts.append(b"method")
        node.refer(name_of(method), self.node(method.__func__))
        self._refer_self(node, method.__self__)

    def _refer_self(self, node: Node, owner: object) -> None:
        place = Place("closure", "self", node.name, home=node.home)
        node.refer("self", self.referred(owner, place))

    def _fill_descriptor(self, node: Node) -> None:
        """Follow the functions in a property, a class method or a cache of results."""
        thing: Any = node.thing
        node.parts += [b"descriptor", type(thing).__qualname__.encode()]
        names: tuple[str, ...] = ("__func__", "fget", "fset", "fdel", "func", "__wrapped__")
        if isinstance(thing, (staticmethod, classmethod)):
            names = names[:1]  # they show the attributes of their function as their own
        if isinstance(thing, functools.singledispatchmethod):
            names = (*names, "dispatcher")
        for name in names:
            function = getattr(thing, name, None)
            if function is not None:
                node.parts.append(name.encode())
                place = Place("closure", name, node.name, home=node.home)
                node.refer(name_of(function), self.referred(function, place))
        if isinstance(thing, functools.partialmethod):
            place = Place("closure", "arguments", node.name, home=node.home)
            node.refer("arguments", self.referred((thing.args, thing.keywords), place))
        if isinstance(thing, LRU_CACHE):
            node.parts.append(repr(sorted(thing.cache_parameters().items())).encode())

    # Classes --------------------------------------------------------------------------------------

    def _fill_class(self, node: Node) -> None:
        kind: Any = node.thing
        node.parts += [b"class", label(kind)]
        # A metaclass of Python's own comes with the bases, and not by the same name everywhere.
        own = (type(kind),) if origin_of(type(kind)) is not Origin.STDLIB else ()
        for base in (*kind.__bases__, *own):
            node.refer(base.__qualname__, self.node(base))
        path = kind.__qualname__
        spelt = classes.annotations_of(kind)
        if any(spelt):
            place = Place("class", "annotations", path, home=node.home, is_lenient=True)
            node.refer(f"{path}.annotations", self.referred(spelt, place))
        names: Namespace = getattr(sys.modules.get(kind.__module__), "__dict__", {})
        if unwrapped(names.get(path)) is not kind:  # nested, or no longer there
            names = None
        for name, value in classes.content_of(kind):
            node.parts.append(name.encode())
            place = Place("class", name, path, names, path, name, home=node.home)
            node.refer(f"{path}.{name}", self.referred(value, place))
        registered = classes.registered_in(kind)
        node.parts += registered
        known = classes.snapshot(kind)
        bases = kind.__bases__

        def is_unchanged() -> bool:
            now = classes.snapshot(kind)
            same = now.keys() == known.keys() and all(now[each] is known[each] for each in now)
            return same and kind.__bases__ == bases and classes.registered_in(kind) == registered

        node.is_unchanged = is_unchanged

    # Modules and other code -----------------------------------------------------------------------

    def _fill_module(self, node: Node) -> None:
        """Take a whole module by its files, and all of the user's that it imports."""
        module: Any = node.thing
        if not is_users(module):
            self._fill_foreign(node)
            return
        if is_extension(module):
            self._fill_compiled(node)
            return
        whole = self._sources.whole(module)
        node.parts += [b"module", name_to_import(module.__name__).encode(), *whole.parts]
        for what, package in whole.imports:
            found = imported(what, {"__package__": package})
            if isinstance(found, types.ModuleType) and found is not module:
                node.refer(found.__name__, self.node(found))
        spec = getattr(module, "__spec__", None)
        node.is_unchanged = lambda: getattr(module, "__spec__", None) is spec

    def _fill_compiled(self, node: Node) -> None:
        """Take a compiled module, or something in it, by the bytes of its file."""
        module: Any = node.thing
        try:
            node.parts += [b"file", Path(module.__file__).read_bytes()]
        except (OSError, TypeError, AttributeError):
            node.parts += [b"no file", module.__name__.encode()]
        node.parts.append(node.name.encode())  # one file holds many functions

    def _fill_foreign(self, node: Node) -> None:
        """Take what others wrote by name, with the version of its package."""
        thing: Any = node.thing
        node.parts += [b"foreign", label(thing)]
        if origin_of(thing) is Origin.PACKAGE:
            self.refer_package(node, module_name(thing))
        owner = getattr(thing, "__self__", None)
        if owner is not None and not isinstance(owner, (types.ModuleType, type)):
            self._refer_self(node, owner)
        if not isinstance(thing, types.FunctionType):
            return
        # A decorator of theirs gives a function of theirs, in which that of the user's is hidden.
        inner = vars(thing)
        for name in ("__wrapped__", "registry"):
            if name in inner:
                place = Place("closure", name, node.name, home=node.home)
                node.refer(name, self.referred(inner[name], place))
        for cell in thing.__closure__ or ():
            value = content_of_cell(cell)
            if isinstance(value, (types.FunctionType, types.MethodType, type, functools.partial)):
                place = Place("closure", "function", node.name, home=node.home)
                node.refer(name_of(value), self.referred(value, place))

    def _fill_untracked(self, node: Node) -> None:
        node.parts.append(b"untracked")


def _of_class(bound: Bound, value: object, place: Place) -> Reading | None:
    """Return what a class statement says of an attribute.

    What others put there is made of what the statement says.
    """
    reading = bound.read_attribute(place.bound, place.attribute)
    if reading is not None or is_users(type(value)):
        return reading
    return bound.read(place.bound)


def _gives(what: Import, module: types.ModuleType | str | None, value: object) -> bool:
    """Return whether an import binds a name to a value."""
    if what.attribute is None or module is None:
        return False
    found = sys.modules.get(module) if isinstance(module, str) else module
    return getattr(found, what.attribute, MISSING) is value


def _stored_on_itself(function: Any, reading: Reading) -> set[str]:
    """Return the attributes that a function binds on itself while it runs."""
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    found: set[str] = set()
    for name, attributes in reading.stored.items():
        inner = content_of_cell(cells[name]) if name in cells else MISSING
        if unwrapped(function.__globals__.get(name) if inner is MISSING else inner) is function:
            found |= attributes
    return found


def _attributes(function: Any, counted: set[str]) -> dict[str, object]:
    """Return the attributes of a function that decorators and others have set."""
    return {
        name: value
        for name, value in vars(function).items()
        if name != "__wrapped__" and name not in counted and "flowpar" not in name
    }


def _made_of(function: Any, counted: set[str]) -> list[object]:
    """Return what a function consists of, to see later whether it changed."""
    cells = [content_of_cell(cell) for cell in function.__closure__ or ()]
    pairs = {**(function.__kwdefaults__ or {}), **_attributes(function, counted)}
    named = [each for pair in pairs.items() for each in pair]
    wrapped = vars(function).get("__wrapped__")
    return [function.__code__, function.__defaults__, wrapped, *named, *cells]


def _is(first: object, second: object) -> bool:
    return first is second
