"""What expressions and calls change, and what marks their values have."""

from __future__ import annotations

import abc
import ast
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from flowpar.sharing.belongings import UNKNOWN, is_a, is_immutable, is_synchronised, name_of
from flowpar.sharing.codetrees import FunctionNode
from flowpar.sharing.marks import (
    NEW,
    NO_MARKS,
    OUTER,
    OUTSIDE,
    Call,
    Nested,
    Survey,
    Value,
    bound_to,
    is_code,
    is_module,
    item_of,
    joined,
)
from flowpar.sharing.mutators import (
    ALIASING,
    CHANGES_FIRST,
    ELEMENTS,
    MUTATORS,
    PASSING,
    PLAIN_ATTRIBUTES,
    RETURN_NOTHING,
)

__all__ = ["Expressions", "is_text", "last_name"]


class Expressions(abc.ABC):
    """Walks a function, and notes what it changes.

    Parameters
    ----------
    survey
        Knows others.
    node
        The function.
    given
        Its parameters, and for a method what is known of them.
    outer
        Looks names up that are not the function's own.

    Attributes
    ----------
    changed
        The marks of what is changed.
    returned
        What the function may return.
    names
        What the names of the function stand for where the walk is.
    """

    def __init__(
        self,
        survey: Survey,
        node: FunctionNode,
        given: dict[str, Value],
        outer: Callable[[str], Value],
        *,
        parent: Expressions | None = None,
    ) -> None:
        self.names = given
        self.returned: list[Value] = []
        self.parent = parent
        self.changed: set[str] = set() if parent is None else parent.changed
        self._node = node
        self._survey = survey
        self._outer = outer
        self._global: set[str] = set()
        self._nonlocal: set[str] = set()
        self._unused: set[int] = set()
        self._adds_only = False
        self._made: dict[int, Nested] = {}
        self._called: set[int] = set() if parent is None else parent._called

    def lookup(self, name: str) -> Value:
        """Return what a name stands for."""
        found = self.names.get(name) if name not in self._global else None
        if found is None:
            found = self._outer(name) if self.parent is None else self.parent.lookup(name)
        return found

    def _children(self, node: ast.AST) -> None:
        for each in ast.iter_child_nodes(node):
            if isinstance(each, ast.expr):
                self.value(each)

    def _nested(self, node: FunctionNode) -> Value:
        nested = self._made.get(id(node))
        if nested is None:
            nested = self._made[id(node)] = Nested(node, self)
        return Value(nested=nested)

    def _set(self, name: str, value: Value) -> None:
        if name in self._global:
            self.changed.add(OUTER)
        elif name in self._nonlocal:
            self._set_in_parent(name, value)
        elif self._adds_only and name in self.names:
            self.names[name] = joined([self.names[name], value])
        else:
            self.names[name] = value

    def _is_within(self, name: str) -> bool:
        flow = self.parent
        while flow is not None and name not in flow.names:
            flow = flow.parent
        return flow is not None

    def _set_in_parent(self, name: str, value: Value) -> None:
        flow = self.parent
        while flow is not None and name not in flow.names:
            flow = flow.parent
        if flow is None:
            self.changed.add(OUTER)
        else:
            flow.names[name] = joined([flow.names[name], value])

    def _bind(self, target: ast.expr, value: Value, written: ast.expr | None = None) -> None:
        """Bind what is on the left of an assignment."""
        if isinstance(target, ast.Name):
            self._set(target.id, value)
        elif isinstance(target, ast.Starred):
            self._bind(target.value, Value(NO_MARKS, value.all))
        elif isinstance(target, (ast.Tuple, ast.List)):
            self._unpack(target.elts, value, written)
        elif isinstance(target, (ast.Attribute, ast.Subscript)):
            self._change(self.value(target.value))
            if isinstance(target, ast.Subscript):
                self.value(target.slice)
            self._put_in(target, value)

    def _unpack(self, targets: list[ast.expr], value: Value, written: ast.expr | None) -> None:
        parts = written.elts if isinstance(written, (ast.Tuple, ast.List)) else []
        is_even = len(parts) == len(targets)
        if is_even and not any(isinstance(each, ast.Starred) for each in (*parts, *targets)):
            for target, part, found in zip(targets, parts, [*map(self.value, parts)], strict=True):
                self._bind(target, found, part)
            return
        for target in targets:
            self._bind(target, item_of(value))

    def _bind_item(self, target: ast.expr, source: Value, written: ast.expr) -> None:
        """Bind the target of a loop, or of a comprehension."""
        self._call_method(source, "__iter__")
        item = item_of(source)
        if last_name(written) in {"enumerate", "items"} and isinstance(target, ast.Tuple):
            self._bind(target.elts[0], NEW)
            for each in target.elts[1:]:
                self._bind(each, item)
        elif last_name(written) == "range":
            self._bind(target, NEW)
        else:
            self._bind(target, item)

    def _put_in(self, place: ast.expr, value: Value) -> None:
        """Remember that something is in what a name stands for now."""
        while isinstance(place, (ast.Attribute, ast.Subscript, ast.Starred)):
            place = place.value
        if isinstance(place, ast.Name) and value.all and place.id in self.names:
            old = self.names[place.id]
            self.names[place.id] = replace(old, inside=old.inside | value.all)

    def _change(self, value: Value) -> None:
        if not is_immutable(value.thing):
            self.changed |= value.own

    def value(self, node: ast.expr) -> Value:
        """Return what an expression gives, after all that it does."""
        give = _EXPRESSIONS.get(type(node))
        if give is not None:
            return give(self, node)
        self._children(node)
        return NEW

    def _name(self, node: ast.Name) -> Value:
        return self.lookup(node.id)

    def _attribute(self, node: ast.Attribute) -> Value:
        value = self.value(node.value)
        found = self._taken(value, node.attr)
        if node.attr in PLAIN_ATTRIBUTES and found.thing is UNKNOWN:
            return NEW
        return found

    def _taken(self, value: Value, name: str) -> Value:
        found = self._survey.attribute(value, name)
        if not found.is_computed:
            return found
        changed, given = self._survey.call(found, Call()) or (NO_MARKS, NEW)
        self.changed |= changed
        return replace(given, own=given.own | value.all, inside=given.inside | value.inside)

    def _subscript(self, node: ast.Subscript) -> Value:
        value = self.value(node.value)
        self.value(node.slice)
        found = self._call_method(value, "__getitem__")
        return item_of(value) if found is None else joined([found, item_of(value)])

    def _collection(self, node: Any) -> Value:
        marks = (self.value(each).all for each in node.elts)
        return Value(NO_MARKS, NO_MARKS.union(*marks))

    def _dict(self, node: ast.Dict) -> Value:
        for key in filter(None, node.keys):
            self.value(key)
        marks = (self.value(each).all for each in node.values)
        return Value(NO_MARKS, NO_MARKS.union(*marks))

    def _starred(self, node: ast.Starred) -> Value:
        return item_of(self.value(node.value))

    def _comprehension(self, node: Any) -> Value:
        before = self.names
        self.names = dict(before)
        for each in node.generators:
            self._bind_item(each.target, self.value(each.iter), each.iter)
            for test in each.ifs:
                self.value(test)
        parts = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        self._unused.update(map(id, parts))
        made = self.value(parts[-1])
        if len(parts) > 1:
            self.value(parts[0])
        self.names = before
        return Value(NO_MARKS, made.all)

    def _lambda(self, node: ast.Lambda) -> Value:
        return self._nested(node)

    def _if(self, node: ast.IfExp) -> Value:
        self.value(node.test)
        self._pass_on(node, node.body, node.orelse)
        return joined([self.value(node.body), self.value(node.orelse)])

    def _or(self, node: ast.BoolOp) -> Value:
        self._pass_on(node, *node.values)
        return joined([self.value(each) for each in node.values])

    def _pass_on(self, node: ast.expr, *parts: ast.expr) -> None:
        if id(node) in self._unused:
            self._unused.update(map(id, parts))

    def _walrus(self, node: ast.NamedExpr) -> Value:
        value = self.value(node.value)
        self._bind(node.target, value)
        return value

    def _call(self, node: ast.Call) -> Value:
        function = node.func
        receiver = self.value(function.value) if isinstance(function, ast.Attribute) else None
        if isinstance(function, ast.Attribute) and receiver is not None:
            callee = self._taken(receiver, function.attr)
        else:
            callee = self.value(function)
        name = name_of(callee.thing) or last_name(node)
        if name == "super" and not node.args:
            return self._super()
        call = self._passed(node)
        self._change_by_name(node, name, receiver, call)
        known = self._known(callee, call)
        if known is not None:
            return known
        self._call_passed(receiver, call)
        if isinstance(function, ast.Attribute) and name in MUTATORS:
            # What is appended to a list, or added to a set, is in it.
            self._put_in(function.value, joined(call.values()))
        return self._made_by(name, receiver, call)

    def _super(self) -> Value:
        """Return the object that a method has, as one of the class before its own."""
        arguments = self._node.args.args
        itself = self.lookup(arguments[0].arg) if arguments else NEW
        own = self.lookup("__class__").thing
        bases: tuple[type, ...] = type.__getattribute__(own, "__mro__") if is_a(own, type) else ()
        return replace(itself, thing=UNKNOWN, kind=bases[1] if len(bases) > 1 else None)

    def _known(self, callee: Value, call: Call) -> Value | None:
        """Return what a function gives that can be looked at."""
        if callee.nested is not None:
            return self._call_nested(callee.nested, call)
        found = self._survey.call(callee, call)
        if found is None:
            return None
        self.changed |= found[0]
        return found[1]

    def _passed(self, node: ast.Call) -> Call:
        positional, keywords, starred = [], {}, NO_MARKS
        for each in node.args:
            value = self.value(each)
            if isinstance(each, ast.Starred):
                starred |= value.all
            elif not starred:
                positional.append(value)
            else:  # nobody knows which parameter that is
                starred |= value.all
        for keyword in node.keywords:
            value = self.value(keyword.value)
            if keyword.arg is None:
                starred |= value.inside
            else:
                keywords[keyword.arg] = value
        return Call(tuple(positional), keywords, starred)

    def _change_by_name(
        self, node: ast.Call, name: str, receiver: Value | None, call: Call
    ) -> None:
        first = call.positional[0] if call.positional else Value(call.starred, call.starred)
        is_function = receiver is None or is_module(receiver.thing)
        if name == "shuffle" or (name in CHANGES_FIRST and is_function):
            self._change(first)
        if name == "at" and len(node.args) > 1:  # of a function of NumPy
            self._change(first)
        for keyword in node.keywords:
            self._change_by_keyword(keyword, name, receiver, first)
        if receiver is None or is_function or is_synchronised(receiver.thing):
            return
        is_in_place = name in MUTATORS or (name[-1:] == "_" and name[-2:-1] not in {"", "_"})
        is_used = name in RETURN_NOTHING and id(node) not in self._unused
        is_of_text = name == "partition" and bool(node.args) and is_text(node.args[0])
        if is_in_place and not is_used and not is_of_text:
            self._change(receiver)

    def _change_by_keyword(
        self, keyword: ast.keyword, name: str, receiver: Value | None, first: Value
    ) -> None:
        constant = keyword.value.value if isinstance(keyword.value, ast.Constant) else UNKNOWN
        if keyword.arg == "out" and constant is not None:
            value = self.value(keyword.value)
            is_several = isinstance(keyword.value, (ast.Tuple, ast.List))
            self.changed |= value.all if is_several else value.own
        elif keyword.arg == "inplace" and constant is not False and receiver is not None:
            self._change(receiver)
        elif ((keyword.arg or "").startswith("overwrite_") and constant is not False) or (
            name == "nan_to_num" and keyword.arg == "copy" and constant is not True
        ):
            self._change(first)

    def _call_passed(self, receiver: Value | None, call: Call) -> None:
        """Call the functions that something else is given, with whatever else it has."""
        functions = [
            each for each in call.values() if each.nested is not None or _may_be_called(each)
        ]
        if functions:
            others = [each.all for each in call.values() if each not in functions]
            marks = NO_MARKS.union(*others, receiver.all if receiver is not None else NO_MARKS)
            marks -= {OUTER} if receiver is not None and is_module(receiver.thing) else NO_MARKS
            for each in functions:
                self._known(each, Call(starred=marks))

    def _call_nested(self, nested: Nested, call: Call) -> Value:
        if id(nested.node) in self._calling():
            return NEW
        self._survey.spend()
        self._called.add(id(nested.node))
        given = bound_to(nested.node, call)
        flow = type(self)(self._survey, nested.node, given, self._outer, parent=nested.flow)
        flow.walk()
        return joined(flow.returned)

    def _calling(self) -> set[int]:
        flow: Expressions | None = self
        found = set()
        while flow is not None and flow.parent is not None:
            found.add(id(flow._node))
            flow = flow.parent
        return found

    def _call_method(self, value: Value, name: str) -> Value | None:
        """Call a method that an operator stands for, if it is the user's."""
        if value.kind is None and value.thing is UNKNOWN:
            return None
        if is_module(value.thing) or is_a(value.thing, type):
            return None
        known = self._survey.call(self._survey.attribute(value, name), Call((NEW,)))
        if known is None:
            return None
        self.changed |= known[0]
        return known[1]

    @staticmethod
    def _made_by(name: str, receiver: Value | None, call: Call) -> Value:
        """Return what a function gives that nobody can look into."""
        is_function = receiver is None or is_module(receiver.thing)
        # What a server gives is no part of what it was asked; the largest of an array is a number.
        if name in ({"get"} if receiver is not None and is_function else {"max", "min"}):
            return item_of(joined(call.values())) if receiver is None else NEW
        sources = [each for each in call.values() if not is_code(each.thing)]
        sources += [] if is_function or receiver is None else [receiver]
        if name in {"globals", "__import__", "import_module"}:
            return Value(OUTSIDE, OUTSIDE)
        if name in ALIASING:
            return replace(joined(sources), thing=UNKNOWN, kind=None, nested=None, bound=None)
        if name in ELEMENTS:
            return joined([item_of(each) for each in sources])
        marks = [each.all for each in sources] if name in PASSING else []
        return Value(NO_MARKS, NO_MARKS.union(*marks))

    @abc.abstractmethod
    def walk(self) -> None:
        """Walk the function."""


