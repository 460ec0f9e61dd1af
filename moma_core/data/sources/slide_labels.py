"""Which class a patch of a slide has: its slide's, or that of what was drawn on it."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from moma_core.config import ConfigPath, Section
from moma_core.data.inventory import Inventory
from moma_core.errors import DataError, quoted
from moma_core.slides.grid import PatchGrid

if TYPE_CHECKING:
    from moma_core.slides.annotations import Region

_GEOJSON = ".geojson"


class SlideAnnotations(Section):
    """Which class a patch has, by what was drawn on its slide."""

    geojson: ConfigPath | None = Field(
        default=None,
        description="Folder of QuPath's GeoJSON, `<slide>.geojson` or "
        "`<file name>.geojson` each.",
    )
    regions: ConfigPath | None = Field(
        default=None,
        description="CSV file of rectangles: slide,label,x_px,y_px,width_px,height_px, "
        "in pixels of level 0.",
    )
    min_cover: float = Field(
        default=0.5, gt=0, le=1, description="Share of a patch that its class covers."
    )
    outside: Literal["drop", "unlabelled"] = Field(
        default="drop",
        description="Patches that no class covers: left out, or trained without label.",
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.geojson is None) == (self.regions is None):
            raise ValueError("give geojson or regions, one of them")
        return self


class ListedSlide(NamedTuple):
    """A slide as the manifest, or its folder, names it; `files` of one in DICOM."""

    path: Path
    name: str
    slide: str
    label: str | None = None
    patient: str | None = None
    split: str | None = None
    mpp: float | None = None
    centre: str | None = None
    files: tuple[Path, ...] = ()


class SlideLabels:
    """The class of each patch of a slide.

    Args:
        section: What was drawn; None: each slide has one class.
        slides: All that patches are taken from.
        inventory: Counts slides without annotations, and annotations without a slide.

    Raises:
        DataError: What was drawn cannot be read, or does not fit the slides.
    """

    def __init__(
        self,
        section: SlideAnnotations | None,
        slides: Sequence[ListedSlide],
        inventory: Inventory,
    ) -> None:
        self._section = section
        self._drawn: dict[str, Path] = {}  # GeoJSON by the name of its slide
        self._regions: dict[str, list[Region]] = {}  # by the name of their slide
        if section is None:
            return
        if any(slide.label for slide in slides):
            raise DataError(
                "the manifest labels slides, and data.annotations their parts: leave "
                "one of them out"
            )
        if section.geojson is not None:
            self._drawn = _geojson_of(section.geojson, slides, inventory)
        elif section.regions is not None:
            self._regions = _regions_of(section.regions, slides)
        for slide in slides:
            if slide.name not in self._drawn and slide.name not in self._regions:
                inventory.note("unannotated", slide.path.name)

    def of(
        self, listed: ListedSlide, grid: PatchGrid
    ) -> tuple[PatchGrid, list[str | None]]:
        """Returns the patches that are taken, and their classes.

        Raises:
            DataError: What was drawn on the slide cannot be read.
        """
        from moma_core.slides.annotations import labels_of

        section = self._section
        if section is None:
            return grid, [listed.label] * len(grid)
        regions = self._drawn_on(listed)
        try:
            labels = labels_of(grid, regions, section.min_cover)
        except DataError as error:
            raise DataError(f"the slide {listed.path}: {error}") from None
        if section.outside == "unlabelled":
            return grid, labels
        taken = [number for number, label in enumerate(labels) if label is not None]
        kept = replace(grid, corners=grid.corners[taken].reshape(-1, 2))
        return kept, [labels[number] for number in taken]

    def _drawn_on(self, listed: ListedSlide) -> list["Region"]:
        from moma_core.slides.annotations import read_geojson

        if (path := self._drawn.get(listed.name)) is not None:
            return read_geojson(path)
        return self._regions.get(listed.name, [])


def _geojson_of(
    folder: Path, slides: Sequence[ListedSlide], inventory: Inventory
) -> dict[str, Path]:
    """Returns the file of each slide that has one, by the slide's name.

    Raises:
        DataError: The folder cannot be listed, a slide has two files, or a file two
            slides.
    """
    try:
        found = sorted(
            path.name
            for path in folder.iterdir()
            if path.suffix.lower() == _GEOJSON and not path.name.startswith(".")
        )
    except OSError as error:
        raise DataError(
            f"data.annotations.geojson, {folder}, cannot be listed: {error.strerror}"
        ) from None
    meant = _slides_by_name(slides)
    drawn: dict[str, Path] = {}
    for name in found:
        slide = _one_of(meant.get(name.removesuffix(_GEOJSON), []), str(folder / name))
        if slide is None:
            inventory.note("stray_annotation", name)
            continue
        path = drawn.setdefault(slide.name, folder / name)
        if path.name != name:
            raise DataError(
                f"{folder} has {path.name} and {name}, both of the slide "
                f"{slide.path.name}: keep one"
            )
    return drawn


def _regions_of(path: Path, slides: Sequence[ListedSlide]) -> dict[str, list["Region"]]:
    """Returns the rectangles of a CSV file, by the name of their slide.

    Raises:
        DataError: It cannot be read, or a row means no slide, or two.
    """
    from moma_core.slides.annotations import read_regions

    meant = _slides_by_name(slides)
    found: defaultdict[str, list[Region]] = defaultdict(list)
    for name, regions in sorted(read_regions(path).items()):
        slide = _one_of(meant.get(name, []), f"{quoted(name)} in {path}")
        if slide is None:
            raise DataError(f"{path} names the slide {quoted(name)}, and there is none")
        found[slide.name] += regions
    return dict(found)


def _slides_by_name(slides: Sequence[ListedSlide]) -> dict[str, list[ListedSlide]]:
    """Returns the slides that each name may mean: a slide's own, or its file's."""
    meant: defaultdict[str, list[ListedSlide]] = defaultdict(list)
    for slide in slides:
        for name in {slide.name, slide.path.name}:
            meant[name].append(slide)
    return dict(meant)


def _one_of(slides: list[ListedSlide], what: str) -> ListedSlide | None:
    """Returns the slide that an annotation means; None: there is none.

    Raises:
        DataError: It may mean two.
    """
    if len(slides) > 1:
        names = " and of ".join(sorted(slide.path.name for slide in slides))
        raise DataError(f"{what} may be of the slide {names}: rename one of the slides")
    return slides[0] if slides else None
