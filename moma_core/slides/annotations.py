"""Regions that people drew: QuPath's GeoJSON, or rectangles in a CSV file."""

import csv
import json
import logging
from collections import defaultdict
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import shapely
from shapely.errors import ShapelyError
from shapely.geometry.base import BaseGeometry

from moma_core.errors import DataError, first_line
from moma_core.runtime.canonical_json import parsed_json
from moma_core.runtime.csv_text import open_text
from moma_core.runtime.folders import is_special
from moma_core.slides.grid import PatchGrid
from moma_core.slides.slide import LARGEST_SIDE_PX

_logger = logging.getLogger(__name__)

_COLUMNS = ("slide", "label", "x_px", "y_px", "width_px", "height_px")
_LARGEST_FILE_BYTES = 32 << 20  # becomes twenty times as much in memory
_MOST_REGIONS = 1_000_000
_MOST_POINTS = 1_000_000  # of the polygons in a file
_LONGEST_NAME = 200  # letters, of a class
_MOST_NEIGHBOURS = 6  # of a side of a polygon, itself and the next ones among them
_MOST_CROSSINGS = 100_000  # besides; each takes 50 microseconds to mend
_FARTHEST_PX = 2 * LARGEST_SIDE_PX  # of a point from the slide's corner
_IGNORED = "*"  # ends the name of a class in QuPath that means none
_FRAME = "Region*"  # QuPath's, around other annotations: it takes nothing from them
_ROUNDING = 5e-7  # of a patch's area
_PIECE_POINTS = 256  # of a polygon, where patches lie on its edge
_PIECE_PX = 1.0
_MOST_OVERLAPS = 10_000_000  # of a slide's patches and pieces of its regions


class Region(NamedTuple):
    """A labelled part of a slide.

    Args:
        label: Name of its class.
        shape: In pixels of level 0.
    """

    label: str
    shape: BaseGeometry


class _Part(NamedTuple):
    """What a patch and a region share, by their places."""

    patch: int
    region: int
    shape: BaseGeometry


def read_geojson(path: Path) -> list[Region]:
    """Reads the polygons with a class from QuPath's GeoJSON.

    Points, lines, objects without a class and QuPath's `Region*` are passed over.

    Raises:
        DataError: The file cannot be read, is too large, or a shape is none.
    """
    try:
        if is_special(path):
            raise ValueError("it is a pipe or a device, and no file")
        size = path.stat().st_size
        if size > _LARGEST_FILE_BYTES:
            raise ValueError(
                f"it has {size >> 20} MiB, more than {_LARGEST_FILE_BYTES >> 20}: "
                f"export annotations alone, without detections"
            )
        features = _features(parsed_json(path.read_text("utf-8-sig")))
        return list(_regions(features))
    except (OSError, ValueError, MemoryError, RecursionError) as error:
        raise DataError(
            f"cannot read the annotations {path}: {first_line(error)}"
        ) from None


def read_regions(path: Path) -> dict[str, list[Region]]:
    """Reads rectangles, `slide,label,x_px,y_px,width_px,height_px`, by slide.

    Raises:
        DataError: The file cannot be read, or a row breaks a rule.
    """
    found: defaultdict[str, list[Region]] = defaultdict(list)
    try:
        with open_text(path) as file:
            reader = csv.DictReader(file, strict=True)
            if sorted(reader.fieldnames or ()) != sorted(_COLUMNS):
                raise DataError(f"{path}: the header must be {','.join(_COLUMNS)}")
            for number, row in enumerate(reader, start=1):
                if number > _MOST_REGIONS:
                    raise DataError(f"{path} has more than {_MOST_REGIONS} regions")
                region = _rectangle(row, f"{path} line {reader.line_num}")
                found[row["slide"]].append(region)
    except (OSError, csv.Error) as error:
        raise DataError(f"cannot read the regions {path}: {error}") from None
    return dict(found)


def labels_of(
    grid: PatchGrid, regions: list[Region], min_cover: float
) -> list[str | None]:
    """Returns the class of each patch: of what covers `min_cover` of it.

    Of classes that lie over one another the one with the smallest regions is meant,
    which were drawn within the larger ones; of classes side by side, the one that
    covers most. What a class whose name ends with `*` covers has none, as in QuPath.

    Args:
        grid: The patches.
        regions: Of the same slide.
        min_cover: Share of a patch that must be covered; with less it has no class.

    Raises:
        DataError: Regions lie over one another in great numbers.
    """
    labels: list[str | None] = [None] * len(grid)
    if not regions or not len(grid):
        return labels
    by_size = sorted(regions, key=lambda region: float(region.shape.area))
    for patch, parts in groupby(_shared(grid, by_size), key=lambda part: part.patch):
        found = sorted(parts, key=lambda part: part.region)
        named = [(by_size[part.region].label, part.shape) for part in found]
        labels[patch] = _class_within(named, min_cover, grid.side_px**2)
    return labels


