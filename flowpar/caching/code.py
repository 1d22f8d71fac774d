"""What the result of a function depends on besides its arguments: its code and all that it uses.

Each thing met on the way is a node of a graph: a function, a class, a global constant, a package.
What a node says of itself is hashed without what it refers to; then the digests of what it refers
to are added, from the leaves up. Those that refer to each other in a circle are refined together,
as states of an automaton would be, so that it does not matter by which of them one came in.
"""

from __future__ import annotations

import builtins
import dataclasses
import enum
import functools
import importlib
import importlib.util
import inspect
import re
import reprlib
import sys
import threading
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from flowpar.caching.digest import NotDigestible, ValueDigester, hashed
from flowpar.caching.origins import (
    Origin,
    is_extension,
    origin_of_file,
    origin_of_module,
    package_of,
)
from flowpar.caching.syntax import Chain, Import, Reading, Sources, global_names

__all__ = ["Code", "Component", "FunctionDigester", "untracked"]

F = TypeVar("F")
_Namespace = Any
"""What names are looked up in: a dict, or a mapping proxy of a class."""

_MISSING: Final = object()
_NO_DEFAULT: Final = type(dataclasses.MISSING)
_LONGEST_TEXT: Final = 80
_MOST_NODES: Final = 200_000
"""How many are kept from one epoch to the next: whoever makes functions all the time has many."""
_SCALARS: Final = (int, float, complex, bool, str, bytes, type(None), type(...))


