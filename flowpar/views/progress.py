"""Bars on a terminal, or a line now and then in a log: how far a run is."""

from __future__ import annotations

import functools
import io
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol, TextIO

from flowpar.events import Counts, Progressed, RunEnded, RunStarted, TaskProgress
from flowpar.pools.standins import CLEAR
from flowpar.pools.terminal import Shared

PATIENCE: Final = 1.0
"""A run that nobody asked to see is shown once it has lasted so many seconds."""
LINE_INTERVAL: Final = 10.0
"""Seconds between two lines where there is no terminal."""
MOST_FUNCTIONS: Final = 5
"""How many active functions have a bar of their own."""
MOST_TASKS: Final = 5
"""How many tasks that say how far they are have one."""
LONGEST_NAME: Final = 32


class Progress:
    """Shows a run while it goes on; an observer.

    On a terminal there is one bar for the run and, under it, one for each function that is active
    (the first five in the order of the graph), and one for each task that says how far it is
    (five). They go away at the end, and one line stays.
    In a notebook there is the bar of the run alone, as tqdm draws bars there. Elsewhere one plain
    line is written every ten seconds, and one at the end.

    Parameters
    ----------
    stream
        Where to write; standard error if None.
    patience
        Seconds that a run must last before anything of it is shown.

    Notes
    -----
    Time is read from the events: where none comes for a while, what is shown stands still. All
    methods are called from the thread of the run. tqdm is loaded when the first bar is shown.
    """

    def __init__(self, stream: TextIO | None = None, *, patience: float = 0.0) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._patience = patience
        self._view: _View | None = None

    @classmethod
    def wanted(cls, option: bool | None, stream: TextIO | None = None) -> Progress | None:  # noqa: FBT001 - the option as the user gave it
        """Return the observer that the option `progress` asks for, or None.

        Parameters
        ----------
        option
            True: show at once; False: never; None: on a terminal or in a notebook only, once the
            run has lasted longer than a second.
        stream
            Where to write; standard error if None.

        Examples
        --------
        >>> Progress.wanted(False) is None
        True
        """
        stream = sys.stderr if stream is None else stream
        # Standard error is None in programs without a console.
        if option is False or stream is None:
            return None
        if option is None and not (_is_terminal(stream) or _is_notebook()):
            return None
        return cls(stream, patience=0.0 if option else PATIENCE)

    def on_run_start(self, event: RunStarted) -> None:
        """Forget the run before, and show the new one if it need not prove itself."""
        self._close()
        if self._patience == 0:
            self._show(Progressed(counts=event.counts, functions=dict, seconds=0.0))

    def on_progress(self, event: Progressed) -> None:
        """Bring what is shown up to date, but not more often than it should be."""
        # The last event of a long silent run would open the bars only to close them.
        over = self._view is None and event.counts.finished == event.counts.total
        if not over and event.seconds >= self._patience:
            self._show(event)

    def on_run_end(self, event: RunEnded) -> None:
        """Take the bars away and leave one line."""
        if self._view is None and (self._patience == 0 or event.seconds > self._patience):
            self._view = self._new_view(event.counts)
        if self._view is not None:
            self._view.end(_last_line(event))
        self._view = None

    def _show(self, event: Progressed) -> None:
        if self._view is None:
            self._view = self._new_view(event.counts)
        self._view.show(event)

    def _new_view(self, counts: Counts) -> _View:
        if _is_disabled():
            return _Silence()
        if _is_terminal(self._stream):
            return _Bars(self._stream, counts.total)
        if _is_notebook():
            return _NotebookBar(counts.total)
        return _Lines(self._stream)

    def _close(self) -> None:
        if self._view is not None:
            self._view.end(None)
        self._view = None


class _View(Protocol):
    """One way to show one run."""

    def show(self, event: Progressed) -> None: ...

    def end(self, line: str | None) -> None: ...


class _Silence:
    """Nothing, for who has set TQDM_DISABLE."""

    def show(self, event: Progressed) -> None:
        """Show nothing."""

    def end(self, line: str | None) -> None:
        """Leave nothing."""


