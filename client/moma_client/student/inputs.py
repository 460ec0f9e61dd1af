"""What `moma-client predict` is given: pictures that are patches, and whole slides."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moma_core.data.images import decode_rgb
from moma_core.data.inventory import printable
from moma_core.data.listing import IMAGE_SUFFIXES, list_images
from moma_core.data.sources.csv_manifest import list_csv_manifest
from moma_core.errors import DataError
from moma_core.slides.dicom_series import files_of_slides
from moma_core.slides.open import is_slide, list_slides, slide_name


class Picture(NamedTuple):
    """A picture by its name in the output, and how to read its pixels."""

    name: str
    read: Callable[[], NDArray[np.uint8]]


class SlideInput(NamedTuple):
    """A whole slide, and the microns a pixel that a manifest gives it."""

    path: Path
    mpp: float | None = None


Input = Picture | SlideInput


def inputs_of(paths: Sequence[Path]) -> tuple[list[SlideInput], list[Picture]]:
    """Returns the slides and the pictures that paths name.

    A folder or a manifest may hold both. Of several paths, each stands before the names
    of its pictures. DICOM files of one slide are one input, named by the first given.

    Raises:
        DataError: A path names nothing, or two slides have one name.
    """
    slides: list[SlideInput] = []
    pictures: list[Picture] = []
    for path in paths:
        found = list(_inputs(path))
        if not found:
            raise DataError(f"{printable(str(path))} holds no picture")
        for each in found:
            if isinstance(each, SlideInput):
                slides.append(each)
            elif len(paths) > 1 and path.is_dir():
                pictures.append(each._replace(name=str(path / each.name)))
            else:
                pictures.append(each)
    files = files_of_slides(slide.path for slide in slides)
    first = {slide.path: files.get(slide.path, [slide.path])[0] for slide in slides}
    once = {first[slide.path]: slide for slide in reversed(slides)}
    slides = [slide for slide in slides if once[first[slide.path]] is slide]
    names: dict[str, Path] = {}
    for slide in slides:
        name = slide_name(slide.path)
        if names.setdefault(name, slide.path) != slide.path:
            raise DataError(
                f"two slides are called {printable(name)}: predict each into a folder "
                f"of its own"
            )
    return slides, pictures


def _inputs(path: Path) -> Iterator[Input]:
    if not path.exists():
        raise DataError(f"there is no {printable(str(path))}")
    if path.is_dir():
        slides = list_slides(path)
        yield from map(SlideInput, slides)
        taken = set(slides)
        for name in list_images(path):
            if path / name not in taken:
                yield _picture(path / name, name)
    elif is_slide(path):
        yield SlideInput(path)
    elif path.suffix.lower() in (".csv", ".tsv"):
        yield from _listed(path)
    elif path.suffix.lower() in IMAGE_SUFFIXES:
        yield _picture(path, path.name)
    else:
        known = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(
            f"{printable(str(path))} is no folder, no .csv manifest, no slide and no "
            f"picture ({known})"
        )


def _picture(path: Path, name: str) -> Picture:
    return Picture(name, lambda: decode_rgb(path))


def _listed(manifest: Path) -> Iterator[Input]:
    table = list_csv_manifest(manifest)
    patches = table.patches()

    def picture(row: int) -> Picture:
        return Picture(patches.path_of(row), lambda: patches.read(row).pixels)

    for row in range(len(patches.index)):
        path, mpp = table.folder / table.paths[row], table.resolutions_mpp[row]
        if path.exists() and is_slide(path):
            yield SlideInput(path, None if np.isnan(mpp) else mpp)
        else:
            yield picture(row)
