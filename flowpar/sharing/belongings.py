"""What belongs to the whole process, or to one thread; and looking at things without touching them.

Nothing here runs the user's code: attributes are read from the dictionaries of classes, modules and
instances, never asked of the objects themselves.
"""

from __future__ import annotations

import inspect
import io
import sys
import types
from collections.abc import Iterator
from typing import Any, Final

__all__ = [
    "NAMES",
    "UNKNOWN",
    "Unloaded",
    "attribute_of",
    "attribute_of_class",
    "is_a",
    "is_immutable",
    "is_synchronised",
    "loaded",
    "name_of",
    "trouble_of",
    "trouble_of_name",
]

UNKNOWN: Final = object()
"""Stands for what is not known."""

FUNCTIONS: Final[dict[str, frozenset[str]]] = {
    module: frozenset(names.split())
    for module, names in {
        "os": "_exit abort chdir fchdir chroot umask kill killpg fork forkpty dup2 closerange nice"
        " execl execle execlp execlpe execv execve execvp execvpe setuid setgid seteuid setegid"
        " setreuid setregid setresuid setresgid setgroups setsid setpgid setpriority putenv"
        " unsetenv"
        " sched_setaffinity sched_setscheduler",
        "sys": "setrecursionlimit setswitchinterval settrace setprofile setdlopenflags"
        " set_int_max_str_digits",
        "builtins": "exec",
        "contextlib": "chdir redirect_stdout redirect_stderr",
        "gc": "disable enable freeze unfreeze set_threshold set_debug",
        "locale": "setlocale",
        "matplotlib": "rc rc_context rcdefaults rc_file use",
        "multiprocessing": "set_start_method",
        "numpy": "seterr seterrcall setbufsize set_printoptions",
        "numpy.random": "seed set_state",
        "pandas": "set_option reset_option option_context",
        "random": "seed setstate",
        "resource": "setrlimit prlimit",
        "socket": "setdefaulttimeout",
        "threading": "settrace setprofile stack_size",
        "time": "tzset",
        "torch": "manual_seed seed set_num_threads set_default_dtype set_default_device",
        "warnings": "catch_warnings simplefilter filterwarnings resetwarnings",
    }.items()
}
"""Functions that change or end the whole process, by the modules they are found in."""

NAMES: Final = frozenset(
    {
        *("seed", "set_state", "setstate", "manual_seed", "manual_seed_all", "set_seed"),
        *("set_random_seed", "seed_everything", "setlocale", "setitimer", "alarm", "tzset"),
        *FUNCTIONS["os"],
        *FUNCTIONS["sys"],
        *FUNCTIONS["warnings"],
        *FUNCTIONS["contextlib"],
    }
)
"""Such functions by their bare names, where it cannot be seen what has them."""

MODULES: Final = frozenset(
    {
        *("matplotlib.pyplot", "pylab", "seaborn", "tkinter", "turtle", "curses", "readline"),
        *("signal", "_signal", "faulthandler", "ctypes", "_ctypes", "cffi", "rpy2", "pygame"),
    }
)
"""Modules that have one state for the process, or are only for its main thread, or may crash it."""

OF_ONE_THREAD: Final = frozenset(
    {
        *("_thread._local", "_threading_local.local", "asyncio.events.AbstractEventLoop"),
        *("sqlite3.Connection", "sqlite3.Cursor", "sqlite3.Blob", "tarfile.TarFile"),
        *("tempfile._TemporaryFileWrapper", "tempfile.SpooledTemporaryFile", "_csv.writer"),
        *("_socket.socket", "http.client.HTTPConnection", "ftplib.FTP", "smtplib.SMTP"),
        *("netCDF4._netCDF4.Dataset", "sqlalchemy.orm.session.Session", "shelve.Shelf"),
    }
)
"""Classes whose instances belong to one thread, or have one position for all who use them."""

_SYNCHRONISED: Final = frozenset(
    {"queue", "_queue", "threading", "_thread", "logging", "multiprocessing", "concurrent"}
)
_IMMUTABLE: Final = (int, float, complex, str, bytes, frozenset, range, slice, type(None))


class Unloaded:
    """A module that a function imports and nobody has yet, or something in one."""

    def __init__(self, name: str) -> None:
        self.name = name


def is_a(thing: object, *kinds: type) -> bool:
    """Return whether a thing is of one of some classes, without asking the thing.

    Examples
    --------
    >>> is_a(True, int), is_a(1, str)
    (True, False)
    """
    # isinstance would read __class__, which a proxy computes.
    return issubclass(type(thing), kinds)


def is_immutable(thing: object) -> bool:
    """Return whether nothing can change a thing.

    Examples
    --------
    >>> is_immutable("text"), is_immutable([])
    (True, False)
    """
    return is_a(thing, *_IMMUTABLE)


def is_synchronised(thing: object) -> bool:
    """Return whether a thing is made for many threads.

    Examples
    --------
    >>> import queue
    >>> is_synchronised(queue.Queue()), is_synchronised([])
    (True, False)
    """
    if any(thing is each for each in _streams()):
        return True  # more or less: as far as printing goes
    homes = (home.partition(".")[0] for home, _ in _classes_of(type(thing)))
    return any(home in _SYNCHRONISED for home in homes)


