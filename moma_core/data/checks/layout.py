"""What names, folders and splits of files say, before a pixel is read."""

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from moma_core.data.checks.aliases import look_at_aliases
from moma_core.data.checks.identities import look_at_identities
from moma_core.data.checks.samples import joined, some, spread
from moma_core.data.sources.factory import DataSection
from moma_core.data.sources.image_files import FilePatches
from moma_core.data.splits import is_split_name
from moma_core.runtime.finding import Finding

_MOST_LOOKED_AT = 50_000  # paths
_MOST_CLASSES = 50
_MOST_NAMED = 5  # within a sentence
_MASK = re.compile(
    r"(.+)[-_. ]"
    r"(?:masks?|seg|segmentation|labell?ed|labels?|annotat(?:ed|ion)|overlay)$"
)
"""How programs name what they drew on a picture; of a name in lower case."""


def look_at_files(data: DataSection, files: FilePatches) -> Iterator[Finding]:
    """Yields what is to be said of patches that are files, by all but their pixels.

    Args:
        data: The section of a config.
        files: What it opens.
    """
    yield from look_at_identities(files)
    yield from look_at_aliases(files)
    yield from _look_at_masks(files)
    if data.kind == "image_folder":
        yield from _look_at_layout(files)
    if data.kind in ("image_folder", "csv_manifest"):
        yield from _look_at_fractions(data, files)


def _look_at_fractions(data: DataSection, files: FilePatches) -> Iterator[Finding]:
    """Yields whether a config divides patches that all name their split."""
    if "fractions" not in data.model_fields_set or files.rows_without_split:
        return
    text = (
        "data.fractions divides nothing, since each patch has a split by its folder or "
        "its row: leave the key out, or take the splits out of the data"
    )
    yield Finding("data", "warning", text)


def _look_at_masks(files: FilePatches) -> Iterator[Finding]:
    """Yields the files that are named as another one's mask, such as `1_mask.png`."""
    total = len(files.index)
    pictures = {
        row: match[1]
        for row in spread(np.arange(total), _MOST_LOOKED_AT).tolist()
        if (match := _MASK.match(_stem(files, row)))
    }
    if not pictures:
        return
    wanted = set(pictures.values())
    there = {stem for row in range(total) if (stem := _stem(files, row)) in wanted}
    masks = [row for row, picture in pictures.items() if picture in there]
    if not masks:
        return
    are = "pictures are" if len(masks) > 1 else "picture is"
    text = (
        f"{len(masks)} {are} named as the mask or the drawing of another one: no patch "
        f"of tissue; move them out of the data, or list the patches in a manifest"
    )
    yield Finding("data", "warning", text, more=some(masks, files.place_of))


def _stem(files: FilePatches, row: int) -> str:
    return posixpath.splitext(posixpath.basename(files.path_of(row)))[0].casefold()


def _look_at_layout(files: FilePatches) -> Iterator[Finding]:
    """Yields whether classes lie one folder deeper than they were looked for.

    `Lernen/tumour`, `Pruefung/tumour` are two splits, and `centre A/tumour` a centre:
    read as `root/<class>/`, each is a class. Folders of patients have numbers; where
    all classes hold folders of the same names without one, those are the classes.

    Args:
        files: Patches of a folder, not of a manifest.
    """
    inner: defaultdict[str, set[str]] = defaultdict(set)
    for row in spread(np.arange(len(files.index)), _MOST_LOOKED_AT).tolist():
        first, *below = posixpath.dirname(files.path_of(row)).split("/")
        inner[first].add(below[0] if below else "")
    outer = sorted(inner)
    names = inner[outer[0]]
    if len(outer) < 2 or any(map(is_split_name, outer)):
        return
    if any(inner[name] != names for name in outer):
        return
    if not 2 <= len(names) <= _MOST_CLASSES or any(map(_is_no_class, names)):
        return
    text = (
        f"all {len(outer)} classes ({_listed(outer)}) hold the same folders "
        f"({_listed(sorted(names))}): if those are the classes, the layout is "
        f"root/<split>/<class>/ with splits called train, validation and test; of "
        f"centres, folds or scanners make a manifest"
    )
    yield Finding("classes", "warning", text)


def _is_no_class(name: str) -> bool:
    return not name or any(letter.isdigit() for letter in name)


def _listed(names: list[str]) -> str:
    return joined([repr(name) for name in names], _MOST_NAMED)