def untracked(function: F) -> F:
    """Leave a function or class out of the code of those that use it.

    For what cannot change a result, such as reports of progress: editing it, or what it uses,
    never makes a cached result stale.

    Parameters
    ----------
    function
        A function or class.

    Examples
    --------
    >>> @untracked
    ... def report(message):
    ...     print(message)
    """
    function.__flowpar_untracked__ = True  # type: ignore[attr-defined]
    return function


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
    """

    kind: str
    name: str
    digest: bytes
    text: str


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


class _Node:
    """A thing met, what it says of itself, and what it refers to.

    Attributes
    ----------
    thing
        Kept, so that nothing else gets its id.
    kind
        As that of a component; empty if it is only a step on the way to others.
    parts
        What it says of itself.
    refs
        What it refers to, in an order that is part of its content, by name.
    local
        Digest of the parts.
    digest
        Of all; empty until all it refers to is known.
    is_unchanged
        Looks whether what was read when the node was made is still so.
    """

    __slots__ = (
        "digest",
        "is_unchanged",
        "kind",
        "local",
        "name",
        "parts",
        "refs",
        "text",
        "thing",
    )

    def __init__(self, thing: object, kind: str = "", name: str = "", text: str = "") -> None:
        self.thing = thing
        self.kind = kind
        self.name = name
        self.text = text
        self.parts: list[bytes] = []
        self.refs: list[tuple[str, _Node]] = []
        self.local = self.digest = b""
        self.is_unchanged: Callable[[], bool] | None = None

    def refer(self, name: str, target: _Node) -> None:
        self.refs.append((name, target))


class FunctionDigester:
    """Gives functions the digests of their code, and remembers them.

    All methods may be called from any thread.

    Attributes
    ----------
    values
        Digests values in which functions and classes count by their code.
    """

    def __init__(self) -> None:
        self.values = ValueDigester(code=self.part)
        self._shallow = ValueDigester(code=self._meet)
        self._met: list[tuple[bytes, object]] = []
        self._sources = Sources()
        self._nodes: dict[object, _Node] = {}
        self._made: list[_Node] = []
        self._queue: list[tuple[_Node, Callable[[_Node], None]]] = []
        self._codes: dict[tuple[int, ...], tuple[object, Code]] = {}
        self._open_methods: set[int] = set()
        self._is_verified = True
        self._lock = threading.RLock()

    def new_epoch(self) -> None:
        """Say that globals may have changed since; the next call looks for that."""
        self._is_verified = False

    def code(self, function: Callable[..., object], deps: Sequence[object] = ()) -> Code:
        """Return what a function's result depends on besides its arguments.

        Parameters
        ----------
        function
            Anything callable.
        deps
            More that it depends on and that no analysis can see: functions, values, modules.
        """
        key = (id(function), *map(id, deps))
        with self._lock:
            self._verify()
            known = self._codes.get(key)
            if known is None:
                # With what was asked for, whose ids would else be given to others.
                known = (function, *deps), self._code(function, deps)
                self._codes[key] = known
            return known[1]

    def part(self, thing: object) -> bytes:
        """Return the digest of a function, class, method, module or builtin met as a value."""
        with self._lock:
            self._verify()
            if isinstance(thing, types.MethodType):
                return self._method_part(thing)
            node = self._node(thing)
            self._finish(node)
            return node.digest

    def _method_part(self, method: types.MethodType) -> bytes:
        # Not remembered: its object may change, and every access to it makes a method anew.
        known = id(method)
        if known in self._open_methods:
            return b"this method"
        self._open_methods.add(known)
        try:
            return hashed(
                b"method", self.part(method.__func__), self.values.digest(method.__self__)
            )
        finally:
            self._open_methods.discard(known)

    # The graph ------------------------------------------------------------------------------------

    def _verify(self) -> None:
        """Forget everything if anything that was read has changed."""
        if self._is_verified:
            return
        self._is_verified = True
        checks = (node.is_unchanged for node in self._made)
        full = len(self._made) > _MOST_NODES
        if full or not all(check() for check in checks if check is not None):
            self._nodes.clear()
            self._made.clear()
            self._codes.clear()

    def _code(self, function: object, deps: Sequence[object]) -> Code:
        root = self._referred(function, "code")
        more = [self._referred(each, "dep") for each in deps]
        for node in (root, *more):
            self._finish(node)
        digest = hashed(root.digest, *(node.digest for node in more)) if deps else root.digest
        name = getattr(function, "__name__", None) or type(function).__name__
        first = Component("code", name, root.local, root.text)
        found = {("code", name, root.local): first}
        for at, node in enumerate(more):
            label = getattr(deps[at], "__name__", None) or f"deps[{at}]"
            found["dep", label, node.local] = Component("dep", label, node.local, node.text)
        for each in _components(root, *more):
            found.setdefault((each.kind, each.name, each.digest), each)
        return Code(digest, tuple(found.values()))

    def _finish(self, root: _Node) -> None:
        """Make a node and all it refers to complete."""
        try:
            while self._queue:
                node, fill = self._queue.pop()
                fill(node)
                node.local = hashed(*node.parts)
                node.parts = []
        except BaseException:
            # Nodes that were begun are of no use to anybody.
            self._queue.clear()
            self._nodes.clear()
            self._made.clear()
            raise
        _solve(root)

    def _new(self, node: _Node, fill: Callable[[_Node], None], key: object = None) -> _Node:
        if key is not None:
            self._nodes[key] = node
        self._made.append(node)
        self._queue.append((node, fill))
        return node

    def _referred(
        self, thing: object, role: str, namespace: _Namespace = None, name: str = ""
    ) -> _Node:
        """Return the node of whatever is bound to a name."""
        thing = _unwrapped(thing)
        if role == "dep" and isinstance(thing, types.ModuleType):
            return self._new(_Node(thing, "dep", thing.__name__), self._fill_file)
        if _is_code(thing):
            return self._node(thing)
        if isinstance(thing, _SCALARS):
            return self._new(_Node(thing, role, name, short_text(thing)), self._fill_data)
        key = (id(thing), role, id(namespace), name)
        known = self._nodes.get(key)
        if known is not None:
            return known
        fill = functools.partial(self._fill_data, namespace=namespace)
        return self._new(_Node((thing, namespace), role, name, short_text(thing)), fill, key)

    def _node(self, thing: object) -> _Node:
        """Return the node of something that counts by its code."""
        thing = _unwrapped(thing)
        known = self._nodes.get(id(thing))
        return known if known is not None else self._new(*self._begin(thing), id(thing))

    def _begin(  # noqa: PLR0911 - one for each kind of thing
        self, thing: Any
    ) -> tuple[_Node, Callable[[_Node], None]]:
        name = str(getattr(thing, "__qualname__", None) or type(thing).__name__)
        if _is_untracked(thing):
            return _Node(thing, "untracked", name), self._fill_untracked
        if isinstance(thing, types.MethodType):
            return _Node(thing), self._fill_method
        if isinstance(thing, _DESCRIPTORS):
            return _Node(thing), self._fill_descriptor
        if isinstance(thing, types.ModuleType):
            return _Node(thing), self._fill_module
        if not _is_users(thing):
            return _Node(thing), self._fill_foreign
        if isinstance(thing, types.FunctionType):
            code = thing.__code__
            place = f"{Path(code.co_filename).name}:{code.co_firstlineno}"
            return _Node(thing, "helper", name, place), self._fill_function
        module = sys.modules.get(getattr(thing, "__module__", None) or "")
        if module is not None and is_extension(module):
            place = Path(module.__file__ or "").name
            return _Node(module, "helper", name, place), self._fill_file
        if isinstance(thing, type):
            return _Node(thing, "class", name, _file_of(thing)), self._fill_class
        return _Node(thing), self._fill_foreign

    # Values ---------------------------------------------------------------------------------------

    def _meet(self, thing: object) -> bytes:
        """Stand in for the code of what is met in a value; it becomes a node of its own."""
        own = self._own(_unwrapped(thing))
        self._met.append((own, thing))
        return own

    def _own(self, thing: object) -> bytes:
        """Return what can be said of a thing at once; it orders those met in a set."""
        if isinstance(thing, types.MethodType):
            thing = thing.__func__
        if isinstance(thing, _DESCRIPTORS):
            return hashed(b"descriptor", type(thing).__qualname__.encode())
        if not _is_users(thing):
            return hashed(b"foreign", _label(thing))
        if isinstance(thing, types.FunctionType):
            return self._sources.read(thing).digest
        names = sorted(vars(thing)) if isinstance(thing, type) else []
        return hashed(b"own", *(name.encode() for name in names if name not in _NOT_CONTENT))

    def _take_apart(self, value: object, path: str) -> tuple[bytes, list[object]]:
        """Return the digest of a value without the code in it, and that code."""
        met: list[tuple[bytes, object]] = []
        self._met = met
        digest = self._shallow.digest(value, path)
        # In a set the order in which they were met says nothing; elsewhere it decides between
        # those that look alike.
        met.sort(key=lambda each: each[0])
        return digest, [thing for _, thing in met]

    def _fill_data(self, node: _Node, namespace: _Namespace = None) -> None:
        value = node.thing if isinstance(node.thing, _SCALARS) else node.thing[0]  # type: ignore[index]
        try:
            digest, things = self._take_apart(value, node.name)
        except NotDigestible:
            self._fill_opaque(node, value, namespace)
            return
        node.parts += [b"data", digest]
        for thing in things:
            node.refer(_name_of(thing), self._node(thing))
        if isinstance(value, _SCALARS):
            return
        known = digest, [id(thing) for thing in things]

        def is_unchanged() -> bool:
            try:
                digest, things = self._take_apart(value, node.name)
            except NotDigestible:
                return False
            return (digest, [id(thing) for thing in things]) == known

        node.is_unchanged = is_unchanged

    def _fill_opaque(self, node: _Node, value: object, namespace: _Namespace) -> None:
        """Take a value by how it was made, having no content of its own."""
        kind = type(value)
        node.kind, node.text = "opaque", f"{kind.__module__}.{kind.__qualname__}"
        name = node.name.rpartition(".")[2]
        bound = self._sources.binding(namespace, name) if namespace is not None else None
        node.parts += [b"opaque", bound or node.text.encode()]
        node.refer(kind.__qualname__, self._node(kind))

    # Functions ------------------------------------------------------------------------------------

    def _fill_function(self, node: _Node) -> None:
        function: Any = node.thing
        reading = self._sources.read(function)
        node.parts += [b"function", reading.digest]
        reads = _Reads(function, reading)
        node.is_unchanged = reads.is_unchanged
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        outside = global_names(function.__code__)
        implicit = [name for name in cells if name not in reading.names]
        for at, name in enumerate((*reading.names, *implicit)):
            node.parts.append(b"%d" % at)
            actual = name if name in outside else _mangled(name, outside)
            if name in cells:
                self._refer_cell(node, name, cells[name], reads)
            elif actual is not None:
                self._refer_global(node, actual, reading.chains.get(name, {()}), reads)
            elif name in reading.imports:
                self._refer_imports(node, name, reads)
        self._refer_defaults(node, function)
        for call in reading.dynamic:
            node.refer(f"{call}()", self._untracked(f"{call}()"))
        if "__wrapped__" in vars(function):
            node.refer("__wrapped__", self._referred(function.__wrapped__, "closure"))

    def _refer_cell(self, node: _Node, name: str, cell: types.CellType, reads: _Reads) -> None:
        value = _content_of(cell)
        if value is _MISSING:
            node.parts.append(b"empty cell")
            return
        chains = reads.reading.chains.get(name, {()})
        self._refer(node, name, value, chains, reads=reads, role="closure")

    def _refer_global(self, node: _Node, name: str, chains: set[Chain], reads: _Reads) -> None:
        namespace = reads.namespace
        value = namespace.get(name, _MISSING)
        reads.add(namespace, name, value)
        if value is not _MISSING:
            self._refer(node, name, value, chains, reads=reads, namespace=namespace)
        elif hasattr(builtins, name):
            node.parts.append(b"builtin " + name.encode())
        else:
            self._miss(node, name)

    def _refer_imports(self, node: _Node, name: str, reads: _Reads) -> None:
        package = reads.namespace.get("__package__") or ""
        chains = reads.reading.chains.get(name, {()})
        for what in reads.reading.imports[name]:
            module = _imported(what, package)
            if module is None:
                self._miss(node, name)
            elif isinstance(module, str):
                self._refer_package(node, module)
            elif what.attribute is None:
                self._refer(node, name, module, chains - {()} or {()}, reads=reads)
            else:
                wanted = {(what.attribute, *chain) for chain in chains}
                self._refer(node, module.__name__, module, wanted, reads=reads)

    def _refer_defaults(self, node: _Node, function: Any) -> None:
        code = function.__code__
        names = code.co_varnames[: code.co_argcount]
        defaults = function.__defaults__ or ()
        pairs = list(zip(names[len(names) - len(defaults) :], defaults, strict=True))
        pairs += sorted((function.__kwdefaults__ or {}).items())
        for name, value in pairs:
            node.parts.append(b"default " + name.encode())
            node.refer(name, self._referred(value, "default", None, name))

    def _refer(  # noqa: PLR0913 - what is referred to, and where it was found
        self,
        node: _Node,
        path: str,
        value: object,
        chains: Iterable[Chain],
        *,
        reads: _Reads,
        namespace: _Namespace = None,
        role: str = "global",
    ) -> None:
        """Refer to what a name stands for; of a module only to those attributes that are used."""
        follow = isinstance(value, types.ModuleType) and _is_users(value)
        if not follow or is_extension(value):  # type: ignore[arg-type]
            node.refer(path, self._referred(value, role, namespace, path))
            return
        by_first: dict[str, set[Chain]] = {}
        for chain in chains:
            if chain:
                by_first.setdefault(chain[0], set()).add(chain[1:])
            else:
                node.parts.append(b"module " + value.__name__.encode())  # type: ignore[attr-defined]
        for first, rest in sorted(by_first.items()):
            inner = vars(value)
            found = inner.get(first, _MISSING)
            reads.add(inner, first, found)
            if found is _MISSING:
                found = _attribute(value, first)
            node.parts.append(first.encode())
            if found is _MISSING:
                self._miss(node, f"{path}.{first}")
            else:
                self._refer(node, f"{path}.{first}", found, rest, reads=reads, namespace=inner)

    def _miss(self, node: _Node, name: str) -> None:
        node.parts.append(b"missing " + name.rpartition(".")[2].encode())
        node.refer(name, self._untracked(name))

    def _untracked(self, name: str) -> _Node:
        return self._new(_Node(name, "untracked", name), self._fill_untracked)

    def _fill_untracked(self, node: _Node) -> None:
        node.parts.append(b"untracked")

    # Other code -----------------------------------------------------------------------------------

    def _fill_method(self, node: _Node) -> None:
        method: Any = node.thing
        node.parts.append(b"method")
        node.refer(_name_of(method), self._node(method.__func__))
        node.refer("self", self._referred(method.__self__, "closure", None, "self"))

    def _fill_descriptor(self, node: _Node) -> None:
        """Follow the functions in a property, a class method or a cache of results."""
        thing: Any = node.thing
        node.parts += [b"descriptor", type(thing).__qualname__.encode()]
        names: tuple[str, ...] = ("__func__", "fget", "fset", "fdel", "func", "__wrapped__")
        if isinstance(thing, (staticmethod, classmethod)):
            names = names[:1]  # they show the attributes of their function as their own
        for name in names:
            function = getattr(thing, name, None)
            if function is not None:
                node.parts.append(name.encode())
                node.refer(_name_of(function), self._referred(function, "closure", None, name))
        if isinstance(thing, functools.partialmethod):
            bound = (thing.args, thing.keywords)
            node.refer("arguments", self._referred(bound, "closure", None, "arguments"))
        if isinstance(thing, _LRU_CACHE):
            node.parts.append(repr(sorted(thing.cache_parameters().items())).encode())

    def _fill_module(self, node: _Node) -> None:
        module: Any = node.thing
        if not _is_users(module):
            self._fill_foreign(node)
        elif is_extension(module):
            self._fill_file(node)
        else:
            node.parts += [b"module", module.__name__.encode()]

    def _fill_file(self, node: _Node) -> None:
        """Take a compiled module, or one that was declared, by the bytes of its file."""
        module: Any = node.thing
        node.text = _file_of(module)
        if not _is_users(module):
            self._fill_foreign(node)
            return
        try:
            node.parts += [b"file", Path(module.__file__).read_bytes()]
        except (OSError, TypeError, AttributeError):
            node.parts += [b"no file", module.__name__.encode()]
        if node.kind == "helper":
            node.parts.append(node.name.encode())  # one file holds many functions

    def _fill_foreign(self, node: _Node) -> None:
        """Take what others wrote by name, with the version of its package."""
        thing: Any = node.thing
        node.parts += [b"foreign", _label(thing)]
        if _origin_of(thing) is Origin.PACKAGE:
            self._refer_package(node, _module_name(thing))
        owner = getattr(thing, "__self__", None)
        if owner is not None and not isinstance(owner, (types.ModuleType, type)):
            node.refer("self", self._referred(owner, "closure", None, "self"))
        if not isinstance(thing, types.FunctionType):
            return
        # A decorator of theirs gives a function of theirs, in which that of the user's is hidden.
        if "__wrapped__" in vars(thing):
            node.refer("__wrapped__", self._referred(vars(thing)["__wrapped__"], "closure"))
        if "registry" in vars(thing):
            registry = dict(vars(thing)["registry"])
            node.refer("registry", self._referred(registry, "closure", None, "registry"))
        for cell in thing.__closure__ or ():
            value = _content_of(cell)
            if isinstance(value, (types.FunctionType, types.MethodType, type, functools.partial)):
                node.refer(_name_of(value), self._referred(value, "closure", None, "function"))

    def _refer_package(self, node: _Node, module: str) -> None:
        if origin_of_module(module.partition(".")[0]) is Origin.STDLIB:
            return
        name, version = package_of(module)
        key = "package", name
        known = self._nodes.get(key)
        if known is None:

            def fill(package: _Node) -> None:
                package.parts += [b"package", name.encode(), version.encode()]

            known = self._new(_Node(name, "package", name, version), fill, key)
        node.refer(name, known)

    def _fill_class(self, node: _Node) -> None:
        kind: Any = node.thing
        node.parts.append(b"class")
        # A metaclass of Python's own comes with the bases, and not by the same name everywhere.
        own = (type(kind),) if _origin_of(type(kind)) is not Origin.STDLIB else ()
        for base in (*kind.__bases__, *own):
            node.refer(base.__qualname__, self._node(base))
        content = list(_content(kind))
        for name, value in content:
            node.parts.append(name.encode())
            node.refer(name, self._referred(value, "class", None, f"{kind.__qualname__}.{name}"))
        known = _snapshot(kind)
        bases = kind.__bases__

        def is_unchanged() -> bool:
            now = _snapshot(kind)
            same = now.keys() == known.keys() and all(now[each] is known[each] for each in now)
            return same and kind.__bases__ == bases

        node.is_unchanged = is_unchanged


class _Reads:
    """What a function is made of and what its names stood for, to see later whether it changed."""

    def __init__(self, function: Any, reading: Reading) -> None:
        self.reading = reading
        self.namespace: _Namespace = function.__globals__
        self._function = function
        self._made_of = self._look()
        self._names: list[tuple[_Namespace, str, object]] = []

    def add(self, namespace: _Namespace, name: str, value: object) -> None:
        self._names.append((namespace, name, value))

    def is_unchanged(self) -> bool:
        for namespace, name, value in self._names:
            if namespace.get(name, _MISSING) is not value:
                return False
        now = self._look()
        return len(now) == len(self._made_of) and all(map(_is, now, self._made_of))

    def _look(self) -> list[object]:
        function = self._function
        cells = [_content_of(cell) for cell in function.__closure__ or ()]
        keywords = [each for pair in (function.__kwdefaults__ or {}).items() for each in pair]
        return [function.__code__, function.__defaults__, *keywords, *cells]


def _is(first: object, second: object) -> bool:
    return first is second


def _content_of(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        return _MISSING


# Digests of a graph -------------------------------------------------------------------------------


def _solve(root: _Node) -> None:
    """Give a node its digest, and all that it refers to."""
    if root.digest:
        return
    order: dict[_Node, int] = {root: 0}
    low = {root: 0}
    path: list[_Node] = [root]
    stack: list[tuple[_Node, Iterator[tuple[str, _Node]]]] = [(root, iter(root.refs))]
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


def _cut(path: list[_Node], first: _Node) -> list[_Node]:
    """Take the end of a path off, from a node on."""
    end = [path.pop()]
    while end[-1] is not first:
        end.append(path.pop())
    return end


def _close(circle: list[_Node]) -> None:
    """Give digests to nodes that can all reach each other."""
    inside = set(circle)
    if len(circle) == 1 and all(target not in inside for _, target in circle[0].refs):
        node = circle[0]
        node.digest = hashed(b"node", node.local, *(target.digest for _, target in node.refs))
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
    whole = hashed(b"circle", *sorted(set(colours.values())))
    for node in circle:
        node.digest = hashed(b"of a circle", whole, colours[node])


def _components(*roots: _Node) -> Iterator[Component]:
    """Give what nodes reach, nearest to the beginning of their code first."""
    seen = set(roots)
    stack = [pair for root in reversed(roots) for pair in reversed(root.refs)]
    while stack:
        name, node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.kind:
            label = node.name if node.kind == "package" else name
            yield Component(node.kind, label, node.local, node.text)
        stack.extend(reversed(node.refs))


# Kinds of things ----------------------------------------------------------------------------------

_LRU_CACHE: Final = type(functools.lru_cache(maxsize=1)(len))
_DESCRIPTORS: Final = (
    staticmethod,
    classmethod,
    property,
    functools.cached_property,
    functools.partialmethod,
    functools.singledispatchmethod,
    _LRU_CACHE,
)
_CODE: Final = (
    *_DESCRIPTORS,
    type,
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    types.MethodWrapperType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    types.ModuleType,
)


def _is_code(thing: object) -> bool:
    """Return whether a thing counts by its code, and not as a value."""
    if isinstance(thing, _CODE) or _is_untracked(thing):
        return True
    # A function that was compiled, by Cython or as a ufunc of numpy.
    return type(thing).__name__ in {"cython_function_or_method", "fused_cython_function"}


def _is_untracked(thing: object) -> bool:
    # In its own dictionary: a subclass or an instance is not what was marked.
    try:
        return "__flowpar_untracked__" in vars(thing)
    except TypeError:
        return False


def _unwrapped(thing: Any) -> object:
    """Return what a task of flowpar's was made of."""
    for _ in range(100):
        kind = type(thing)
        if kind.__module__.partition(".")[0] != "flowpar" or not callable(thing):
            break
        inner = inspect.getattr_static(thing, "__wrapped__", None)
        if inner is None:
            break
        thing = thing.__wrapped__
    return thing


