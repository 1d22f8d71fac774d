"""What users say of a cache, and how they look after it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from flowpar.caching.store import Store, store_at
from flowpar.errors import OptionError
from flowpar.policy import check_number


class Cache:
    """A directory that keeps what tasks returned, so that a rerun runs only what changed.

    Parameters
    ----------
    path
        The directory; made when it is first used.
    audit
        Which share of what is up to date runs all the same, from 0 to 1, to see that it gives the
        same again; what does not is warned of, and listed by `info`.
    max_bytes
        How large the objects may grow together; those not used for longest go first.
    max_age
        Seconds after its last use that an object stays.

    Raises
    ------
    OptionError
        If a value is not legal.

    Examples
    --------
    >>> import flowpar, tempfile
    >>> cache = flowpar.Cache(tempfile.mkdtemp())
    >>> area = flowpar.delayed(pow)(3, 2)
    >>> [flowpar.run(area, cache=cache, scheduler="sync").tasks[0].status for _ in range(2)]
    ['done', 'cached']
    """

    def __init__(
        self,
        path: str | os.PathLike[str] = ".flowpar",
        *,
        audit: float = 0.0,
        max_bytes: float | None = None,
        max_age: float | None = None,
    ) -> None:
        if not os.fspath(path):
            raise OptionError(f"a cache takes the path of a directory, and not {path!r}")
        self.path = Path(path)
        self.audit = check_number("audit", audit)
        if self.audit > 1:
            raise OptionError(f"audit takes a number from 0 to 1, and not {audit!r}")
        self.max_bytes = None if max_bytes is None else check_number("max_bytes", max_bytes)
        self.max_age = None if max_age is None else check_number("max_age", max_age)

    def __repr__(self) -> str:
        return f"Cache({str(self.path)!r})"

    def store(self) -> Store:
        """Return the store of the directory, which all caches of this process there share."""
        return store_at(self.path)


def cache_of(name: str, value: Any) -> Cache | None:
    """Return the cache that an option means: a path, a `Cache`, True for ``.flowpar`` here.

    Raises
    ------
    OptionError
        If it means none.
    """
    if value is None or value is False:
        return None
    if isinstance(value, Cache):
        return value
    if value is True:
        return Cache()
    if isinstance(value, (str, os.PathLike)) and os.fspath(value):
        return Cache(value)
    raise OptionError(f"{name} takes the path of a directory, True or a Cache, and not {value!r}")