def _may_be_called(value: Value) -> bool:
    """Return whether a value is a thing that may be called, and is not a module."""
    return value.thing is not UNKNOWN and callable(value.thing)


def is_text(node: ast.expr) -> bool:
    """Return whether an expression plainly gives a text."""
    if isinstance(node, ast.BinOp):
        return is_text(node.left) or (isinstance(node.op, ast.Add) and is_text(node.right))
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes))
    )


def last_name(node: ast.expr) -> str:
    """Return the last name of what is called, as it is written."""
    function = node.func if isinstance(node, ast.Call) else node
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


_EXPRESSIONS: Final[dict[type[ast.AST], Callable[[Expressions, Any], Value]]] = {
    ast.Name: Expressions._name,
    ast.Attribute: Expressions._attribute,
    ast.Subscript: Expressions._subscript,
    ast.Tuple: Expressions._collection,
    ast.List: Expressions._collection,
    ast.Set: Expressions._collection,
    ast.Dict: Expressions._dict,
    ast.Starred: Expressions._starred,
    ast.ListComp: Expressions._comprehension,
    ast.SetComp: Expressions._comprehension,
    ast.GeneratorExp: Expressions._comprehension,
    ast.DictComp: Expressions._comprehension,
    ast.Lambda: Expressions._lambda,
    ast.IfExp: Expressions._if,
    ast.BoolOp: Expressions._or,
    ast.NamedExpr: Expressions._walrus,
    ast.Call: Expressions._call,
}