def _origin_of(thing: object) -> Origin:
    if isinstance(thing, types.FunctionType):
        return origin_of_file(thing.__code__.co_filename)
    if isinstance(thing, types.ModuleType):
        return origin_of_module(thing.__name__, thing)
    return origin_of_module(_module_name(thing))


def _is_users(thing: object) -> bool:
    return _origin_of(thing) is Origin.USER


def _module_name(thing: Any) -> str:
    if isinstance(thing, types.ModuleType):
        return thing.__name__
    for owner in (thing, getattr(thing, "__objclass__", None), type(thing)):
        module = getattr(owner, "__module__", None)
        if isinstance(module, str):
            return module
    return "builtins"


def _label(thing: Any) -> bytes:
    name = getattr(thing, "__qualname__", None) or getattr(thing, "__name__", None)
    # Python moves things into private modules, as from pathlib into pathlib._local.
    first, *rest = _module_name(thing).split(".")
    module = ".".join((first, *(part for part in rest if not part.startswith("_"))))
    return f"{module}:{name or type(thing).__qualname__}".encode()


def _name_of(thing: object) -> str:
    name = getattr(thing, "__qualname__", None) or getattr(thing, "__name__", None)
    return name if isinstance(name, str) else type(thing).__qualname__


def _file_of(thing: Any) -> str:
    module = thing if isinstance(thing, types.ModuleType) else sys.modules.get(thing.__module__)
    return Path(getattr(module, "__file__", None) or "").name


