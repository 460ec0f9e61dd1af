"""Patches in folders named after their classes."""

import re
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from moma_core.data.inventory import Inventory, printable
from moma_core.data.listing import PictureListing
from moma_core.data.sources.image_files import FileTable
from moma_core.data.splits import (
    SPLIT_NAMES,
    is_nearly_a_split_name,
    is_split_name,
    split_code,
)
from moma_core.errors import DataError

_MOST_SHOWN = 5


def list_image_folder(root: Path, *, patient_pattern: str | None = None) -> FileTable:
    """Returns the images in `root/<split>/<class>/` or in `root/<class>/`.

    If the folders of `root` are named after splits it is the first layout, otherwise
    the second, whose rows name no split. A folder without a picture has no say.

    Args:
        root: The folder.
        patient_pattern: Searched in the path below the class folder; its first group
            is the patient.

    Raises:
        DataError: The folder is missing, an image fits no layout, or folders are named
            after splits where none can be. The message names what is wrong: it is for
            the site alone.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder{_better_kind(root)}")
    table = FileTable(root)
    listing = PictureListing(root, table.inventory)
    top = listing.level()
    if top.pictures:
        raise _outside(root, top.pictures)
    classes: list[tuple[str | None, str]]
    folders = [name for name in top.folders if _holds_pictures(root, name)]
    if _are_splits(root, folders):
        classes = list(_classes_of_splits(root, listing, folders))
        for name in sorted(set(top.folders) - set(folders)):
            table.inventory.note("stray_folder", name)
            deque(listing.pictures(name), maxlen=0)  # notes what lies in it
    else:
        classes = [(None, name) for name in top.folders]
    for split, folder in classes:
        _add_class(table, listing, folder, split, patient_pattern)
    for name in _splits_beside(root):
        table.inventory.note("split_beside", name)
    return table


def _splits_beside(root: Path) -> list[str]:
    """Returns folders beside a root that is named like a split, named like others."""
    place = root.resolve()
    if not is_split_name(place.name):
        return []
    with suppress(OSError):  # what is beside the data may be nobody's business
        beside = [each.name for each in place.parent.iterdir() if each.is_dir()]
        return sorted(
            name
            for name in beside
            if is_split_name(name) and split_code(name) != split_code(place.name)
        )
    return []


def _better_kind(path: Path) -> str:
    """Returns what to write in the config for what is no folder."""
    if path.is_symlink() and not path.exists():
        return (
            f": it is a link that leads nowhere, to {printable(str(path.readlink()))}; "
            f"is a disk not there that it leads to?"
        )
    kinds = {".csv": "csv_manifest", ".tsv": "csv_manifest", ".npz": "medmnist"}
    kind = kinds.get(path.suffix.lower())
    if kind is None or not path.is_file():
        return ": data.root is the folder of the classes or splits"
    return f": for such a file write data: {{kind: {kind}, path: {path.name}}}"


def _holds_pictures(root: Path, folder: str) -> bool:
    look = PictureListing(root, Inventory())  # it stops at the first: nothing to count
    return any(True for _ in look.pictures(folder))


def _are_splits(root: Path, folders: Sequence[str]) -> bool:
    """Whether the folders are splits and not classes.

    Raises:
        DataError: Some are, or were meant as such.
    """
    splits = [name for name in folders if is_split_name(name)]
    others = [name for name in folders if not is_split_name(name)]
    nearly = [name for name in others if is_nearly_a_split_name(name)]
    known = ", ".join(SPLIT_NAMES)
    if nearly:
        raise DataError(
            f"{root}: the folder {_shown(nearly)} reads like a split, but is none of "
            f"{known}: rename it"
        )
    if splits and others:
        raise DataError(
            f"{root}: some folders are named like splits ({_shown(splits)}) and others "
            f"are not ({_shown(others)}): use root/<split>/<class>/ or root/<class>/, "
            f"and move what is neither out of it (splits: {known})"
        )
    codes = Counter(map(split_code, splits))
    if twice := [name for name in splits if codes[split_code(name)] > 1]:
        raise DataError(
            f"{root}: {_shown(twice)} mean one split, put their classes together"
        )
    return bool(splits)


def _classes_of_splits(
    root: Path, listing: PictureListing, splits: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Yields each split's name with its class folders."""
    for split in splits:
        level = listing.level(split)
        if level.pictures:
            raise _outside(root, level.pictures)
        for folder in level.folders:
            yield split, folder


def _add_class(
    table: FileTable,
    listing: PictureListing,
    folder: str,
    split: str | None,
    patient_pattern: str | None,
) -> None:
    """Adds the pictures of a class folder, or notes that it has none."""
    label = folder.rsplit("/", 1)[-1]
    pattern = None if patient_pattern is None else re.compile(patient_pattern)
    unfit, before = [], len(table)
    inner: set[str] = set()
    for path in listing.pictures(folder):
        rest = path[len(folder) + 1 :]
        inner.add(rest.split("/", 1)[0] if "/" in rest else "")
        patient = None if pattern is None else _patient(pattern, rest)
        if pattern is not None and patient is None:
            unfit.append(path)
        table.add(path, label=label, split=split, patient=patient)
    if unfit:
        raise DataError(
            f"patient_pattern '{patient_pattern}' does not fit every image: not "
            f"{_shown(unfit)}; it is searched below the class folder"
        )
    if len(table) == before:
        table.inventory.note("empty_class", folder)
    elif all(map(is_split_name, inner)):
        raise DataError(
            f"the class folder '{printable(folder)}' holds folders named like splits "
            f"({_shown(sorted(inner))}): the layout is root/<split>/<class>/; if it is "
            f"no class, point data.root at it"
        )


def _outside(root: Path, pictures: Sequence[str]) -> DataError:
    return DataError(
        f"{root} has images outside the class folders ({_shown(pictures)}): use "
        f"root/<class>/ or root/<split>/<class>/"
    )


def _patient(pattern: re.Pattern[str], path: str) -> str | None:
    match = pattern.search(path)
    return None if match is None else match.group(1) or None


def _shown(names: Sequence[str]) -> str:
    shown = ", ".join(printable(name) for name in names[:_MOST_SHOWN])
    rest = len(names) - _MOST_SHOWN
    return f"{shown} and {rest} more" if rest > 0 else shown
