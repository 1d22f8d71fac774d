"""What users say of a cache, and how they look after it."""

from __future__ import annotations

import contextlib
import html
import os
import time
from pathlib import Path
from typing import Any, Final

from flowpar.caching.store import Store, store_at
from flowpar.errors import OptionError
from flowpar.policy import check_number

_MOST_ROWS: Final = 50
"""Functions that a notebook shows."""


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
        self._store: Store | None = None
        self.audit = check_number("audit", audit)
        if self.audit > 1:
            raise OptionError(f"audit takes a number from 0 to 1, and not {audit!r}")
        self.max_bytes = None if max_bytes is None else check_number("max_bytes", max_bytes)
        self.max_age = None if max_age is None else check_number("max_age", max_age)

    def __reduce__(self) -> tuple[object, ...]:
        return _cache, (str(self.path), self.audit, self.max_bytes, self.max_age)

    def __repr__(self) -> str:
        return f"Cache({str(self.path)!r})"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """Return what a notebook shows: how much is kept of which function."""
        del include, exclude
        shown = {"text/plain": repr(self)}
        # A cell must show something, whatever is wrong with the directory.
        with contextlib.suppress(Exception):
            if (self.path / "FORMAT").exists():
                shown["text/html"] = self._as_html()
        return shown

    def _as_html(self) -> str:
        info, rows = self.info(), self.ls()
        head = "".join(
            f"<th>{name}</th>" for name in ("function", "results", "MB", "mean s", "last")
        )
        body = "".join(
            f"<tr><td>{html.escape(row['function'])}</td><td>{row['results']:,}</td>"
            f"<td>{row['bytes'] / 1e6:,.3g}</td><td>{row['seconds']:.3g}</td>"
            f"<td>{row['last']}</td></tr>"
            for row in rows[:_MOST_ROWS]
        )
        more = f"<p>and {len(rows) - _MOST_ROWS:,} more</p>" if len(rows) > _MOST_ROWS else ""
        said = f"{info['results']:,} results in {info['objects']:,} objects"
        size = f"{info['bytes'] / 1e6:,.3g} MB"
        name = html.escape(str(self.path))
        return (
            f"<p><b>{name}</b>: {said}, {size}</p>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"
        )

    def info(self) -> dict[str, Any]:
        """Return how much there is, and what happened lately.

        Returns
        -------
        dict
            With ``path``, ``results``, ``objects``, ``bytes`` and ``events``, newest first.
        """
        store = self.store()
        results, objects, size = store.sizes()
        rows = store.query("select at, text from event order by at desc limit 20")
        return {
            "path": str(self.path),
            "results": results,
            "objects": objects,
            "bytes": size,
            "events": [f"{_when(at)} {text}" for at, text in rows],
        }

    def ls(self) -> list[dict[str, Any]]:
        """Return what is kept of each function, that which was made last first.

        Returns
        -------
        list of dict
            With ``function``, ``results``, ``bytes``, ``seconds`` (the mean of a call) and
            ``last``.
        """
        rows = self.store().query(
            "select name, count(*), sum(size), avg(seconds), max(created) from trace "
            "group by name order by max(created) desc"
        )
        names = ("function", "results", "bytes", "seconds")
        return [{**dict(zip(names, row, strict=False)), "last": _when(row[4])} for row in rows]

    def verify(self) -> dict[str, str]:
        """Read every object in full, and forget those that are damaged.

        Returns
        -------
        dict
            By name of a damaged object, what is wrong with it; what needs it will run again.
        """
        store = self.store()
        found = dict(store.verify())
        for name in found:
            store.forget_object(bytes.fromhex(name))
        return found

    def prune(self, *, max_bytes: float | None = None, max_age: float | None = None) -> int:
        """Delete objects, those not used for longest first; what needs one will run again.

        Parameters
        ----------
        max_bytes
            How large all may be together; None: that of this cache.
        max_age
            Seconds since the last use; None: that of this cache.

        Returns
        -------
        int
            Bytes that were freed.
        """
        size_limit = self.max_bytes if max_bytes is None else check_number("max_bytes", max_bytes)
        age_limit = self.max_age if max_age is None else check_number("max_age", max_age)
        store = self.store()
        left, now, freed = store.sizes()[2], time.time(), 0
        gone = []
        for digest, size, used in store.objects_by_use():
            too_many = size_limit is not None and left > size_limit
            too_old = age_limit is not None and now - used > age_limit
            if not (too_many or too_old):
                break
            gone.append(digest)
            left -= size
            freed += size
        store.drop_objects(gone)
        return freed

    def clear(self, function: str | None = None) -> None:
        """Forget everything, or all that functions of one name returned."""
        store = self.store()
        if function is None:
            store.clear()
        else:
            store.delete_traces(name=function)

    def store(self) -> Store:
        """Return the store of the directory, which all caches of this process there share."""
        known = self._store
        if known is None or not known.is_current():
            known = self._store = store_at(self.path)
        return known


def _cache(path: str, audit: float, max_bytes: float | None, max_age: float | None) -> Cache:
    return Cache(path, audit=audit, max_bytes=max_bytes, max_age=max_age)


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


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