# Classes ------------------------------------------------------------------------------------------

_NOT_CONTENT: Final = frozenset(
    {
        "__dict__",
        "__weakref__",
        "__slotnames__",
        "__doc__",
        "__module__",
        "__qualname__",
        "__firstlineno__",
        "__annotations__",
        "__static_attributes__",
        "__annotate__",
        "__annotate_func__",
        "__annotations_cache__",
        "__conditional_annotations__",
        "__classdictcell__",
        "__type_params__",
        "__parameters__",
        "__abstractmethods__",
        "__orig_bases__",
        "__dataclass_fields__",
        "__dataclass_params__",
        "__match_args__",
        "__replace__",
        "__protocol_attrs__",
        "__callable_proto_members_only__",
        "__non_callable_proto_members__",
        "__readonly_keys__",
        "__mutable_keys__",
        "__closed__",
        "__extra_items__",
        "__flowpar_untracked__",
        "_is_protocol",
        "_is_runtime_protocol",
    }
)
"""What Python puts into a class by itself, and some versions of it only."""


def _content(kind: Any) -> Iterator[tuple[str, object]]:
    """Give what a class consists of, as names and values."""
    yield "annotated", tuple(_annotated(kind))
    if isinstance(kind, enum.EnumMeta):
        yield "members", [(name, kind.__members__[name]._value_) for name in kind.__members__]
    if "__dataclass_params__" in vars(kind):
        yield "dataclass", _dataclass_facts(kind)
    members = set(kind.__members__) if isinstance(kind, enum.EnumMeta) else set()
    for name, value in sorted(_snapshot(kind).items()):
        if name not in members and not _is_made(kind, name, value):
            yield name, value


