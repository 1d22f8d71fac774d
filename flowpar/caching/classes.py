"""What a class consists of: what its author wrote, without what Python makes of that by itself."""

from __future__ import annotations

import abc
import dataclasses
import enum
import inspect
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Final

from flowpar.caching.kinds import is_untracked, label

__all__ = ["annotations_of", "content_of", "registered_in", "snapshot"]

_NO_DEFAULT: Final = type(dataclasses.MISSING)

_BY_PYTHON: Final = frozenset(
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
"""What Python puts into a class by itself, some versions of it only; what of it was written by
people is in `annotations_of` and `content_of`."""

_BY_ENUM: Final = frozenset({"__new_member__", "_new_member_"})
_BY_PYDANTIC: Final = frozenset(
    {
        "__pydantic_complete__",
        "__pydantic_core_schema__",
        "__pydantic_decorators__",
        "__pydantic_parent_namespace__",
        "__pydantic_serializer__",
        "__pydantic_setattr_handlers__",
        "__pydantic_validator__",
        "__signature__",
    }
)
"""What is made of its fields and validators, partly when it is first needed, and with numbers that
are others in each process."""

_GENERATORS: Final = frozenset(
    {"dataclasses", "collections", "enum", "typing", "typing_extensions", "reprlib"}
)
"""Modules of Python's whose functions come into classes by themselves."""
_BY_NAMEDTUPLE: Final = frozenset({"_make", "_replace", "_asdict"})


def content_of(kind: Any) -> Iterator[tuple[str, object]]:
    """Give what a class consists of, as names and values.

    Parameters
    ----------
    kind
        A class.
    """
    if isinstance(kind, enum.EnumMeta):
        yield "members", [(name, kind.__members__[name]._value_) for name in kind.__members__]
    if "__dataclass_params__" in vars(kind):
        yield "dataclass", _dataclass_facts(kind)
    if "__pydantic_decorators__" in vars(kind):
        yield "decorators", _pydantic_facts(kind)
    members = set(kind.__members__) if isinstance(kind, enum.EnumMeta) else set()
    for name, value in sorted(snapshot(kind).items()):
        if name not in members and not _is_made(kind, name, value):
            yield name, value


def snapshot(kind: Any) -> dict[str, object]:
    """Return what a class has, and its members, without what Python only keeps there."""
    found = {
        name: value
        for name, value in vars(kind).items()
        if name not in _BY_PYTHON and not name.startswith("_abc_")
    }
    return {**found, **_of_members(kind)} if isinstance(kind, enum.EnumMeta) else found


def registered_in(kind: Any) -> list[bytes]:
    """Return what is called a subclass of an abstract class without being derived from it."""
    if not isinstance(kind, abc.ABCMeta):
        return []
    try:
        registered = abc._get_dump(kind)[0]  # type: ignore[attr-defined]
    except (AttributeError, TypeError, IndexError):  # it is for people who look for errors
        return []
    found = (reference() for reference in registered)
    return sorted(label(each) for each in found if each is not None)


# What Python generates ----------------------------------------------------------------------------


def _is_made(kind: Any, name: str, value: object) -> bool:
    """Return whether something in a class was not written by people but generated."""
    if isinstance(value, (types.MemberDescriptorType, types.GetSetDescriptorType)):
        return True  # of a slot
    function = getattr(value, "__func__", value)
    if isinstance(kind, enum.EnumMeta) and _is_made_by_enum(kind, name, function):
        return True
    if type(value).__name__ == "_tuplegetter":
        return hasattr(kind, "_fields")
    if name in _BY_PYDANTIC:
        return "__pydantic_fields__" in vars(kind)
    return isinstance(function, types.FunctionType) and _is_generated(kind, name, function)


def _is_made_by_enum(kind: Any, name: str, function: object) -> bool:
    is_plain = not isinstance(function, types.FunctionType)
    if is_plain and (_is_sunder(name) or name in _BY_ENUM):
        return True  # nobody else may choose such a name
    # What the bases have is put into each class anew.
    inherited = (vars(base).get(name) for base in kind.__mro__[1:])
    return is_plain and name.startswith("__") and any(each is function for each in inherited)


def _is_sunder(name: str) -> bool:
    return name.startswith("_") and name.endswith("_") and name[1:2] != "_"


def _is_generated(kind: Any, name: str, function: types.FunctionType) -> bool:
    is_dunder = name.startswith("__") and name.endswith("__")
    if is_dunder or _is_sunder(name) or name in _BY_NAMEDTUPLE:
        origin = function.__globals__.get("__name__")
        if origin in _GENERATORS or str(origin).startswith("namedtuple_"):
            return True
    code = function.__code__
    if code.co_filename.startswith("<attrs generated"):
        return True
    if "__dataclass_params__" not in vars(kind) or code.co_filename != "<string>":
        return False
    # In Python 3.10 only the line says it: a class of people's cannot have a method on the second,
    # for a decorator and the line of the class come before it.
    where = getattr(code, "co_qualname", None)
    return where.startswith("__create_fn__.") if where else code.co_firstlineno == 2  # noqa: PLR2004


# Enumerations and dataclasses ---------------------------------------------------------------------


def _of_members(kind: Any) -> dict[str, object]:
    """Return what the members of an enumeration have besides their values."""
    kept_by_enum = {"_value_", "_name_", "__objclass__", "_sort_order_", "_inverted_"}
    return {
        f"{name}.{each}": value
        for name, member in kind.__members__.items()
        for each, value in vars(member).items()
        if each not in kept_by_enum
    }


def _dataclass_facts(kind: Any) -> object:
    params = kind.__dataclass_params__
    flags = ("init", "repr", "eq", "order", "unsafe_hash", "frozen")
    facts = [getattr(params, name) for name in flags]
    fields = []
    for each in dataclasses.fields(kind):
        # By type: of a class that came as a pickle, it is another object.
        default = None if isinstance(each.default, _NO_DEFAULT) else (each.default,)
        factory = None if isinstance(each.default_factory, _NO_DEFAULT) else each.default_factory
        of_field = (each.init, each.repr, each.hash, each.compare, each.kw_only)
        fields.append((each.name, default, factory, of_field, dict(each.metadata)))
    return facts, fields


def _pydantic_facts(kind: Any) -> object:
    """Return what the validators and serializers of a class are for; what they do is elsewhere."""
    infos = kind.__pydantic_decorators__
    return [
        (kinds.name, [(name, each.info) for name, each in getattr(infos, kinds.name).items()])
        for kinds in dataclasses.fields(infos)
        if isinstance(getattr(infos, kinds.name), dict)
    ]


# Annotations --------------------------------------------------------------------------------------


def annotations_of(kind: Any) -> tuple[list[object], list[object]]:
    """Return what stands for the annotations of a class, and for what its bases are generic in.

    Parameters
    ----------
    kind
        A class.
    """
    try:
        found = inspect.get_annotations(kind)
    except Exception:  # noqa: BLE001 - an annotation that cannot be evaluated, from Python 3.14 on
        found = {}
    named: list[object] = [(name, _spelt(each)) for name, each in found.items()]
    return named, [_spelt(each) for each in vars(kind).get("__orig_bases__", ())]


def _spelt(annotation: Any) -> object:  # noqa: PLR0911 - one for each kind
    """Return what stands for an annotation, in all versions of Python."""
    if isinstance(annotation, typing.ForwardRef):
        return annotation.__forward_arg__
    if isinstance(annotation, (typing.TypeVar, typing.ParamSpec)):
        return "variable", annotation.__name__
    if isinstance(annotation, dataclasses.InitVar):
        return "InitVar", _spelt(annotation.type)
    if isinstance(annotation, types.UnionType):
        return "Union", [_spelt(each) for each in annotation.__args__]
    origin = typing.get_origin(annotation)
    if origin is not None and origin is not annotation:  # as that of Generic is
        return _spelt_alias(annotation, origin)
    if isinstance(annotation, (list, tuple)):  # parameters of a Callable
        return [_spelt(each) for each in annotation]
    if isinstance(annotation, Mapping) or is_untracked(annotation):
        return type(annotation).__qualname__
    if type(annotation).__module__ in {"typing", "typing_extensions"}:
        return str(annotation).rpartition(".")[2]  # such as Any
    return annotation


def _spelt_alias(annotation: Any, origin: Any) -> object:
    metadata = list(getattr(annotation, "__metadata__", ()))
    args = typing.get_args(annotation)
    if origin is typing.Literal:
        return "Literal", list(args)
    if metadata:
        return "Annotated", _spelt(annotation.__origin__), metadata
    if origin is typing.Union:
        return "Union", [_spelt(each) for each in args]
    return _spelt(origin), [_spelt(each) for each in args]