def _class_within(
    parts: list[tuple[str, BaseGeometry]], min_cover: float, area: float
) -> str | None:
    """Returns the class of one patch.

    Args:
        parts: Label and shape of what lies on it, of the smallest region first.
        min_cover: Share of the patch that a class must cover.
        area: Of the patch.
    """
    reached = _reached(parts, min_cover * area - _ROUNDING * area)
    meant = next(iter(reached), None)
    for label, shape in reached.items():
        if meant is None or shape.area <= reached[meant].area + _ROUNDING * area:
            continue
        both = shapely.intersection(reached[meant], shape).area
        if both < reached[meant].area / 2:  # they lie side by side
            meant = label
    return meant


def _reached(
    parts: list[tuple[str, BaseGeometry]], least: float
) -> dict[str, BaseGeometry]:
    """Returns what each class covers that covers so much.

    The class with the smallest regions, with which it does so, comes first.

    Args:
        parts: As of `_class_within`.
        least: An area.
    """
    classes: defaultdict[str, _Cover] = defaultdict(_Cover)
    for place, (label, shape) in enumerate(parts):
        classes[_IGNORED if label.endswith(_IGNORED) else label].add(place, shape)
    ignored = classes.pop(_IGNORED, _Cover()).united()
    reached: dict[str, BaseGeometry] = {}
    for label, cover in classes.items():
        if cover.sum_of_areas() >= least:
            whole = shapely.difference(cover.united(), ignored)
            if whole.area >= least:
                reached[label] = whole
    labels = list(reached)
    if len(labels) > 1:
        labels.sort(key=lambda label: classes[label].place_where(least, ignored))
    return {label: reached[label] for label in labels}


class _Cover:
    """What the parts of one class cover; they may lie over one another.

    To unite them all at once is cheap, and one after the other is not.
    """

    def __init__(self) -> None:
        self._places: list[int] = []
        self._shapes: list[BaseGeometry] = []

    def add(self, place: int, shape: BaseGeometry) -> None:
        """Adds a part; `place` is its own among the parts of all classes."""
        self._places.append(place)
        self._shapes.append(shape)

    def sum_of_areas(self) -> float:
        """Returns at least what they cover."""
        return float(np.sum(shapely.area(self._shapes)))

    def united(self) -> BaseGeometry:
        """Returns what they cover together."""
        return shapely.union_all(self._shapes)

    def place_where(self, least: float, ignored: BaseGeometry) -> int:
        """Returns the place of the part with which they cover so much.

        Args:
            least: The area; all together cover it.
            ignored: What does not count.
        """
        sums = np.cumsum(shapely.area(self._shapes))
        low, high = 0, len(sums) - 1
        middle = min(int(np.searchsorted(sums, least)), high)
        covered: list[BaseGeometry] = []
        while low < high:
            more = shapely.union_all([*covered, *self._shapes[low : middle + 1]])
            if shapely.difference(more, ignored).area >= least:
                high = middle
            else:
                low, covered = middle + 1, [more]
            middle = (low + high) // 2
        return self._places[low]


