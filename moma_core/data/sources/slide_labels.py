"""Which class a patch of a slide has: its slide's, or that of what was drawn on it."""

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
    """A slide as the manifest, or its folder, names it."""

    path: Path
    name: str
    slide: str
    label: str | None = None
    patient: str | None = None
    split: str | None = None
    mpp: float | None = None
    centre: str | None = None


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
        self._regions: dict[str, list[Region]] = {}
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
            if not {slide.name, slide.path.name} & {*self._drawn, *self._regions}:
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
        names = dict.fromkeys((listed.name, listed.path.name))
        return [region for name in names for region in self._regions.get(name, [])]


def _geojson_of(
    folder: Path, slides: Sequence[ListedSlide], inventory: Inventory
) -> dict[str, Path]:
    """Returns the file of each slide that has one, by the slide's name.

    Raises:
        DataError: The folder cannot be listed, or a slide has two files.
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
    strangers = set(found)
    drawn: dict[str, Path] = {}
    for slide in slides:
        names = {f"{name}{_GEOJSON}" for name in (slide.name, slide.path.name)}
        own = sorted(names.intersection(found))
        if len(own) > 1:
            raise DataError(
                f"{folder} has {own[0]} and {own[1]}, both of the slide "
                f"{slide.path.name}: keep one"
            )
        if own:
            drawn[slide.name] = folder / own[0]
            strangers.remove(own[0])
    for name in sorted(strangers):
        inventory.note("stray_annotation", name)
    return drawn


def _regions_of(path: Path, slides: Sequence[ListedSlide]) -> dict[str, list["Region"]]:
    """Returns the rectangles of a CSV file, by the slide that it names.

    Raises:
        DataError: It cannot be read, or names a slide that is not there.
    """
    from moma_core.slides.annotations import read_regions

    regions = read_regions(path)
    names = {slide.name for slide in slides} | {slide.path.name for slide in slides}
    strangers = sorted(regions.keys() - names)
    if strangers:
        raise DataError(
            f"{path} names the slide {quoted(strangers[0])}, and there is none"
        )
    return regions
