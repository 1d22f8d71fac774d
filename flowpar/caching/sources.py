"""The sources of what is running, as far as they are that.

The syntax tree of a function is found by its code object: a source counts only if compiling it
gives that very code, so an edit made after the import is never taken for what is running. Where
no source does, the instructions have to serve, which differ from one Python version to the next.
"""

from __future__ import annotations

import ast
import linecache
import tokenize
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flowpar.caching.instructions import read_code
from flowpar.caching.reading import Import, Reading, codes_in
from flowpar.caching.syntax import Function, read_function, read_statements

__all__ = ["Bound", "Sources", "WholeFile"]


class Bound:
    """The statements of a module by the names that they bind, or work on.

    Attributes
    ----------
    stars
        The modules all of whose names are imported.
    """

    def __init__(self, tree: ast.Module) -> None:
        self.stars: list[Import] = []
        self._statements: dict[str, list[ast.stmt]] = {}
        self._binding: dict[str, list[ast.stmt]] = {}
        self._bodies: dict[str, ast.ClassDef] = {}
        self._within: set[str] = set()
        for statement in tree.body:
            bound = _bound_by(statement)
            for name in bound | _used_by(statement):
                self._statements.setdefault(name, []).append(statement)
            for name in bound:
                self._binding.setdefault(name, []).append(statement)
            self._note_inner(statement)

    def _note_inner(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.ClassDef):
            self._bodies[statement.name] = statement
        for node in ast.walk(statement):
            if isinstance(node, ast.Global):
                self._within.update(node.names)
            elif isinstance(node, ast.ImportFrom) and any(each.name == "*" for each in node.names):
                self.stars.append(Import(node.module or "", None, node.level))

    def read(self, name: str, *, is_state: bool = True) -> Reading | None:
        """Return what the statements say that a name is bound by.

        None if they do not say it: there are none, or functions bind it when they are called.

        Parameters
        ----------
        name
            Of the module.
        is_state
            Whether also those count that do something to what the name stands for.
        """
        statements = (self._statements if is_state else self._binding).get(name)
        if statements is None or name in self._within or all(map(_is_empty, statements)):
            return None
        return read_statements(statements)

    def read_attribute(self, name: str, attribute: str) -> Reading | None:
        """Return what the statement of a class says, if it binds an attribute of that."""
        body = self._bodies.get(name)
        if body is None:
            return None
        binding = [each for each in body.body if attribute in _bound_by(each)]
        return None if all(map(_is_empty, binding)) else self.read(name)


def _is_empty(statement: ast.stmt) -> bool:
    """Return whether a statement binds a place for what comes later, as ``MODEL = None`` does."""
    if isinstance(statement, ast.AnnAssign) and statement.value is None:
        return True
    return isinstance(statement, (ast.Assign, ast.AnnAssign)) and isinstance(
        statement.value, ast.Constant
    )


def _bound_by(statement: ast.stmt) -> set[str]:
    """Return the names that a statement binds."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {statement.name}
    names = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name.partition(".")[0])
    return names


def _used_by(statement: ast.stmt) -> set[str]:
    """Return the names whose attributes or items a statement binds, or whose method it calls."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return set()
    names: set[str] = set()
    for node in ast.walk(statement):
        if isinstance(node, (ast.Attribute, ast.Subscript)) and isinstance(node.ctx, ast.Store):
            names.update(_base_of(node))
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        names.update(_base_of(statement.value.func))
    return names


def _base_of(node: ast.expr) -> Iterator[str]:
    """Give the name that attributes and items are taken of."""
    inner = node
    while isinstance(inner, (ast.Attribute, ast.Subscript)):
        inner = inner.value
    if inner is not node and isinstance(inner, ast.Name):
        yield inner.id


class WholeFile:
    """A module of the user's as a value: the bytes of its files, and what it imports.

    Constants that were set in it while the program runs do not show in that.
    """

    def __init__(self, module: types.ModuleType) -> None:
        self.imports: list[tuple[Import, str]] = []
        self.parts: list[bytes] = []
        for name, path in _files_of(module):
            try:
                data = path.read_bytes()
            except OSError:
                self.parts.append(b"no file")
                continue
            self.parts += [name.encode(), data]
            self._note_imports(data, module, name)

    def _note_imports(self, data: bytes, module: types.ModuleType, name: str) -> None:
        inner = Path(name).parent.parts if hasattr(module, "__path__") else ()
        is_package = hasattr(module, "__path__")
        package = module.__name__ if is_package else module.__name__.rpartition(".")[0]
        package = ".".join((package, *inner))
        try:
            tree = ast.parse(data)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return  # compiled, or not of Python
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found = [Import(each.name, None, 0) for each in node.names]
            elif isinstance(node, ast.ImportFrom):
                whole = Import(node.module or "", None, node.level)
                found = [whole, *(_submodule(whole, each.name) for each in node.names)]
            else:
                continue
            self.imports += [(each, package) for each in found]


