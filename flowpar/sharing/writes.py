"""Which values a function changes, by its syntax tree: its own, those it was given, or others'.

Statements are walked in their order, with what names stand for. Branches are joined; a loop is
walked until nothing is added.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from flowpar.sharing.belongings import UNKNOWN, loaded
from flowpar.sharing.expressions import Expressions, is_text, last_name
from flowpar.sharing.marks import (
    NEW,
    OUTER,
    OUTSIDE,
    Call,
    Nested,
    Value,
    is_equal,
    item_of,
    joined,
    merged,
)

__all__ = ["Flow"]


class Flow(Expressions):
    """Walks a function, and notes what it changes."""

    def walk(self) -> None:
        """Walk the function, and what it makes that nobody is seen to call."""
        if isinstance(self._node, ast.Lambda):
            self._unused.add(id(self._node.body))
            self.returned.append(self.value(self._node.body))
        else:
            self._run(self._node.body)
        for number, nested in list(self._made.items()):
            if number not in self._called:
                self._call_nested(nested, Call(starred=OUTSIDE))

    def _run(self, body: Sequence[ast.stmt]) -> None:
        for statement in body:
            run = _STATEMENTS.get(type(statement))
            if run is not None:
                run(self, statement)
            else:
                self._children(statement)

    def _expression(self, node: ast.Expr) -> None:
        self._unused.add(id(node.value))
        self.value(node.value)

    def _assign(self, node: ast.Assign) -> None:
        value = self.value(node.value)
        for target in node.targets:
            self._bind(target, value, node.value)

    def _annotated(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self._bind(node.target, self.value(node.value))

    def _augmented(self, node: ast.AugAssign) -> None:
        added = self.value(node.value)
        target = node.target
        if not isinstance(target, ast.Name):
            self._bind(target, added)
            return
        old = self.lookup(target.id)
        if target.id in self._global or (
            target.id in self._nonlocal and not self._is_within(target.id)
        ):
            self.changed.add(OUTER)
        # Of a text it makes another; of an array it does not, and of a number nobody can tell.
        if not is_text(node.value):
            self._change(old)
            self._set(target.id, replace(old, inside=old.inside | added.inside, thing=UNKNOWN))

    def _delete(self, node: ast.Delete) -> None:
        for target in node.targets:
            if not isinstance(target, ast.Name):
                self._bind(target, NEW)
            elif target.id in self._global:
                self.changed.add(OUTER)

    def _branch(self, node: ast.If) -> None:
        self.value(node.test)
        self._either(node.body, node.orelse)

    def _either(self, *bodies: Sequence[ast.stmt]) -> None:
        before = self.names
        after = []
        for body in bodies:
            self.names = dict(before)
            self._run(body)
            after.append(self.names)
        self.names = merged(after)

    def _for(self, node: ast.For | ast.AsyncFor) -> None:
        source = self.value(node.iter)
        self._loop(node, lambda: self._bind_item(node.target, source, node.iter))

    def _while(self, node: ast.While) -> None:
        self._loop(node, lambda: self.value(node.test))

    def _loop(self, node: ast.For | ast.AsyncFor | ast.While, begin: Callable[[], Any]) -> None:
        # What leaves a loop in its middle takes along what names stand for there.
        kept, self._adds_only = self._adds_only, self._adds_only or _is_left(node)
        for _ in range(_ROUNDS):
            before = self.names
            self.names = dict(before)
            begin()
            self._run(node.body)
            self.names = merged([before, self.names])
            if is_equal(before, self.names):
                break
        self._adds_only = kept
        self._run(node.orelse)

    def _try(self, node: Any) -> None:
        # It may be left anywhere.
        kept, self._adds_only = self._adds_only, True
        self._run(node.body)
        self._adds_only = kept
        for each in node.handlers:
            if each.name:
                self._set(each.name, NEW)
        self._either(node.orelse, *(each.body for each in node.handlers))
        self._run(node.finalbody)

    def _with(self, node: ast.With | ast.AsyncWith) -> None:
        for item in node.items:
            manager = self.value(item.context_expr)
            entered = self._call_method(manager, "__enter__")
            self._call_method(manager, "__exit__")
            if item.optional_vars is not None:
                # A lock, a file and the like give themselves.
                self._bind(item.optional_vars, manager if entered is None else entered)
        before = self.names
        self.names = dict(before)
        self._run(node.body)
        # One that swallows exceptions goes on with what was before.
        is_new = all(isinstance(item.context_expr, ast.Call) for item in node.items)
        swallows = any(last_name(item.context_expr) == "suppress" for item in node.items)
        if swallows or not is_new:
            self.names = merged([before, self.names])

    def _match(self, node: Any) -> None:
        subject = self.value(node.subject)
        for case in node.cases:
            for each in ast.walk(case.pattern):
                name = getattr(each, "name", None) or getattr(each, "rest", None)
                if isinstance(name, str):
                    self._set(name, joined([subject, item_of(subject)]))
            if case.guard is not None:
                self.value(case.guard)
        self._either(*(case.body for case in node.cases), [])

    def _return(self, node: ast.Return) -> None:
        if node.value is not None:
            self.returned.append(self.value(node.value))

    def _import(self, node: ast.Import) -> None:
        for each in node.names:
            whole = Value(OUTSIDE, OUTSIDE, loaded(each.name))
            self._survey.mention(whole)
            top = each.name if each.asname else each.name.partition(".")[0]
            self._set(each.asname or top, replace(whole, thing=loaded(top)))

    def _import_from(self, node: ast.ImportFrom) -> None:
        if node.level:
            return  # a module of the user's own, looked at when it is called
        whole = Value(OUTSIDE, OUTSIDE, loaded(node.module or ""))
        self._survey.mention(whole)
        for each in node.names:
            self._set(each.asname or each.name, self._survey.attribute(whole, each.name))

    def _define(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for each in (
            *node.decorator_list,
            *node.args.defaults,
            *filter(None, node.args.kw_defaults),
        ):
            self.value(each)
        self._set(node.name, self._nested(node))

    def _define_class(self, node: ast.ClassDef) -> None:
        for each in (*node.bases, *node.decorator_list):
            self.value(each)
        before = self.names
        self.names = dict(before)
        for statement in node.body:
            if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
                nested = Nested(statement, self)
                # Its instances are made here, and all that they are given may be others'.
                self._call_nested(nested, Call((NEW,), starred=OUTSIDE))
            else:
                self._run([statement])
        self.names = before
        self._set(node.name, NEW)

    def _note_global(self, node: ast.Global) -> None:
        self._global.update(node.names)

    def _note_nonlocal(self, node: ast.Nonlocal) -> None:
        self._nonlocal.update(node.names)


def _is_left(node: ast.AST) -> bool:
    return any(isinstance(each, (ast.Break, ast.Continue)) for each in ast.walk(node))


_ROUNDS: Final = 10
"""A mark moves on by one name in each round, at least."""

_STATEMENTS: Final[dict[type[ast.AST], Callable[[Flow, Any], None]]] = {
    ast.Expr: Flow._expression,
    ast.Assign: Flow._assign,
    ast.AnnAssign: Flow._annotated,
    ast.AugAssign: Flow._augmented,
    ast.Delete: Flow._delete,
    ast.If: Flow._branch,
    ast.For: Flow._for,
    ast.AsyncFor: Flow._for,
    ast.While: Flow._while,
    ast.Try: Flow._try,
    ast.With: Flow._with,
    ast.AsyncWith: Flow._with,
    ast.Match: Flow._match,
    ast.Return: Flow._return,
    ast.Import: Flow._import,
    ast.ImportFrom: Flow._import_from,
    ast.FunctionDef: Flow._define,
    ast.AsyncFunctionDef: Flow._define,
    ast.ClassDef: Flow._define_class,
    ast.Global: Flow._note_global,
    ast.Nonlocal: Flow._note_nonlocal,
}
if hasattr(ast, "TryStar"):
    _STATEMENTS[ast.TryStar] = Flow._try
