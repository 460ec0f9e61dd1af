"""Whether pictures can be read, and whether they look like patches of their classes."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moma_core.data.patch import NO_LABEL, SPLITS, PatchIndex, PatchSource
from moma_core.data.sources.image_files import FilePatches
from moma_core.errors import DataError
from moma_core.runtime.finding import Finding, State

SAMPLE = 200  # pictures that are opened where not all are
_MOST_LOOKED_UP = 50_000  # files whose size is asked of the disk
_MOST_NAMED = 20
_MANY = 0.1  # of those opened: more is no chance
_SMALLEST_VIEW_PX = 16  # of a config
_SHRUNK = 4  # a patch so many times the view is cut from it, not looked at whole
_OTHER_SIZE = 1.5  # magnifications differ by two
_LONG = 2  # sides in this proportion are no square patch
_ALIKE = "equal in each pixel or so when turned or mirrored"
_FINEST_MPP, _COARSEST_MPP = 0.05, 5.0  # beyond, another unit is meant

Rows = NDArray[np.int64]


class _Look(NamedTuple):
    """What a program may learn of a picture in the place of its tissue."""

    label: int
    side_px: int
    suffix: str
    resolution_mpp: float | None


@dataclass(slots=True)
class _Opened:
    """What came of opening pictures."""

    rows: Rows
    total: int
    faults: list[str] = field(default_factory=list)
    sides: list[tuple[int, int]] = field(default_factory=list)
    looks: list["_Look"] = field(default_factory=list)
    plain: Counter[int] = field(default_factory=Counter)  # of one colour, by label
    grey: int = 0
    alike: defaultdict[bytes, list[int]] = field(
        default_factory=lambda: defaultdict(list)
    )

    @property
    def part(self) -> str:
        """How many of how many."""
        part = f"{len(self.rows)} of {self.total} opened"
        if len(self.rows) < self.total:
            part += "; --all-pictures opens each"
        return part


def look_at_pictures(
    source: PatchSource,
    files: FilePatches | None,
    *,
    view_size_px: int,
    max_unreadable: int,
    all_of_them: bool = False,
    sample: int = SAMPLE,
) -> Iterator[Finding]:
    """Yields what is to be said of the pixels.

    Args:
        source: The set, as `open_source` opens it.
        files: The same set where patches are files; None: they are not.
        view_size_px: Side of the views that are made of them.
        max_unreadable: Broken patches that are tolerated.
        all_of_them: Opens each; else a sample that is evenly spread, and beside it
            files that are as long as another one, as copies are that were not turned.
        sample: Size of each of these two.
    """
    rows = _rows(source, files, sample, all_of_them=all_of_them)
    opened = _Opened(rows, len(source.index))
    for row in rows.tolist():
        _open(source if files is None else files, files, row, opened)
    yield _readable(opened, max_unreadable, _origin(source.index, files))
    if opened.sides:
        yield from _sizes(opened, view_size_px)
        yield from _colours(opened, source)
        yield from _giveaways(opened.looks, source.class_names)
    yield from _copies(opened, source, files)


def _open(
    reader: PatchSource, files: FilePatches | None, row: int, opened: _Opened
) -> None:
    try:
        patch = reader.read(row)
    except DataError as error:
        opened.faults.append(f"{_place(files, row)}: {error}")
        return
    pixels, label = patch.pixels, int(reader.index.labels[row])
    opened.sides.append((pixels.shape[0], pixels.shape[1]))
    suffix = "" if files is None else Path(files.path_of(row)).suffix.lower()
    side = min(pixels.shape[:2])
    opened.looks.append(_Look(label, side, suffix, patch.resolution_mpp))
    first = pixels[:1, :1]
    if bool((pixels == first).all()):
        opened.plain[label] += 1
        return  # two empty ones are no copies
    opened.grey += bool((pixels == pixels[:, :, :1]).all())
    opened.alike[_digest(pixels)].append(row)


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


def _origin(index: PatchIndex, files: FilePatches | None) -> str:
    """Returns where patches come from, unless each is a file."""
    if files is not None:
        return ""
    if not index.places or index.slides is None:
        return "patches come from one file, "
    slides = len(np.unique(index.slides))
    return f"patches are cut from {slides} slide{'' if slides == 1 else 's'}, "


def _readable(opened: _Opened, tolerated: int, origin: str) -> Finding:
    part = f"{origin}{opened.part}"
    if not opened.faults:
        return Finding("pictures", "ok", part)
    broken = len(opened.faults)
    text = (
        f"{broken} cannot be read, data.max_unreadable: {tolerated} tolerated; "
        f"mend them, or take them out of the data ({part})"
    )
    state: State = "problem" if broken > tolerated else "warning"
    return Finding("pictures", state, text, more=_some(opened.faults))


def _sizes(opened: _Opened, view_size_px: int) -> Iterator[Finding]:
    longest = max(max(sides) for sides in opened.sides)
    if longest < view_size_px:
        text = (
            f"the largest has {longest} px a side, view_size_px: {view_size_px} "
            f"stretches it, which takes time and shows nothing more: set "
            f"view_size_px: {max(longest, _SMALLEST_VIEW_PX)}, whatever the teacher "
            f"takes, or cut larger patches"
        )
        yield Finding("pictures", "warning", text)
    middle = float(np.median([min(sides) for sides in opened.sides]))
    if middle >= _SHRUNK * view_size_px:
        text = (
            f"they have {middle:.0f} px a side, view_size_px: {view_size_px} shows "
            f"each {middle / view_size_px:.0f} times smaller, without its cells: cut "
            f"patches of about {view_size_px} px, or set a larger view_size_px"
        )
        yield Finding("pictures", "warning", text)
    long = sum(max(sides) >= _LONG * min(sides) for sides in opened.sides)
    if long > _MANY * len(opened.sides):
        text = (
            f"{long} of {len(opened.sides)} are at least twice as wide as high or the "
            f"other way round: views are square, and squeeze them"
        )
        yield Finding("pictures", "warning", text)


def _resolutions(looks: Sequence[_Look]) -> Iterator[Finding]:
    """Yields whether patches state one resolution, and one that can be."""
    known = [look.resolution_mpp for look in looks if look.resolution_mpp is not None]
    if known and not _FINEST_MPP <= float(np.median(known)) < _COARSEST_MPP:
        text = (
            f"patches state {np.median(known):g} microns a pixel: is that a lens's "
            f"magnification, or another unit? Where a scanner says 20x, 0.5 is usual, "
            f"and 0.25 for 40x"
        )
        yield Finding("resolution", "warning", text)
    if known and max(known) >= _OTHER_SIZE * min(known):
        text = (
            f"patches have {min(known):g} to {max(known):g} microns a pixel: cells of "
            f"one kind have several sizes; cut all at one magnification"
        )
        yield Finding("resolution", "warning", text)


def _giveaways(looks: Sequence[_Look], names: Sequence[str]) -> Iterator[Finding]:
    """Yields what tells classes apart and is no tissue: magnification, size, format."""
    yield from _resolutions(looks)
    of_class: defaultdict[int, list[_Look]] = defaultdict(list)
    for look in looks:
        of_class[look.label].append(look)
    of_class.pop(NO_LABEL, None)
    if len(of_class) < 2:
        return
    sides = {
        label: float(np.median([look.side_px for look in found]))
        for label, found in of_class.items()
    }
    least, most = min(sides, key=sides.__getitem__), max(sides, key=sides.__getitem__)
    if sides[most] >= _OTHER_SIZE * sides[least]:
        text = (
            f"patches of class {names[least]!r} have {sides[least]:.0f} px a side and "
            f"those of {names[most]!r} {sides[most]:.0f}: a student may learn that in "
            f"the place of tissue; cut all classes alike"
        )
        yield Finding("pictures", "warning", text)
    formats = {label: {look.suffix for look in of_class[label]} for label in of_class}
    odd = [
        label
        for label, own in formats.items()
        if all(own.isdisjoint(formats[other]) for other in formats if other != label)
    ]
    if odd:
        shown = ", ".join(sorted(formats[odd[0]]))
        text = (
            f"class {names[odd[0]]!r} alone has files of kind {shown}: a student may "
            f"learn their compression in the place of tissue; save all classes alike"
        )
        yield Finding("pictures", "warning", text)


def _colours(opened: _Opened, source: PatchSource) -> Iterator[Finding]:
    count = len(opened.sides)
    if (plain := opened.plain.total()) > _MANY * count:
        labels = source.index.labels[opened.rows]
        whole = [
            source.class_names[label]
            for label, number in opened.plain.items()
            if label != NO_LABEL and number == int((labels == label).sum())
        ]
        of_class = f", among them all of {', '.join(map(repr, whole))}" if whole else ""
        text = (
            f"{plain} of {count} are of one colour{of_class}: an empty place of the "
            f"slide, or an export that went wrong"
        )
        yield Finding("pictures", "warning", text)
    if opened.grey > (1 - _MANY) * count:
        text = "they are grey: stained tissue has colour, so see how they were saved"
        yield Finding("pictures", "warning", text)


def _copies(
    opened: _Opened, source: PatchSource, files: FilePatches | None
) -> Iterator[Finding]:
    """Yields pictures that are there twice, also turned, by what they are there for."""
    index, pairs = source.index, list(_pairs_alike(opened, source))
    labels: list[str] = []
    splits: list[str] = []
    for first, other in pairs:
        both = f"{_place(files, first)} and {_place(files, other)}"
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
        yield Finding("pictures", "problem", text, more=_some(labels))
    if splits:
        text = (
            f"{len(splits)} copies of a picture, {_ALIKE}, are in another split, which "
            f"would be judged by what was learned: keep one of each, and its patient "
            f"in one split"
        )
        yield Finding("pictures", "problem", text, more=_some(splits))
    if pairs and not labels and not splits:
        text = (
            f"{len(pairs)} copies of a picture, {_ALIKE}, under another name: they "
            f"count twice; keep one of each"
        )
        names = [f"{_place(files, a)} and {_place(files, b)}" for a, b in pairs]
        yield Finding("pictures", "warning", text, more=_some(names))


def _pairs_alike(opened: _Opened, source: PatchSource) -> Iterator[tuple[int, int]]:
    """Yields each picture that came before, and one that is alike and another file."""
    files = source.index.files
    codes = np.arange(len(source.index)) if files is None else files
    for first, *others in opened.alike.values():
        yield from ((first, other) for other in others if codes[first] != codes[other])


def _place(files: FilePatches | None, row: int) -> str:
    return f"row {row}" if files is None else files.place_of(row)


def _some(lines: Sequence[str]) -> tuple[str, ...]:
    rest = len(lines) - _MOST_NAMED
    return (*lines[:_MOST_NAMED], *([f"and {rest} more"] if rest > 0 else []))


def _rows(
    source: PatchSource, files: FilePatches | None, sample: int, *, all_of_them: bool
) -> Rows:
    total = len(source.index)
    if all_of_them or total <= sample:
        return np.arange(total)
    spread = _spread(np.arange(total), sample)
    if files is None:
        return spread
    return np.union1d(spread, _of_one_length(files, total, sample))


def _of_one_length(files: FilePatches, total: int, most: int) -> Rows:
    """Returns rows whose files are as long as another row's; the rarest lengths first.

    Copies have one length unless they were turned, and compressed pictures seldom have
    it by chance.
    """
    of_length: defaultdict[int, list[int]] = defaultdict(list)
    for row in _spread(np.arange(total), _MOST_LOOKED_UP).tolist():
        length = files.length_of(row)
        if length is not None:
            of_length[length].append(row)
    groups = sorted((g for g in of_length.values() if len(g) > 1), key=len)
    rows = [row for group in groups for row in group]
    return np.array(rows[:most], dtype=np.int64)


def _spread(rows: Rows, count: int) -> Rows:
    if len(rows) <= count:
        return rows
    places = np.linspace(0, len(rows) - 1, count).astype(np.int64)
    return rows[np.unique(places)]
