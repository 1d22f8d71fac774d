"""Calls that fail where they are told to, and what comes of them."""


def fails_at(*bad):
    """Return a function that gives back a number, or raises for some."""

    def call(n):
        if n in bad:
            raise ValueError(f"no {n}")
        return n

    return call


def outcomes(iterator):
    """Return the values, and the types of the errors, that an iterator gives."""
    found = []
    while True:
        try:
            found.append(next(iterator))
        except StopIteration:
            return found
        except BaseException as error:
            found.append(type(error).__name__)