def loaded(name: str) -> Any:
    """Return a module, if it is loaded; what stands for it, if not.

    Examples
    --------
    >>> loaded("os") is __import__("os"), loaded("no.such").name
    (True, 'no.such')
    """
    module = sys.modules.get(name)
    return Unloaded(name) if module is None else module


def attribute_of(thing: Any, name: str) -> Any:
    """Return what a thing has by a name, as it lies there; `UNKNOWN` if nothing does.

    Examples
    --------
    >>> import os
    >>> attribute_of(os, "sep"), attribute_of(os.path, "none").name
    ('/', 'posixpath.none')
    """
    if is_a(thing, Unloaded):
        return Unloaded(f"{thing.name}.{name}")
    if is_a(thing, types.ModuleType):
        names = object.__getattribute__(thing, "__dict__")
        found = names.get(name, UNKNOWN)
        return loaded(f"{names.get('__name__')}.{name}") if found is UNKNOWN else found
    if is_a(thing, type):
        return attribute_of_class(thing, name)
    found = inspect.getattr_static(thing, name, UNKNOWN)
    if is_a(found, types.MemberDescriptorType):
        try:
            return found.__get__(thing)
        except AttributeError:
            return UNKNOWN
    return found


def attribute_of_class(cls: type, name: str) -> Any:
    """Return what a class or its bases have by a name, as it lies there.

    Examples
    --------
    >>> attribute_of_class(bool, "real") is int.__dict__["real"]
    True
    """
    for each in type.__getattribute__(cls, "__mro__"):
        names = type.__getattribute__(each, "__dict__")
        if name in names:
            return names[name]
    return UNKNOWN


def name_of(thing: Any) -> str:
    """Return the name that a function or class was given, or an empty one.

    Examples
    --------
    >>> import random
    >>> name_of(random.shuffle), name_of(3)
    ('shuffle', '')
    """
    if is_a(thing, Unloaded):
        return str(thing.name).rpartition(".")[2]
    if is_a(thing, type):
        return str(type.__getattribute__(thing, "__name__"))
    home, kind = next(_classes_of(type(thing)))
    is_compiled = kind == "cython_function_or_method" or home.partition(".")[0] == "numpy"
    if is_a(thing, *_NAMED) or is_compiled:
        name = getattr(thing, "__name__", "")
        return name if isinstance(name, str) else ""
    return ""


_NAMED: Final = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.MethodWrapperType,
)


def trouble_of_name(name: str) -> str:
    """Return what to say against a dotted name, if it is one that threads should not share.

    Examples
    --------
    >>> trouble_of_name("matplotlib.pyplot.figure"), trouble_of_name("os.path")
    ('it names matplotlib.pyplot.figure', '')
    """
    module, _, last = name.rpartition(".")
    if _is_within(name) or last in FUNCTIONS.get(module, ()) or (module and last in NAMES):
        return f"it names {name}"
    return ""


def trouble_of(thing: Any) -> str:
    """Return what to say against a thing that threads should not share.

    Examples
    --------
    >>> import os, random
    >>> trouble_of(os.chdir), trouble_of(random.seed), trouble_of(os.getcwd)
    ('it names os.chdir', 'it names random.seed', '')
    >>> trouble_of(iter([])), trouble_of([])
    ('it uses a builtins.list_iterator of all threads', '')
    """
    if is_a(thing, Unloaded):
        return trouble_of_name(thing.name)
    if is_a(thing, types.ModuleType):
        name = object.__getattribute__(thing, "__dict__").get("__name__")
        return f"it names {name}" if isinstance(name, str) and _is_within(name) else ""
    named = _named(thing)
    if named:
        return f"it names {named}"
    return _trouble_of_kind(thing)


def _is_within(name: str) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:count]) in MODULES for count in range(1, len(parts) + 1))


def _named(thing: Any) -> str:
    """Return the dotted name of a function or class that changes the process; or nothing."""
    last = name_of(thing)
    if not last:
        return ""
    for module, names in FUNCTIONS.items():
        there = sys.modules.get(module) if last in names else None
        if there is not None and attribute_of(there, last) is thing:
            return f"{module}.{last}"
    home = (
        type.__getattribute__(thing, "__module__")
        if is_a(thing, type)
        else getattr(thing, "__module__", None)
    )
    return f"{home}.{last}" if isinstance(home, str) and _is_within(home) else ""


def _trouble_of_kind(thing: Any) -> str:
    if is_a(thing, type) or any(thing is each for each in _streams()):
        return ""
    for home, name in _classes_of(type(thing)):
        if f"{home}.{name}" in OF_ONE_THREAD:
            return f"it uses a {home}.{name} of one thread"
        if _is_within(home):
            return f"it uses a {home}.{name}"
    kind = type(thing)
    is_iterator = attribute_of_class(kind, "__next__") is not UNKNOWN
    if is_iterator or is_a(thing, types.AsyncGeneratorType, *_FILES):
        return f"it uses a {kind.__module__}.{kind.__name__} of all threads"
    return ""


_FILES: Final = (io.StringIO.__mro__[-2],)
"""The class of all that is open, as written in C: that in Python asks what it is given."""


def _streams() -> tuple[object, ...]:
    return sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__


def _classes_of(kind: type) -> Iterator[tuple[str, str]]:
    for each in type.__getattribute__(kind, "__mro__"):
        home = type.__getattribute__(each, "__dict__").get("__module__")
        yield home if isinstance(home, str) else "builtins", type.__getattribute__(each, "__name__")