class _Lines:
    """A line every ten seconds, for logs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._next = LINE_INTERVAL

    def show(self, event: Progressed) -> None:
        """Write a line if it is time: one, however long nothing was heard."""
        if event.seconds >= self._next:
            self._next = event.seconds + LINE_INTERVAL
            self._write(_line(event))

    def end(self, line: str | None) -> None:
        """Write the last line, if there is one."""
        if line is not None:
            self._write(line)

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


class _Bars:
    """The bar of the run, and those of the functions under it.

    Of several runs at once that share a terminal one has bars; when it ends, another gets them.
    """

    def __init__(self, stream: TextIO, total: int) -> None:
        self._stream = stream
        self._total = total
        self._bars: list[Any] = []
        self._leave: Callable[[], object] | None = None
        self._shown_at = 0.0

    def show(self, event: Progressed) -> None:
        """Draw the bars again, if tqdm's interval has passed."""
        if self._leave is None:
            if not _enter(self):
                return
            # Also if nobody calls `end`, as when drawing has failed.
            self._leave = weakref.finalize(self, Shared(_bar_class().get_lock()).close)
            bar = self._new_bar(total=self._total, unit="task", bar_format=_RUN_FORMAT)
            self._bars.append(bar)
        elif event.seconds - self._shown_at < self._bars[0].mininterval:
            return
        self._shown_at = event.seconds
        self._take(event)
        self._take_parts(event)
        self._draw()

    def end(self, line: str | None) -> None:
        """Take the bars away, and write the last line."""
        with _bar_class().get_lock():
            if self._leave is not None:
                # First, or others would write beside them.
                self._write(self._skip() + CLEAR)
                self._have_parts(-1)
                _owners.pop(self._stream, None)
                self._leave()
                self._leave = None
            if line is not None:
                # Goes above any bars that the user's own program has on the screen, or another run.
                if _owner_of(self._stream) is not None:
                    self._write(CLEAR)
                _bar_class().write(line, file=self._stream)
                self._stream.flush()

    def _take(self, event: Progressed) -> None:
        bar, counts = self._bars[0], event.counts
        bar.n, bar.total = counts.finished, counts.total
        # What took no time is no measure of how fast the rest will go.
        bar.initial = counts.cached + counts.skipped
        bar.elapsed = event.seconds
        bar.left = event.seconds_left()
        bar.set_postfix_str(_state(counts), refresh=False)

    def _take_parts(self, event: Progressed) -> None:
        """Take what is to be shown of functions that are active, and of tasks that say how far."""
        active = [pair for pair in event.functions().items() if pair[1].running][:MOST_FUNCTIONS]
        steps = event.steps()[:MOST_TASKS]
        width = max((len(_shown(name)) for name, _ in active), default=0)
        parts = [_function_part(name, counts, width) for name, counts in active]
        parts += map(_task_part, steps)
        self._have_parts(len(parts))
        for bar, part in zip(self._bars[1:], parts, strict=True):
            bar.bar_format = part.form
            bar.n, bar.total = part.done, part.total
            bar.set_description_str(part.text, refresh=False)
            bar.set_postfix_str(part.postfix, refresh=False)

    def _have_parts(self, number: int) -> None:
        while len(self._bars) - 1 > number:
            self._bars.pop().close()
        while len(self._bars) - 1 < number:
            self._bars.append(self._new_bar(total=0))

    def _draw(self) -> None:
        """Draw all bars in one step: other processes may write to the terminal in between."""
        with _bar_class().get_lock():
            above = self._skip()
            up = above.count("\n") + len(self._bars) - 1
            back = f"\x1b[{up}A" if up else ""
            self._write(f"{above}{CLEAR}" + "\n".join(map(str, self._bars)) + back)

    def _skip(self) -> str:
        """Return what leads past the bars of the user's own program."""
        others: int = abs(self._bars[0].pos)
        return "\n" * others

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()

    def _new_bar(self, **options: Any) -> Any:
        # No `mininterval`, no `disable`: what is passed here wins over the user's TQDM_ variables.
        return _bar_class()(
            desc="flowpar",
            file=self._stream,
            leave=False,
            dynamic_ncols=True,
            smoothing=0,
            **options,
        )


class _NotebookBar:
    """The bar of the run in the cell that it was started from: a widget, where there are some."""

    def __init__(self, total: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there are no widgets is no trouble
            from tqdm.auto import tqdm  # noqa: PLC0415 - slow to import
        self._bar: Any = tqdm(total=total, desc="flowpar", unit="task", smoothing=0)

    def show(self, event: Progressed) -> None:
        """Move the bar."""
        bar, counts = self._bar, event.counts
        bar.total, bar.n = counts.total, counts.finished
        bar.initial = counts.cached + counts.skipped
        bar.start_t = bar._time() - event.seconds  # it was not there from the beginning
        bar.set_postfix_str(_state(counts), refresh=False)
        bar.refresh()

    def end(self, line: str | None) -> None:
        """Leave the bar as it is, with the last line beside it."""
        if line is not None:
            self._bar.set_description_str(line, refresh=True)
        self._bar.close()


_owners: Final[dict[TextIO, weakref.ref[_Bars]]] = {}
"""Of each terminal, what has bars on it."""


def _owner_of(stream: TextIO) -> _Bars | None:
    owner = _owners.get(stream)
    return None if owner is None else owner()


def _enter(bars: _Bars) -> bool:
    """Let bars have their terminal; return whether it was free."""
    with _bar_class().get_lock():
        if _owner_of(bars._stream) is not None:
            return False
        _owners[bars._stream] = weakref.ref(bars)
        return True


_RUN_FORMAT: Final = (
    "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{time_left}, {rate_fmt}{postfix}]"
)
_PART_FORMAT: Final = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}"
_ENDLESS_FORMAT: Final = "{desc} {n_fmt}{postfix}"


