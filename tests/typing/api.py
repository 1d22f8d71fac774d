"""What a type checker must see; checked by mypy, never run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from typing_extensions import assert_type

import flowpar
from flowpar import Delayed, DelayedFunction, delayed


def plain(x: int) -> str:
    return str(x)


async def waits(x: int) -> float:
    return float(x)


@delayed
def decorated(x: int) -> list[int]:
    return [x]


@delayed(retries=2, timeout=60)
def with_policy(x: int) -> bytes:
    return bytes(x)


@delayed
def dynamic(x: int) -> Delayed[list[int]]:
    return decorated(x)


assert_type(delayed(plain), DelayedFunction[str])
assert_type(delayed(plain)(1), Delayed[str])
assert_type(delayed(plain)(1).compute(), str)
assert_type(delayed(waits)(1).compute(), float)
assert_type(decorated(1).compute(scheduler="threads"), list[int])
assert_type(with_policy(1).compute(), bytes)
assert_type(with_policy.options(retries=1)(delayed(plain)(2)).compute(), bytes)
assert_type(decorated(1).persist(), Delayed[list[int]])
assert_type(dynamic(1).compute(), list[int])
assert_type(delayed(3), Delayed[int])
assert_type(flowpar.map(plain, [1, 2]), list[Delayed[str]])
assert_type(flowpar.reduce(max, [1, 2]), Delayed[Any])
assert_type(decorated(1).submit().result(), list[int])


async def main() -> None:
    assert_type(await decorated(1), list[int])


assert_type(decorated(1) + 1, Delayed[Any])
assert_type(2 * -decorated(1)[0], Delayed[Any])
assert_type(decorated(1).append(2), Delayed[Any])
handler: Callable[[int], Delayed[str]] = delayed(plain)
