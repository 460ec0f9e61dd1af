"""What tells classes, or splits, apart and is no tissue.

A student learns what is easiest to see. Where one class alone was saved in grey, or has
a bar burnt into it, that is easier than its cells.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moma_core.data.patch import NO_LABEL, SPLITS
from moma_core.data.resolution import look_at_mpp
from moma_core.runtime.finding import Finding

OTHER_SIZE = 1.5  # magnifications differ by two
_FEWEST = 3  # pictures of a group: two may be alike by chance
_MOSTLY, _HARDLY = 0.5, 0.1  # shares of grey pictures, in one group and in the others
_NEUTRAL = 2  # what JPEG makes of grey; any stain has more colour somewhere
_ONE_SUFFIX = {".jpeg": ".jpg", ".tiff": ".tif"}
_ONE_MODE = {"L": "RGB", "LA": "RGBA", "PA": "P", "RGBX": "RGB", "YCbCr": "RGB"}
"""What is grey is seen by its pixels."""


class Look(NamedTuple):
    """What a program may learn of a picture in the place of its tissue.

    Args:
        label: Class index, or NO_LABEL.
        split: Index into SPLITS.
        side_px: The shorter one.
        path: Of its file; empty: it is none.
        mode: Pillow's name of how its pixels are stored; empty: it is no file.
        resolution_mpp: Microns a pixel, where known.
        is_grey: Whether it has no colour; None: it is blank, and nobody can tell.
    """

    label: int
    split: int
    side_px: int
    path: str
    mode: str
    resolution_mpp: float | None
    is_grey: bool | None

    @property
    def suffix(self) -> str:
        """The ending of its file, in one of the ways in which it is written."""
        suffix = PurePath(self.path).suffix.lower()
        return _ONE_SUFFIX.get(suffix, suffix)


class _Grouping(NamedTuple):
    """The looks by class or by split, and what comes of it where they differ."""

    noun: str
    groups: dict[str, list[Look]]
    harm: str

    def advice(self, how: str) -> str:
        """What comes of files that were saved otherwise, and what to do.

        Another hospital's split cannot be saved again as it never was; figures on it
        are to be read with that in mind.
        """
        if self.noun == "splits":
            return "a part of what figures differ by may come from how files were saved"
        return f"{self.harm}; save all {self.noun} {how}"


def is_grey(pixels: NDArray[np.uint8]) -> bool:
    """Whether a picture, (H, W, 3), has no colour in any place."""
    red, green, blue = np.moveaxis(pixels, 2, 0)  # the last axis is slow to go along
    most = np.maximum(np.maximum(red, green), blue)
    least = np.minimum(np.minimum(red, green), blue)
    return int((most - least).max()) <= _NEUTRAL


def look_at_giveaways(looks: Sequence[Look], names: Sequence[str]) -> Iterator[Finding]:
    """Yields what tells classes or splits apart and is no tissue.

    Args:
        looks: Of the pictures that were opened.
        names: Of the classes, by index.
    """
    yield from _resolutions(looks)
    for grouping in _groupings(looks, names):
        if len(grouping.groups) > 1:
            yield from _sides(grouping)
            yield from _kinds(grouping)
            yield from _grey(grouping)


def _groupings(looks: Sequence[Look], names: Sequence[str]) -> Iterator[_Grouping]:
    of_class: defaultdict[str, list[Look]] = defaultdict(list)
    of_split: defaultdict[str, list[Look]] = defaultdict(list)
    for look in looks:
        of_split[f"the {SPLITS[look.split]} split"].append(look)
        if look.label != NO_LABEL:
            of_class[f"class {names[look.label]!r}"].append(look)
    harm = "a student may learn that in the place of tissue"
    yield _Grouping("classes", of_class, harm)
    harm = "figures would say what that does, in the place of what was learned"
    yield _Grouping("splits", of_split, harm)


def _resolutions(looks: Sequence[Look]) -> Iterator[Finding]:
    """Yields whether patches state one resolution, and one that can be."""
    known = [look.resolution_mpp for look in looks if look.resolution_mpp is not None]
    if known:
        yield from look_at_mpp("patches state", float(np.median(known)))
    if known and max(known) >= OTHER_SIZE * min(known):
        text = (
            f"patches have {min(known):g} to {max(known):g} microns a pixel: cells of "
            f"one kind have several sizes; cut all at one magnification"
        )
        yield Finding("resolution", "warning", text)


def _sides(grouping: _Grouping) -> Iterator[Finding]:
    sides = {
        name: float(np.median([look.side_px for look in looks]))
        for name, looks in grouping.groups.items()
        if len(looks) >= _FEWEST
    }
    if not sides:
        return
    least, most = min(sides, key=sides.__getitem__), max(sides, key=sides.__getitem__)
    if sides[most] >= OTHER_SIZE * sides[least]:
        text = (
            f"patches of {least} have {sides[least]:.0f} px a side and those of "
            f"{most} {sides[most]:.0f}: {grouping.harm}; cut all {grouping.noun} alike"
        )
        yield Finding("pictures", "warning", text)


def _kinds(grouping: _Grouping) -> Iterator[Finding]:
    """Yields whether one group alone was saved in another way."""
    suffixes = {
        name: [look.suffix for look in looks] for name, looks in grouping.groups.items()
    }
    if (odd := _odd_one(suffixes)) is not None:
        text = (
            f"{odd} alone has files of kind {', '.join(sorted(set(suffixes[odd])))}, "
            f"of the pictures that were opened: {grouping.advice('alike')}"
        )
        yield Finding("pictures", "warning", text)
    modes = {
        name: [_ONE_MODE.get(look.mode, look.mode) for look in looks]
        for name, looks in grouping.groups.items()
    }
    if (odd := _odd_one(modes)) is not None:
        text = (
            f"{odd} alone has pictures of mode {', '.join(sorted(set(modes[odd])))}, "
            f"of those that were opened, and their colours are converted: "
            f"{grouping.advice('as RGB')}"
        )
        yield Finding("pictures", "warning", text)


def _odd_one(seen: Mapping[str, Sequence[str]]) -> str | None:
    """Returns a group that shares no kind with another one, or None.

    Where there are two groups, both are odd: that of plain RGB is not worth a word. A
    group of which hardly anything was opened is neither odd nor makes others so.

    Args:
        seen: Kind of each picture that was opened, by group.
    """
    kinds = {name: set(each) for name, each in seen.items()}
    groups = Counter(kind for own in kinds.values() for kind in own)
    known = [name for name, each in seen.items() if len(each) >= _FEWEST]
    odd = [name for name in known if all(groups[kind] == 1 for kind in kinds[name])]
    if len(known) < 2:
        return None
    return min(odd, key=lambda name: kinds[name] == {"RGB"}, default=None)


def _grey(grouping: _Grouping) -> Iterator[Finding]:
    """Yields the groups that are grey where the others have colour."""
    seen = {
        name: [look.is_grey for look in looks if look.is_grey is not None]
        for name, looks in grouping.groups.items()
    }
    count, grey = sum(map(len, seen.values())), sum(map(sum, seen.values()))
    for name, own in seen.items():
        others, grey_others = count - len(own), grey - sum(own)
        if len(own) < _FEWEST or not others:
            continue
        if sum(own) > _MOSTLY * len(own) and grey_others < _HARDLY * others:
            text = (
                f"{sum(own)} of {len(own)} pictures of {name} are grey, and the others "
                f"have colour: {grouping.advice('in colour')}"
            )
            yield Finding("pictures", "warning", text)
