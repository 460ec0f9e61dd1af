"""Pictures that are there twice, by what they are there for."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from moma_core.data.patch import NO_LABEL, SPLITS, PatchSource
from moma_core.data.sources.image_files import FilePatches
from moma_core.runtime.finding import Finding

_MOST_NAMED = 20
_ALIKE = "equal in each pixel or so when turned or mirrored"


@dataclass(slots=True)
class Copies:
    """Pictures by what they show.

    Args:
        alike: Rows by the digest of their pixels.
    """

    alike: defaultdict[bytes, list[int]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def add(self, row: int, pixels: NDArray[np.uint8]) -> None:
        """Takes a picture, (H, W, 3), that shows something: empty ones are alike."""
        self.alike[_digest(pixels)].append(row)


def look_at_copies(
    copies: Copies, source: PatchSource, files: FilePatches | None
) -> Iterator[Finding]:
    """Yields pictures that are there twice, also turned, by what they are there for."""
    index, pairs = source.index, list(_pairs_alike(copies, source))
    labels: list[str] = []
    splits: list[str] = []
    for first, other in pairs:
        both = f"{place(files, first)} and {place(files, other)}"
        called = {int(index.labels[row]) for row in (first, other)} - {NO_LABEL}
        if len(called) == 2:
            says = " and ".join(source.class_names[label] for label in called)
            labels.append(f"{both}: {says}")
        if index.splits[first] != index.splits[other]:
            parts = (SPLITS[index.splits[row]] for row in (first, other))
            splits.append(f"{both}: {' and '.join(parts)}")
    if labels:
        text = (
            f"{len(labels)} copies of a picture, {_ALIKE}, have another label: keep "
            f"the right one"
        )
        yield Finding("pictures", "problem", text, more=some(labels))
    if splits:
        text = (
            f"{len(splits)} copies of a picture, {_ALIKE}, are in another split, which "
            f"would be judged by what was learned: keep one of each, and its patient "
            f"in one split"
        )
        yield Finding("pictures", "problem", text, more=some(splits))
    if pairs and not labels and not splits:
        text = (
            f"{len(pairs)} copies of a picture, {_ALIKE}, under another name: they "
            f"count twice; keep one of each"
        )
        names = [f"{place(files, a)} and {place(files, b)}" for a, b in pairs]
        yield Finding("pictures", "warning", text, more=some(names))


def _pairs_alike(copies: Copies, source: PatchSource) -> Iterator[tuple[int, int]]:
    """Yields each picture that came before, and one that is alike and another file."""
    files = source.index.files
    codes = np.arange(len(source.index)) if files is None else files
    for first, *others in copies.alike.values():
        yield from ((first, other) for other in others if codes[first] != codes[other])


def _digest(pixels: NDArray[np.uint8]) -> bytes:
    """Returns one digest for a picture and its seven turned and mirrored copies.

    It is of the one whose first row is the least; all of it is compared at a tie alone.
    """
    turned = [
        np.rot90(side, quarters)
        for side in (pixels, pixels[:, ::-1])
        for quarters in range(4)
    ]
    starts = [(each.shape, each[0].tobytes()) for each in turned]
    first = [
        each for each, start in zip(turned, starts, strict=True) if start == min(starts)
    ]
    content = min(each.tobytes() for each in first)
    digest = hashlib.blake2b(repr(first[0].shape).encode(), digest_size=16)
    digest.update(content)
    return digest.digest()


def place(files: FilePatches | None, row: int) -> str:
    """Returns where a row comes from; for the site alone."""
    return f"row {row}" if files is None else files.place_of(row)


def some(lines: Sequence[str]) -> tuple[str, ...]:
    """Returns the first lines, and how many more there are."""
    rest = len(lines) - _MOST_NAMED
    return (*lines[:_MOST_NAMED], *([f"and {rest} more"] if rest > 0 else []))