def _shared(grid: PatchGrid, regions: list[Region]) -> Iterator[_Part]:
    """Yields what patches and pieces of regions share, patch by patch."""
    boxes = shapely.box(*grid.corners.T, *(grid.corners + grid.side_px).T)
    cut = [
        (n, each) for n, region in enumerate(regions) for each in _pieces(region.shape)
    ]
    pieces = np.array([piece for _, piece in cut])
    tree = shapely.STRtree(pieces)
    step, overlaps = max(1, _MOST_OVERLAPS // len(cut)), 0
    for start in range(0, len(boxes), step):
        block = boxes[start : start + step]
        patches, numbers = tree.query(block, predicate="intersects")
        overlaps += len(patches)
        if overlaps > _MOST_OVERLAPS:
            raise DataError(
                f"its regions lie over its patches more than {_MOST_OVERLAPS} times: "
                f"draw each region once"
            )
        order = np.argsort(patches, kind="stable")
        patches, numbers = patches[order], numbers[order]
        shapes = shapely.intersection(block[patches], pieces[numbers])
        for patch, number, shape, shared in zip(
            patches.tolist(),
            numbers.tolist(),
            shapes,
            shapely.area(shapes).tolist(),
            strict=True,
        ):
            if shared > 0:
                yield _Part(start + patch, cut[number][0], shape)


def _pieces(shape: BaseGeometry) -> Iterator[BaseGeometry]:
    """Cuts a shape of many points in halves, until each piece has few.

    Where a patch lies on an edge, all points of what it is compared with are looked at.
    """
    left, low, right, high = shape.bounds if not shape.is_empty else (0, 0, 0, 0)
    few = shapely.get_num_coordinates(shape) <= _PIECE_POINTS
    if few or max(right - left, high - low) < _PIECE_PX:
        yield shape
        return
    x, y = (left + right) / 2, (low + high) / 2
    halves = (
        ((left, low, x, high), (x, low, right, high))
        if right - left > high - low
        else ((left, low, right, y), (left, y, right, high))
    )
    for half in halves:
        yield from _pieces(shapely.intersection(shape, shapely.box(*half)))


def _features(content: object) -> list[Any]:
    if isinstance(content, dict) and content.get("type") == "Feature":
        return [content]
    features = content.get("features") if isinstance(content, dict) else content
    if not isinstance(features, list):
        raise ValueError("this is no FeatureCollection of GeoJSON")
    return features


def _regions(features: list[Any]) -> Iterator[Region]:
    passed_over = points = 0
    for number, feature in enumerate(features, start=1):
        try:
            label, geometry = _labelled(feature)
            if label in (None, _FRAME) or geometry.get("type") not in (
                "Polygon",
                "MultiPolygon",
            ):
                passed_over += 1
                continue
            shape = _shape(geometry)
        except (ValueError, ShapelyError) as error:
            raise ValueError(f"object {number}: {first_line(error)}") from None
        points += int(shapely.get_num_coordinates(shape))
        if points > _MOST_POINTS:
            raise ValueError(
                f"its polygons have more than {_MOST_POINTS} points: simplify them in "
                f"QuPath"
            )
        yield Region(label, shape)
    if passed_over:
        _logger.debug("%d annotations have no class or no area", passed_over)


def _labelled(feature: object) -> tuple[str | None, dict[str, Any]]:
    """Returns class and geometry of a feature."""
    parts = feature if isinstance(feature, dict) else {"properties": feature}
    properties, geometry = parts.get("properties") or {}, parts.get("geometry") or {}
    if not (isinstance(properties, dict) and isinstance(geometry, dict)):
        raise ValueError("it is no Feature of GeoJSON")
    label = _class_of(properties)
    if label is not None and len(label) > _LONGEST_NAME:
        raise ValueError(f"its class has a name of {len(label)} letters")
    return label, geometry


def _shape(geometry: dict[str, Any]) -> BaseGeometry:
    """Returns a polygon as a valid shape."""
    try:
        shape = shapely.from_geojson(json.dumps(geometry, allow_nan=False))
    except ShapelyError:
        raise ValueError("its coordinates are no polygon") from None
    if not (np.abs(shapely.get_coordinates(shape)) <= _FARTHEST_PX).all():
        raise ValueError(
            f"it lies more than {_FARTHEST_PX} px from the slide: coordinates are "
            f"pixels of level 0"
        )
    if not shapely.is_valid(shape):
        _check_crossings(shape)
        shape = shapely.make_valid(shape, method="structure", keep_collapsed=False)
    return shape


def _check_crossings(shape: BaseGeometry) -> None:
    """Refuses what crosses itself so often that to mend it takes hours."""
    rings = shapely.get_rings(shapely.get_parts(shape))
    points, numbers = shapely.get_coordinates(rings, return_index=True)
    is_side = numbers[1:] == numbers[:-1]
    sides = shapely.linestrings(np.stack([points[:-1], points[1:]], axis=1)[is_side])
    tree, most = shapely.STRtree(sides), _MOST_NEIGHBOURS * len(sides) + _MOST_CROSSINGS
    step, found = max(1, most // max(1, len(sides))), 0
    for start in range(0, len(sides), step):
        found += tree.query(sides[start : start + step]).shape[1]
        if found > most:
            raise ValueError("it crosses itself thousands of times: draw it anew")


def _class_of(properties: dict[str, Any]) -> str | None:
    """Returns the class as QuPath writes it, of today and of before 0.3."""
    said = properties.get("classification")
    if isinstance(said, str):
        return said or None
    if not isinstance(said, dict):
        return None
    names = said.get("names")
    name = said.get("name") or (
        ": ".join(map(str, names)) if isinstance(names, list) else None
    )
    return str(name) if name else None


def _rectangle(row: dict[str, str | None], where: str) -> Region:
    try:
        x, y, width, height = (float(row[key] or "") for key in _COLUMNS[2:])
    except (TypeError, ValueError):
        raise DataError(f"{where}: x_px to height_px must be numbers") from None
    if not (row["slide"] and row["label"]):
        raise DataError(f"{where}: the row names no slide or no label")
    if len(row["label"]) > _LONGEST_NAME:
        raise DataError(f"{where}: the label is too long to be a class")
    if not (width > 0 and height > 0):  # NaN is not
        raise DataError(f"{where}: the rectangle {width:g} x {height:g} has no area")
    if not max(abs(x) + width, abs(y) + height) <= _FARTHEST_PX:
        raise DataError(
            f"{where}: the rectangle at {x:g}, {y:g} lies more than {_FARTHEST_PX} px "
            f"from the slide: write pixels of level 0"
        )
    return Region(row["label"], shapely.box(x, y, x + width, y + height))