class _Part(NamedTuple):
    """A bar under that of the run."""

    text: str
    done: float
    total: float | None
    postfix: str = ""

    @property
    def form(self) -> str:
        """How tqdm is to draw it."""
        return _ENDLESS_FORMAT if self.total is None else _PART_FORMAT


def _function_part(name: str, counts: Counts, width: int) -> _Part:
    text = f"  {_shown(name):<{width}}"
    return _Part(text, counts.finished, counts.total, f"running {counts.running}")


def _task_part(step: TaskProgress) -> _Part:
    text = f"    {_shown(step.key)} {_shown(step.desc)}".rstrip()
    return _Part(text, _tidy(step.done), None if step.total is None else _tidy(step.total))


def _tidy(number: float) -> float:
    """Return a whole number as one, so that nobody is shown a fraction of an item."""
    return int(number) if number == int(number) else round(number, 2)


@functools.cache
def _bar_class() -> Any:
    from tqdm import tqdm  # noqa: PLC0415 - slow to import, and most runs show nothing

    class Bar(tqdm):  # type: ignore[misc,type-arg,unused-ignore]
        """A bar that starts no thread and no process, and whose time is the run's."""

        # The thread that watches over slow bars would make it unsafe to fork.
        monitor_interval = 0
        disable: bool
        elapsed = 0.0
        left: float | None = None

        @property
        def format_dict(self) -> dict[str, Any]:
            known = {**super().format_dict, "elapsed": self.elapsed}
            return {**known, "time_left": self._time_left()}

        def _time_left(self) -> str:
            counted = self.n - self.initial
            if self.left is None and counted > 0 and self.total is not None:
                rest = (self.total - self.n) * self.elapsed / counted
                return str(tqdm.format_interval(rest))
            return "?" if self.left is None else str(tqdm.format_interval(self.left))

        def refresh(self, nolock: bool = False, lock_args: object = None) -> None:  # noqa: FBT001, FBT002 - tqdm's
            """Draw nothing: who has all bars draws them, at one time."""

        def clear(self, nolock: bool = False) -> None:  # noqa: FBT001, FBT002 - tqdm's
            """Wipe nothing out: who writes above all bars does that."""

        def close(self) -> None:
            """Have its place on the screen be free, and draw nothing."""
            if not self.disable:
                self.disable = True
                self._decr_instances(self)

    # The lock that tqdm would make is for several processes, and may start one to look after it.
    Bar.set_lock(threading.RLock())
    return Bar


def _is_disabled() -> bool:
    # tqdm reads its variables itself, when it is imported.
    bar = _bar_class()(file=io.StringIO())
    disabled = bool(bar.disable)
    bar.close()
    return disabled


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except (AttributeError, ValueError):  # no real file, or a closed one
        return False


def _is_notebook() -> bool:
    """Return whether this runs in the kernel of a notebook, and not in some other program."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return hasattr(shell, "kernel")


def _shown(name: str) -> str:
    """Return a function's name as it may be sent to a terminal: one line, no orders in it."""
    safe = "".join(char if char.isprintable() else "?" for char in name)
    return safe if len(safe) <= LONGEST_NAME else safe[: LONGEST_NAME - 1] + "…"


def _state(counts: Counts) -> str:
    skipped = f", skipped {counts.skipped}" if counts.skipped else ""
    return f"cached {counts.cached}, failed {counts.failed}{skipped}, running {counts.running}"


def _line(event: Progressed) -> str:
    counts = event.counts
    share = 100 * counts.finished // max(counts.total, 1)
    left = event.seconds_left()
    rest = f", {_duration(left)} left" if left else ""
    return (
        f"flowpar: {share} % {counts.finished}/{counts.total} ({_state(counts)}) "
        f"{_duration(event.seconds)}{rest}"
    )


def _last_line(event: RunEnded) -> str:
    counts = event.counts
    skipped = f", skipped {counts.skipped}" if counts.skipped else ""
    return (
        f"flowpar: {event.status}, {counts.finished}/{counts.total} tasks in "
        f"{_duration(event.seconds)} (cached {counts.cached}, failed {counts.failed}{skipped})"
    )


def _duration(seconds: float) -> str:
    if seconds < 10:  # noqa: PLR2004 - where a tenth stops to matter
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
