"""What tasks and tests of different processes tell each other by, without sleeping."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path


def hold(path, value=None, seconds=60):
    """Keep a worker busy until somebody makes this file; what a task does that must not end."""
    pause, deadline = threading.Event(), time.monotonic() + seconds
    while not os.path.exists(path):
        if time.monotonic() > deadline:
            raise AssertionError(f"nobody opened {path}")
        pause.wait(0.005)
    return value


def mark(path, text="x"):
    """Add to a file; atomic between processes and threads."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, f"{text}\n".encode())
    finally:
        os.close(descriptor)
    return text


def marks(path):
    """Return what was added, in order."""
    path = Path(path)
    return path.read_text().split() if path.exists() else []