def _snapshot(kind: Any) -> dict[str, object]:
    return {
        name: value
        for name, value in vars(kind).items()
        if name not in _NOT_CONTENT and not name.startswith("_abc_")
    }


def _is_made(kind: Any, name: str, value: object) -> bool:
    """Return whether something in a class was not written by the user but generated."""
    if isinstance(value, (types.MemberDescriptorType, types.GetSetDescriptorType)):
        return True
    if isinstance(kind, enum.EnumMeta) and name.startswith("_"):
        function = getattr(value, "__func__", value)
        return not isinstance(function, types.FunctionType) or not _is_users(function)
    is_generated = "__dataclass_params__" in vars(kind) or hasattr(kind, "_fields")
    function = getattr(value, "__func__", getattr(value, "__wrapped__", value))
    if not isinstance(function, types.FunctionType):
        return is_generated and type(value).__name__ == "_tuplegetter"
    if not _is_users(function):
        return name.startswith("_")
    return is_generated and function.__code__.co_filename.startswith("<")


def _annotated(kind: Any) -> Iterator[str]:
    try:
        yield from inspect.get_annotations(kind)
    except Exception:  # noqa: BLE001 - an annotation that cannot be evaluated, from Python 3.14 on
        return


def _dataclass_facts(kind: Any) -> object:
    params = kind.__dataclass_params__
    facts = [getattr(params, name) for name in ("init", "repr", "eq", "order", "frozen")]
    fields = []
    for each in dataclasses.fields(kind):
        # By type: of a class that came as a pickle, it is another object.
        default = None if isinstance(each.default, _NO_DEFAULT) else (each.default,)
        factory = None if isinstance(each.default_factory, _NO_DEFAULT) else each.default_factory
        flags = (each.init, each.repr, each.hash, each.compare, each.kw_only)
        fields.append((each.name, default, factory, flags))
    return facts, fields


