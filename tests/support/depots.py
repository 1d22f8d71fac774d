"""What lies in the depot of this process."""

from pathlib import Path

from flowpar.pools import home


def files():
    """Return the files of values, not the socket of things that are shared."""
    found = [path for folder in home.home().folders for path in Path(folder).iterdir()]
    return [path for path in found if not path.name.startswith("server-")]
