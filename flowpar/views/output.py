"""What tasks write, shown with the names of the tasks; an observer."""

from __future__ import annotations

import sys

from flowpar.events import TaskWrote
from flowpar.pools.standins import bars


class Output:
    r"""Prints each line that a task wrote, after the name of the task.

    Examples
    --------
    >>> Output().on_output(TaskWrote(key="load[3]", text="one\ntwo"))
    [load[3]] one
    [load[3]] two
    """

    def on_output(self, event: TaskWrote) -> None:
        """Print what one task wrote, above bars that may be there."""
        lines = "\n".join(f"[{event.key}] {line}" for line in event.text.splitlines())
        with bars.lock:  # or bars might come in between
            if "tqdm" not in sys.modules or bars.shown:  # ours make room themselves
                print(lines, flush=True)  # noqa: T201 - that is what it is for
                return
            from tqdm import tqdm  # noqa: PLC0415 - it is there: the user may have bars

            tqdm.write(lines, file=sys.stdout)