# Names --------------------------------------------------------------------------------------------


def _mangled(name: str, outside: set[str]) -> str | None:
    """Return the global name that a private name in a class stands for."""
    if not name.startswith("__") or name.endswith("__"):
        return None
    return min(
        (each for each in outside if each.startswith("_") and each.endswith(name)), default=None
    )


def _imported(what: Import, package: str) -> types.ModuleType | str | None:
    """Return the module that a function would import: one of others' only by name."""
    name = what.module
    if what.level:
        base = package.rsplit(".", what.level - 1)[0]
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
    found = getattr(module, name, _MISSING)
    if found is _MISSING and hasattr(module, "__path__"):
        return _import(f"{module.__name__}.{name}") or _MISSING
    return found


# Texts --------------------------------------------------------------------------------------------

_repr: Final = reprlib.Repr()
_repr.maxstring = _repr.maxother = _LONGEST_TEXT


def short_text(value: object) -> str:
    """Return a value in a few words, whatever it is."""
    if type(value).__module__ != "builtins":
        return f"<{type(value).__qualname__}>"
    try:
        text = _repr.repr(value)
    except Exception:  # noqa: BLE001 - it is only for people to read
        return f"<{type(value).__qualname__}>"
    text = re.sub(r" at 0x[0-9a-f]+", "", text)
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 3] + "..."
