"""What the instructions of a function say, where there is no source: for one version of Python."""

from __future__ import annotations

import bisect
import dis
import sys
import types
from collections.abc import Iterator
from typing import Final

from flowpar.caching.digest import hashed
from flowpar.caching.reading import DYNAMIC, DYNAMIC_METHODS, Import, Reading, codes_in

__all__ = ["global_names", "read_code"]

_NAMES_GLOBALS: Final = {
    dis.opmap[name]: 1 if name == "LOAD_GLOBAL" and sys.version_info >= (3, 11) else 0
    for name in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
    if name in dis.opmap
}
"""Instructions that read a global name, with the bits of the operand that are not its index."""


def global_names(code: types.CodeType) -> set[str]:
    """Return the names that a function, or one in it, looks up outside of all functions."""
    # Many times faster than dis, which makes an object of each instruction.
    names = set()
    for each in codes_in(code):
        raw = each.co_code
        operations = raw[::2]
        for operation, shift in _NAMES_GLOBALS.items():
            at = operations.find(operation)
            while at >= 0:
                names.add(each.co_names[_operand_at(raw, at) >> shift])
                at = operations.find(operation, at + 1)
    return names


def _operand_at(raw: bytes, at: int) -> int:
    operand, scale = raw[2 * at + 1], 8
    while at > 0 and raw[2 * at - 2] == dis.EXTENDED_ARG:
        at -= 1
        operand |= raw[2 * at + 1] << scale
        scale += 8
    return operand


_NO_OPERATION: Final = frozenset(
    {"RESUME", "CACHE", "NOP", "EXTENDED_ARG", "PRECALL", "COPY_FREE_VARS", "MAKE_CELL"}
)
_JUMPS: Final = frozenset((*dis.hasjrel, *dis.hasjabs))


def read_code(code: types.CodeType) -> Reading:
    """Read the instructions of a function, which hold for one version of Python."""
    reading = Reading()
    tokens = [sys.implementation.cache_tag or sys.version]
    for each in codes_in(code):
        _read_instructions(each, tokens, reading)
    outside = global_names(code)
    # Names that are global are compared by what they are, as others have no meaning.
    reading.names = [*dict.fromkeys(name for name in reading.chains if name in outside)]
    reading.names += [name for name in reading.imports if name not in outside]
    reading.names += [name for name in code.co_freevars if name not in reading.names]
    reading.dynamic += sorted(DYNAMIC & outside)
    taken = {name for each in codes_in(code) for name in each.co_names}
    reading.dynamic += sorted(DYNAMIC_METHODS & taken)
    text = "\n".join(tokens).encode("utf-8", "surrogatepass")
    reading.digest = hashed(b"instructions", text)
    return reading


def _read_instructions(code: types.CodeType, tokens: list[str], reading: Reading) -> None:
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount)
    given = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    tokens.append(ascii((counts, given, code.co_flags & 0x2AC)))
    instructions = [each for each in dis.get_instructions(code) if each.opname not in _NO_OPERATION]
    places = {each.offset: number for number, each in enumerate(instructions)}
    chains = _Chains(reading)
    for number, each in enumerate(instructions):
        chains.see(each, instructions[max(0, number - 2) : number])
        tokens.append(f"{each.opname} {_operand(each, places)}")
    chains.end()
    offsets = [each.offset for each in instructions]
    for start, end, target, depth in _handlers(code):
        numbers = [bisect.bisect_left(offsets, offset) for offset in (start, end, target)]
        tokens.append(f"handler {numbers} {depth}")


def _handlers(code: types.CodeType) -> Iterator[tuple[int, int, int, int]]:
    """Give what each handler of exceptions covers, and where it begins; there since Python 3.11.

    Before, there are instructions for it. The table is numbers of six bits to a byte, of which the
    seventh says that more follow: start, length and target in instructions of two bytes, and the
    depth of the stack.
    """
    numbers = []
    number = 0
    for byte in getattr(code, "co_exceptiontable", b""):
        number = number << 6 | byte & 63
        if not byte & 64:
            numbers.append(number)
            number = 0
    for start, length, target, depth in zip(*[iter(numbers)] * 4, strict=True):
        yield 2 * start, 2 * (start + length), 2 * target, depth


def _operand(each: dis.Instruction, places: dict[int, int]) -> str:
    if each.opcode in _JUMPS:
        return f"to {places.get(each.argval, -1)}"
    # A docstring is among the constants, but no instruction has it.
    return _constant_text(each.argval) if each.opcode in dis.hasconst else ascii(each.argval)


def _constant_text(value: object) -> str:
    """Return the text of a constant in code; sets are in no order."""
    if isinstance(value, types.CodeType):
        return "code"
    if isinstance(value, tuple):
        return f"({', '.join(map(_constant_text, value))})"
    if isinstance(value, frozenset):
        return f"{{{', '.join(sorted(map(_constant_text, value)))}}}"
    return ascii(value) if not isinstance(value, int) or isinstance(value, bool) else f"{value:x}"


class _Chains:
    """Finds in instructions, given one by one, attributes of names, and imports."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._name: str | None = None
        self._chain: list[str] = []
        self._imported: Import | None = None

    def see(self, each: dis.Instruction, before: list[dis.Instruction]) -> None:
        name = each.opname
        if name == "STORE_ATTR" and self._name is not None and not self._chain:
            self._reading.stored.setdefault(self._name, set()).add(each.argval)
        if name.startswith("LOAD_") and ("ATTR" in name or "METHOD" in name):
            self._chain.append(each.argval)
            return
        self.end()
        if (
            name.startswith("LOAD_")
            and isinstance(each.argval, (str, tuple))
            and name != "LOAD_CONST"
        ):
            self._name = each.argval if isinstance(each.argval, str) else str(each.argval[-1])
        elif name == "IMPORT_NAME":
            level = before[0].argval if before and isinstance(before[0].argval, int) else 0
            self._imported = Import(each.argval, None, level)
        elif name == "IMPORT_FROM" and self._imported is not None:
            self._imported = Import(self._imported.module, each.argval, self._imported.level)
        elif name.startswith("STORE_") and self._imported is not None:
            self._reading.imports.setdefault(str(each.argval), []).append(self._imported)

    def end(self) -> None:
        if self._name is not None:
            self._reading.chains.setdefault(self._name, set()).add(tuple(self._chain))
        self._name, self._chain = None, []
