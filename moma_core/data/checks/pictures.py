"""Whether pictures can be read, and whether they look like patches of their classes."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from moma_core.data.checks.copies import (
    Copies,
    look_at_copies,
    look_at_resaved,
    place,
)
from moma_core.data.checks.giveaways import Look, is_grey, look_at_giveaways
from moma_core.data.checks.overlays import Overlays, look_at_overlays
from moma_core.data.checks.samples import joined, some, spread
from moma_core.data.patch import NO_LABEL, SPLITS, TRAIN, PatchIndex, PatchSource
from moma_core.data.sources.image_files import FilePatches
from moma_core.data.stain_normalisation import before_normalisation
from moma_core.errors import DataError
from moma_core.runtime.finding import Finding, State

SAMPLE = 200  # pictures that are opened where not all are
_MOST_LOOKED_UP = 50_000  # files whose size is asked of the disk
_MANY = 0.1  # of those opened: more is no chance
_SMALLEST_VIEW_PX = 16  # of a config
_SMALLEST_PATCH_PX = 28  # of MedMNIST, whose patches are the smallest that sets have
_SHRUNK = 4  # a patch so many times the view is cut from it, not looked at whole
_MOST_COMPARED = 4_000  # pictures of which each is compared with each
_SEEN_PX = 128  # a side: of larger pictures each second pixel, or third
# the standard deviation of a channel, in grey levels: a scanner's glass has 1 to 3, and
# of 1,700 patches of tissue the palest had 13
_BLANK = 4.0
_BACKGROUND = re.compile(
    r"(?<![^\W\d_])(?:back|background|bg|empty|blank|glass|void|hintergrund|leer|glas"
    r"|no[-_ ]?tissue)(?![^\W\d_])"
)
_FEWEST = 3  # pictures of a class: two may be empty by chance
_FEWEST_GREEN, _NEARLY_ALL = 20, 0.95  # training pictures
_MARGIN = 5.0  # levels of 255 by which a mean is clearly the highest
_LONG = 2  # sides in this proportion are no square patch

Rows = NDArray[np.int64]


@dataclass(slots=True)
class _Opened:
    """What came of opening pictures."""

    rows: Rows
    total: int
    compared: frozenset[int]
    overlays: Overlays
    faults: list[str] = field(default_factory=list)
    sides: list[tuple[int, int]] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    blank: Counter[int] = field(default_factory=Counter)  # of one colour, by label
    are_green: list[bool] = field(default_factory=list)  # in training, unchanged
    masks: list[str] = field(default_factory=list)
    copies: Copies = field(default_factory=Copies)

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
    are_stained: bool = False,
    sample: int | None = SAMPLE,
) -> Iterator[Finding]:
    """Yields what is to be said of the pixels.

    Args:
        source: The set, as `open_source` opens it.
        files: The same set where patches are files; None: they are not.
        view_size_px: Side of the views that are made of them.
        max_unreadable: Broken patches that are tolerated.
        are_stained: Whether colours are those of stains, and may be said to be wrong;
            else they may be what the classes are.
        sample: How many are opened that are evenly spread, and as many files at most
            that are as long as another one, as copies are that were not turned; None:
            each is opened.
    """
    rows = _rows(source, files, sample)
    compared = frozenset(spread(rows, _MOST_COMPARED).tolist())
    overlays = Overlays(classes=len(source.class_names))
    opened = _Opened(rows, len(source.index), compared, overlays)
    reader = before_normalisation(source) if files is None else files
    for row in rows.tolist():
        _open(reader, source.index, files, row, opened)
    yield _readable(opened, max_unreadable, _origin(source.index, files))
    if opened.sides:
        yield from _sizes(opened, view_size_px)
        yield from _blank(opened, source)
        yield from _colours(opened)
        if are_stained:
            yield from _negatives(opened)
        yield from look_at_giveaways(opened.looks, source.class_names)
        yield from look_at_overlays(opened.overlays, source.class_names)
    yield from look_at_copies(opened.copies, source, files)
    yield from look_at_resaved(opened.copies, source, files)


def _open(
    reader: PatchSource,
    index: PatchIndex,
    files: FilePatches | None,
    row: int,
    opened: _Opened,
) -> None:
    """Looks at one picture; `index` has labels and splits as training sees them."""
    try:
        patch = reader.read(row)
    except DataError as error:
        opened.faults.append(f"{place(files, row)}: {error}")
        return
    if patch.is_stand_in:
        opened.faults.append(f"{place(files, row)}: it is unreadable")
        return
    pixels, label = patch.pixels, int(index.labels[row])
    opened.sides.append((pixels.shape[0], pixels.shape[1]))
    is_plain = bool((pixels == pixels[:1, :1]).all())
    is_blank = is_plain or _is_blank(pixels)
    look = Look(
        label=label,
        split=int(index.splits[row]),
        side_px=min(pixels.shape[:2]),
        path="" if files is None else files.path_of(row),
        mode="" if files is None else files.mode_of(row),
        resolution_mpp=patch.resolution_mpp,
        is_grey=None if is_blank else is_grey(pixels),
    )
    opened.looks.append(look)
    if SPLITS[look.split] == TRAIN:
        opened.are_green.append(_is_green(pixels))
    if look.is_grey and _has_two_levels(pixels):
        opened.masks.append(place(files, row))
    opened.blank[label] += is_blank
    if not is_plain:  # two empty ones are no copies
        is_compared = not is_blank and row in opened.compared
        opened.copies.add(row, pixels, is_compared=is_compared)
    if not is_blank:
        opened.overlays.add(label, look.split, pixels)


def _is_blank(pixels: NDArray[np.uint8]) -> bool:
    step = -(-max(pixels.shape[:2]) // _SEEN_PX)
    deviation = pixels[::step, ::step].reshape(-1, 3).std(axis=0, dtype=np.float32)
    return float(deviation.max()) < _BLANK


def _is_green(pixels: NDArray[np.uint8]) -> bool:
    red, green, blue = pixels.mean(axis=(0, 1))
    return bool(green > max(red, blue) + _MARGIN)


def _has_two_levels(pixels: NDArray[np.uint8]) -> bool:
    return int(np.count_nonzero(np.bincount(pixels[:, :, 0].ravel()))) == 2


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
    return Finding("pictures", state, text, more=some(opened.faults))


def _sizes(opened: _Opened, view_size_px: int) -> Iterator[Finding]:
    longest = max(max(sides) for sides in opened.sides)
    if longest < view_size_px:
        text = (
            f"the largest has {longest} px a side, view_size_px: {view_size_px} "
            f"stretches it, which takes time and shows nothing more: set "
            f"view_size_px: {max(longest, _SMALLEST_VIEW_PX)}, whatever the teacher "
            f"takes, or cut larger patches"
        )
        if longest < _SMALLEST_PATCH_PX:
            text += "; so small they may be thumbnails: is this the right folder?"
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


def _blank(opened: _Opened, source: PatchSource) -> Iterator[Finding]:
    """Yields whether many pictures are empty, or all of a class that is no background.

    A class of glass and slide is taught on purpose, so that a student knows them.
    """
    labels = source.index.labels[opened.rows]
    names = {
        label: "" if label == NO_LABEL else source.class_names[label]
        for label in opened.blank
    }
    blank = {
        label: number
        for label, number in opened.blank.items()
        if not _BACKGROUND.search(names[label].casefold())
    }
    whole = [
        repr(names[label])
        for label, number in blank.items()
        if label != NO_LABEL and number == int((labels == label).sum()) >= _FEWEST
    ]
    count, empty = len(opened.sides), sum(blank.values())
    if empty <= _MANY * count and not whole:
        return
    of_class = f", among them all of {joined(whole)}" if whole else ""
    text = (
        f"{empty} of {count} are of one colour{of_class}, or nearly so: an empty place "
        f"of the slide, or an export that went wrong; take them out, or call their "
        f"class background"
    )
    yield Finding("pictures", "warning", text)


def _colours(opened: _Opened) -> Iterator[Finding]:
    count = len(opened.sides)
    if opened.masks:
        text = (
            f"{len(opened.masks)} of {count} have two grey levels and nothing between, "
            f"as masks have: move masks out of the data"
        )
        yield Finding("pictures", "warning", text, more=some(opened.masks))
    if sum(bool(look.is_grey) for look in opened.looks) > (1 - _MANY) * count:
        text = "they are grey: stained tissue has colour, so see how they were saved"
        yield Finding("pictures", "warning", text)


def _negatives(opened: _Opened) -> Iterator[Finding]:
    """Yields whether nearly all training pictures have the colours of a negative.

    Haematoxylin, eosin and DAB all take more green than they leave of red or blue, so
    that green is the highest mean of no such tissue, and of nearly all of it once it
    is inverted. Pictures that exchange red and blue look too much like others of
    another scanner to be known.
    """
    count, green = len(opened.are_green), sum(opened.are_green)
    if count < _FEWEST_GREEN or green < _NEARLY_ALL * count:
        return
    text = (
        f"{green} of {count} training pictures are more green than red or blue, which "
        f"no H&E or DAB is: they look inverted (a negative), or their channels are in "
        f"another order, or it is another stain, where that is right; a teacher and "
        f"ImageNet weights know RGB with a bright background"
    )
    yield Finding("pictures", "warning", text)


def _rows(source: PatchSource, files: FilePatches | None, sample: int | None) -> Rows:
    total = len(source.index)
    if sample is None or total <= sample:
        return np.arange(total)
    chosen = spread(np.arange(total), sample)
    if files is None:
        return chosen
    return np.union1d(chosen, _of_one_length(files, total, sample))


def _of_one_length(files: FilePatches, total: int, most: int) -> Rows:
    """Returns rows whose files are as long as another row's; the rarest lengths first.

    Copies have one length unless they were turned, and compressed pictures seldom have
    it by chance.
    """
    of_length: defaultdict[int, list[int]] = defaultdict(list)
    for row in spread(np.arange(total), _MOST_LOOKED_UP).tolist():
        length = files.length_of(row)
        if length is not None:
            of_length[length].append(row)
    groups = sorted((g for g in of_length.values() if len(g) > 1), key=len)
    rows = [row for group in groups for row in group]
    return np.array(rows[:most], dtype=np.int64)
