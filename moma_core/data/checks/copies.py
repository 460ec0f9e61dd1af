"""Pictures that are there twice, by what they are there for."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moma_core.data.checks.samples import some
from moma_core.data.patch import NO_LABEL, SPLITS, PatchSource
from moma_core.data.sources.image_files import FilePatches
from moma_core.runtime.finding import Finding

_SMALL_PX = 16  # a side, of what is compared
# of the lower contrast, the difference that a picture saved again may have: JPEG of
# quality 50 made 0.03 of it, and 0.07 in 99 of 100; of 1,739 patches of tissue no two
# were nearer than 0.8
_NEAR = 0.1
# the least standard deviation of what is compared, in grey levels: of 1,742 patches of
# tissue three had less, and glass under a microscope's camera has 0.5 at most
_LEAST_DETAIL = 1.5
_SMOOTH = 4  # degree of the polynomial that light over the field follows
_ALIKE = "equal in each pixel or so when turned or mirrored"


@dataclass(slots=True)
class Copies:
    """Pictures by what they show.

    Args:
        alike: Rows by the digest of their pixels.
        small: Some of the pictures, grey and small, by row; (256,) each.
    """

    alike: defaultdict[bytes, list[int]] = field(
        default_factory=lambda: defaultdict(list)
    )

    small: dict[int, NDArray[np.uint8]] = field(default_factory=dict)

    def add(self, row: int, pixels: NDArray[np.uint8], *, is_compared: bool) -> None:
        """Takes a picture that is not of one colour: two such are no copies.

        Args:
            row: Of the set.
            pixels: (H, W, 3).
            is_compared: Whether it is looked for among those that were saved anew.
        """
        self.alike[_digest(pixels)].append(row)
        if is_compared:
            size = (_SMALL_PX, _SMALL_PX)
            grey = Image.fromarray(pixels).convert("L")
            small = grey.resize(size, Image.Resampling.BOX)
            self.small[row] = np.asarray(small).reshape(-1)


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


def look_at_resaved(
    copies: Copies, source: PatchSource, files: FilePatches | None
) -> Iterator[Finding]:
    """Yields pictures in two splits that differ by how they were saved alone."""
    index = source.index
    lines = [
        f"{place(files, first)} in {SPLITS[index.splits[first]]} and "
        f"{place(files, other)} in {SPLITS[index.splits[other]]}"
        for first, other in _resaved(copies, index.splits)
    ]
    if not lines:
        return
    several = "pictures are" if len(lines) > 1 else "picture is"
    text = (
        f"{len(lines)} {several} in two splits, it seems, saved again with loss or in "
        f"another size: a student would be judged by what it learned; keep one of each "
        f"that is a copy, and its patient in one split"
    )
    yield Finding("pictures", "warning", text, more=some(lines))


def _resaved(copies: Copies, splits: NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
    """Yields rows of two splits whose small pictures are nearly equal.

    How light falls off to the corners is the microscope's, and the same in all. What
    is equal in each pixel is a copy, and told as one.
    """
    rows = np.array(list(copies.small), dtype=np.int64)
    if not len(rows):
        return
    digests = {row: n for n, group in enumerate(copies.alike.values()) for row in group}
    small = _without_light(np.stack(list(copies.small.values())))  # (N, 256)
    contrast = small.std(axis=1)
    for number, row in enumerate(rows.tolist()):
        later = slice(number + 1, None)
        apart = np.sqrt(((small[later] - small[number]) ** 2).mean(axis=1))
        most = _NEAR * np.minimum(contrast[later], contrast[number])
        is_near = (apart <= most) & (contrast[later] >= _LEAST_DETAIL)
        is_near &= splits[rows[later]] != splits[row]
        for other in rows[later][is_near].tolist():
            if digests[row] != digests[other]:
                yield row, other


def _without_light(small: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns small pictures, (N, 256), less what is smooth over all of each."""
    across = np.linspace(-1, 1, _SMALL_PX)
    x, y = (axis.ravel() for axis in np.meshgrid(across, across))
    powers = [x**i * y**j for i in range(_SMOOTH + 1) for j in range(_SMOOTH + 1 - i)]
    smooth = np.linalg.qr(np.stack(powers, axis=1))[0].astype(np.float32)  # (256, 15)
    pictures = small.astype(np.float32)
    rest = pictures - pictures @ smooth @ smooth.T
    return rest.astype(np.float32, copy=False)


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