def _submodule(package: Import, name: str) -> Import:
    return Import(f"{package.module}.{name}" if package.module else name, None, package.level)


def _files_of(module: types.ModuleType) -> Iterator[tuple[str, Path]]:
    """Give the files that a module is made of; those of a package are all that lie in it."""
    filename = getattr(module, "__file__", None)
    folders = [Path(each) for each in getattr(module, "__path__", ())]
    if not folders and isinstance(filename, str):
        yield "", Path(filename)
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            yield path.relative_to(folder).as_posix(), path


class _Source:
    """The text of a file at one time, and its functions by their code."""

    def __init__(self, text: str, filename: str) -> None:
        self.functions: dict[types.CodeType, Function] = {}
        try:
            tree = ast.parse(text)
            code = compile(tree, filename, "exec", dont_inherit=True)
            self.bound = Bound(tree)
            functions = _number_functions(tree)
            numbered = compile(tree, filename, "exec", dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            self.bound = Bound(ast.Module([], []))
            return
        for each, twin in zip(codes_in(code), codes_in(numbered), strict=True):
            node = functions.get(twin.co_firstlineno)
            if node is not None:
                self.functions.setdefault(each, node)


def _number_functions(tree: ast.Module) -> dict[int, Function]:
    """Give each function a line of its own, so that its code object tells which one it is.

    Only so can two lambdas on one line be told apart in Python 3.10.
    """
    functions: dict[int, Function] = {}
    line = 1_000_000
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            line += 1
            functions[line] = node
            decorators = [] if isinstance(node, ast.Lambda) else node.decorator_list
            for each in (node, *decorators[:1]):
                each.lineno = each.end_lineno = line
                each.col_offset = each.end_col_offset = 0
    return functions


class Sources:
    """The sources met so far. A file that changes is read again for code that is not in the old."""

    def __init__(self) -> None:
        self._files: dict[str, list[tuple[object, _Source]]] = {}
        self._readings: dict[int, tuple[types.CodeType, Reading]] = {}
        self._whole: dict[int, tuple[object, WholeFile]] = {}

    def read(self, function: types.FunctionType) -> Reading:
        """Return what a function says."""
        code = function.__code__
        known = self._readings.get(id(code))
        if known is None:
            node = self._node(code, function.__globals__)
            reading = read_code(code) if node is None else read_function(node, code)
            # By identity, for equal code may come from elsewhere; with the code, to keep its id.
            known = self._readings[id(code)] = code, reading
        return known[1]

    def bound(self, namespace: Mapping[str, Any]) -> Bound | None:
        """Return the statements of the module that has these names, if it comes from a file."""
        filename = namespace.get("__file__")
        if not isinstance(filename, str):
            return None
        self._look(filename, namespace)
        running = {
            each.__code__
            for each in list(namespace.values())
            if isinstance(each, types.FunctionType) and each.__code__.co_filename == filename
        }
        for _, source in reversed(self._files[filename]):
            # One that was edited after the import says nothing of what is running.
            if running <= source.functions.keys():
                return source.bound
        return None

    def whole(self, module: types.ModuleType) -> WholeFile:
        """Return what a module consists of, as it was when that was first asked for."""
        # A module that is loaded again gets another specification.
        known = getattr(module, "__spec__", None) or module
        found = self._whole.get(id(known))
        if found is None:
            found = self._whole[id(known)] = known, WholeFile(module)
        return found[1]

    def _node(self, code: types.CodeType, namespace: Mapping[str, Any]) -> Function | None:
        filename = code.co_filename
        known = self._files.get(filename)
        if known is None:
            self._look(filename, namespace)
            known = self._files[filename]
        found = self._find(code)
        if found is None and self._look(filename, namespace):
            found = self._find(code)
        return found

    def _find(self, code: types.CodeType) -> Function | None:
        for _, source in reversed(self._files[code.co_filename]):
            node = source.functions.get(code)
            if node is not None:
                return node
        return None

    def _look(self, filename: str, namespace: Mapping[str, Any]) -> bool:
        """Read a file, if it is not as it was; return whether there is anything new."""
        known = self._files.setdefault(filename, [])
        text, state, path = "", None, _path_of(filename, namespace)
        try:
            stat = path.stat()
            state = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        except (OSError, ValueError):
            # A cell of a notebook, or a module in an archive.
            text = "".join(linecache.getlines(filename, dict(namespace)))
        if known and known[-1][0] == (state or text):
            return False
        if state is not None:
            text = _text_of(path)
        known.append((state or text, _Source(text, filename)))
        return True


def _path_of(filename: str, namespace: Mapping[str, Any]) -> Path:
    """Return where a file is; a script has the name it was called by, which chdir makes void."""
    path = Path(filename)
    known = namespace.get("__file__")
    if not path.is_absolute() and isinstance(known, str) and Path(known).name == path.name:
        return Path(known)
    return path


def _text_of(filename: Path) -> str:
    try:
        with tokenize.open(filename) as file:
            return file.read()
    except (OSError, SyntaxError, UnicodeDecodeError):
        return ""
