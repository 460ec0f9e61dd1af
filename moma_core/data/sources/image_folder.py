"""Patches in folders named after their classes."""

import re
from pathlib import Path

from moma_core.data.images import list_images
from moma_core.data.sources.image_files import FileTable
from moma_core.data.splits import SPLIT_NAMES
from moma_core.errors import DataError


def list_image_folder(root: Path, *, patient_pattern: str | None = None) -> FileTable:
    """Returns the images in `root/<split>/<class>/` or in `root/<class>/`.

    If all folders of `root` are named after splits it is the first layout, otherwise
    the second, whose rows name no split.

    Args:
        root: The folder.
        patient_pattern: Searched in the path below the class folder; its first group
            is the patient.

    Raises:
        DataError: The folder is missing, or an image fits no layout.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder")
    levels = 2 if _all_folders_are_splits(root) else 1
    pattern = None if patient_pattern is None else re.compile(patient_pattern)
    table = FileTable(root)
    for path in list_images(root):
        *above, rest = path.split("/", levels)
        if len(above) != levels:
            raise DataError(f"an image in {root} lies outside the class folders")
        table.add(
            path,
            label=above[-1],
            split=above[0] if levels == 2 else None,
            patient=None if pattern is None else _patient(pattern, rest),
        )
    return table


def _all_folders_are_splits(root: Path) -> bool:
    folders = [
        entry.name
        for entry in root.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    ]
    return bool(folders) and all(name in SPLIT_NAMES for name in folders)


def _patient(pattern: re.Pattern[str], path: str) -> str:
    match = pattern.search(path)
    if match is None or not match.group(1):
        raise DataError(f"patient_pattern {pattern.pattern!r} does not fit every image")
    return match.group(1)
