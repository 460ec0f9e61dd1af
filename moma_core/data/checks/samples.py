"""Some of many: the rows that are looked at, and the names that are shown."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

MOST_NAMED = 20

_Found = TypeVar("_Found")


def spread(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Returns the rows, or so many of them that are evenly spread."""
    if len(rows) <= most:
        return rows
    places = np.linspace(0, len(rows) - 1, most).astype(np.int64)
    return rows[np.unique(places)]


def some(
    found: Sequence[_Found], line: Callable[[_Found], str] = str
) -> tuple[str, ...]:
    """Returns a line of each of the first, and how many more there are.

    Args:
        found: All of them.
        line: Writes one; it is asked for what is shown alone.
    """
    rest = len(found) - MOST_NAMED
    lines = map(line, found[:MOST_NAMED])
    return (*lines, *([f"and {rest} more"] if rest > 0 else []))


def joined(parts: Sequence[str], most: int = MOST_NAMED) -> str:
    """Returns the first within a sentence, and how many more there are."""
    rest = len(parts) - most
    shown = ", ".join(parts[:most])
    return f"{shown} and {rest} more" if rest > 0 else shown
