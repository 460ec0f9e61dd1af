"""Patches of whole slides, read from them when they are needed."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from moma_core.config import ConfigPath, Section
from moma_core.data.patch import NO_LABEL, SPLITS, Patch, PatchIndex, Square
from moma_core.data.sources.csv_manifest import list_csv_manifest
from moma_core.data.sources.image_files import FileTable
from moma_core.data.sources.slide_labels import (
    ListedSlide,
    SlideAnnotations,
    SlideLabels,
)
from moma_core.data.splits import SplitFractions
from moma_core.errors import DataError
from moma_core.slides.dicom_series import files_of_slides
from moma_core.slides.grid import THUMBNAIL_PX, PatchGrid, PatchGridSection, lay_grid
from moma_core.slides.open import list_slides, open_slide, require, slide_name
from moma_core.slides.pool import SlidePool
from moma_core.slides.slide import Slide


class SlideKeys(Section):
    """Where the slides are, where patches lie on them, and what their classes are."""

    root: ConfigPath | None = Field(
        default=None,
        description="Folder of the slides; without a manifest all below it are taken.",
    )
    manifest: ConfigPath | None = Field(
        default=None,
        description="A CSV file with a row a slide, "
        "`path,label,patient_id,slide_id,split,mpp,centre`; paths start at root, or "
        "else at its folder.",
    )
    slide_mpp: float | None = Field(
        default=None,
        gt=0.02,
        le=50,
        description="Microns a pixel of slides that state none; null: they are refused "
        "unless their row in the manifest says it.",
    )
    coordinates: ConfigPath | None = Field(
        default=None,
        description="Folder of HDF5 files of TRIDENT or CLAM, one a slide; null: the "
        "slides are cut by `patches`.",
    )
    patches: PatchGridSection = PatchGridSection()
    annotations: SlideAnnotations | None = Field(
        default=None, description="Classes within a slide; null: each slide has one."
    )
    cache_dir: ConfigPath | None = Field(
        default=None,
        description="Where the patches that `patches` finds are written down; null: "
        "they are looked for at each start.",
    )

    @model_validator(mode="after")
    def _slides_are_named(self) -> Self:
        if self.root is None and self.manifest is None:
            raise ValueError("give root or manifest, or both")
        return self


class SlidePatches:
    """Patches on slides, made by `open_slides`.

    Args:
        pool: Slides, by their place.
        grids: Patches of each slide, in the order of the rows.
        table: A row a patch.
        columns: Class names and index of the table's rows.
    """

    def __init__(
        self,
        pool: SlidePool,
        grids: list[PatchGrid],
        table: FileTable,
        columns: tuple[tuple[str, ...], PatchIndex],
    ) -> None:
        self._pool, self._grids = pool, grids
        self._ends = np.cumsum([len(grid) for grid in grids])
        self._patients, self._slides = table.patients, table.slides
        self._resolutions_mpp = table.resolutions_mpp
        self.class_names, self.index = columns

    def read(self, row: int) -> Patch:
        """Reads one patch from its slide.

        Raises:
            DataError: The slide cannot be opened, or is damaged there.
        """
        slide = int(np.searchsorted(self._ends, row, side="right"))
        grid = self._grids[slide]
        first = int(self._ends[slide]) - len(grid)
        pixels = self._pool.read(slide, grid, row - first)
        label = int(self.index.labels[row])
        mpp = self._resolutions_mpp[row]
        x_px, y_px = grid.corners[row - first].tolist()
        return Patch(
            pixels=pixels,
            label=None if label == NO_LABEL else label,
            patient=self._patients.name_of_row(row),
            slide=self._slides.name_of_row(row),
            resolution_mpp=None if np.isnan(mpp) else mpp,
            square=Square(x_px, y_px, grid.side_px),
        )


def open_slides(
    section: SlideKeys,
    class_names: tuple[str, ...] | None,
    fractions: SplitFractions,
) -> SlidePatches:
    """Finds the patches of each slide; reads no pixel but for the tissue mask.

    Args:
        section: Which slides, patches and classes.
        class_names: Class names by index; None takes the sorted names seen.
        fractions: Divides the patients where the manifest names no split.

    Raises:
        ConfigError: A package of the extra is missing.
        DataError: A slide cannot be opened or states no mpp, or coordinates or
            annotations do not fit.
    """
    require("h5py", "shapely")
    slides = _listed(section)
    table = FileTable(slides[0].path.parent)
    labelled = SlideLabels(section.annotations, slides, table.inventory)
    grids = [_add(table, each, section, labelled) for each in slides]
    if not len(table):
        passed = "; ".join(map(str, table.inventory.passed_over()))
        raise DataError(
            f"{len(slides)} slides hold no patch: look at data.patches.min_tissue"
            + (" and at data.annotations" if section.annotations else "")
            + (f" ({passed})" if passed else "")
        )
    names, index = table.columns(class_names, fractions)
    index = replace(index, places=_places_digest(slides, grids))
    files = {slide.path: slide.files for slide in slides if slide.files}
    pool = SlidePool([slide.path for slide in slides], files)
    return SlidePatches(pool, grids, table, (names, index))


def _places_digest(slides: list[ListedSlide], grids: list[PatchGrid]) -> str:
    """Returns the SHA-256 of which part of which slide each row is, hex."""
    digest = hashlib.sha256()
    for slide, grid in zip(slides, grids, strict=True):
        sizes = [len(grid), grid.side_px, grid.size_px]
        digest.update(json.dumps([slide.name, *sizes]).encode())
        digest.update(np.ascontiguousarray(grid.corners, "<i8").tobytes())
    return digest.hexdigest()


def _listed(section: SlideKeys) -> list[ListedSlide]:
    """Returns the slides, each under a name of its own.

    Raises:
        DataError: There is none, two have one name, or two rows are one slide.
    """
    if section.manifest is not None:
        slides = list(_of_manifest(section.manifest, section.root))
    elif section.root is not None and section.root.is_dir():
        found = list_slides(section.root)
        slides = [
            ListedSlide(path, slide_name(path), slide_name(path)) for path in found
        ]
    else:
        raise DataError(f"{section.root} is not a folder")
    if not slides:
        raise DataError(f"{section.manifest or section.root} holds no slide")
    names: set[str] = set()
    for slide in slides:
        if slide.name in names:
            raise DataError(
                f"two slides are called {slide.name}: their coordinates and "
                f"annotations could not be told apart"
            )
        names.add(slide.name)
    files = files_of_slides(slide.path for slide in slides)
    firsts: dict[Path, Path] = {}
    for path, (first, *_) in files.items():
        if firsts.setdefault(first, path) != path:
            raise DataError(
                f"{firsts[first]} and {path} are files of one slide: name it once"
            )
    return [slide._replace(files=(*files.get(slide.path, ()),)) for slide in slides]


def _of_manifest(manifest: Path, root: Path | None) -> Iterator[ListedSlide]:
    table = list_csv_manifest(manifest, root)
    for row in range(len(table)):
        path = table.folder / table.paths[row]
        mpp, split = table.resolutions_mpp[row], table.splits[row]
        yield ListedSlide(
            path,
            slide_name(path),
            table.slides.name_of_row(row) or slide_name(path),
            table.labels.name_of_row(row),
            table.patients.name_of_row(row),
            SPLITS[split] if split < len(SPLITS) else None,
            None if np.isnan(mpp) else mpp,
            table.centres.name_of_row(row),
        )


def _add(
    table: FileTable, listed: ListedSlide, section: SlideKeys, labelled: SlideLabels
) -> PatchGrid:
    """Adds a row for each patch of a slide, and returns those patches."""
    mpp = listed.mpp or section.slide_mpp
    with open_slide(listed.path, mpp, listed.files) as slide:
        grid = _grid(slide, listed, section)
        mpp = grid.resolution_mpp(slide.mpp)
    grid, labels = labelled.of(listed, grid)
    for label in labels:
        table.add(
            listed.path.name,
            label=label,
            split=listed.split,
            patient=listed.patient,
            slide=listed.slide,
            resolution_mpp=mpp,
            centre=listed.centre,
        )
    return grid


def _grid(slide: Slide, listed: ListedSlide, section: SlideKeys) -> PatchGrid:
    """Returns a slide's patches: of its file of coordinates, or by its tissue."""
    from moma_core.slides.coordinates import read_coordinates, write_coordinates

    if section.coordinates is not None:
        path = _coordinates_of(listed.name, section.coordinates)
        return read_coordinates(path, slide.levels)
    if section.cache_dir is None:
        return _laid(slide, section)
    cached = section.cache_dir / f"{listed.name}-{_digest(slide, section)}.h5"
    if cached.is_file():
        return read_coordinates(cached, slide.levels)
    grid = _laid(slide, section)
    section.cache_dir.mkdir(parents=True, exist_ok=True)
    write_coordinates(cached, grid, slide, listed.name)
    return grid


def _laid(slide: Slide, section: SlideKeys) -> PatchGrid:
    if slide.mpp is None:
        raise DataError(
            f"the slide {slide.path} states no microns a pixel: set data.slide_mpp, or "
            f"mpp in its row of the manifest"
        )
    return lay_grid(slide, slide.thumbnail(THUMBNAIL_PX), section.patches)


def _digest(slide: Slide, section: SlideKeys) -> str:
    """Of what the patches of a slide depend on."""
    stat = slide.path.stat()
    on = [os.fspath(slide.path), stat.st_size, stat.st_mtime_ns, slide.mpp]
    text = json.dumps([*on, section.patches.model_dump(mode="json")])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _coordinates_of(name: str, folder: Path) -> Path:
    """Returns the file of a slide, as TRIDENT and CLAM name it.

    Raises:
        DataError: There is none.
    """
    for place in (folder, folder / "patches"):
        for ending in ("_patches.h5", ".h5"):
            if (path := place / f"{name}{ending}").is_file():
                return path
    raise DataError(f"{folder} has neither {name}_patches.h5 nor {name}.h5")
