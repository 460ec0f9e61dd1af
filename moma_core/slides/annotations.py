"""Regions that people drew: QuPath's GeoJSON, or rectangles in a CSV file."""

import csv
import json
import logging
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import shapely
from shapely.errors import ShapelyError
from shapely.geometry.base import BaseGeometry

from moma_core.errors import DataError
from moma_core.slides.grid import PatchGrid

_logger = logging.getLogger(__name__)

_COLUMNS = ("slide", "label", "x_px", "y_px", "width_px", "height_px")


class Region(NamedTuple):
    """A labelled part of a slide.

    Args:
        label: Name of its class.
        shape: In pixels of level 0.
    """

    label: str
    shape: BaseGeometry


def read_geojson(path: Path) -> list[Region]:
    """Reads the polygons with a class from QuPath's GeoJSON.

    Points, lines and objects without a class are passed over.

    Raises:
        DataError: The file cannot be read, or a shape is none.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        features = content if isinstance(content, list) else _features(content)
        return list(_regions(features, path))
    except (OSError, ValueError, RecursionError, AttributeError, TypeError) as error:
        raise DataError(f"cannot read the annotations {path}: {error}") from None


def read_regions(path: Path) -> dict[str, list[Region]]:
    """Reads rectangles, `slide,label,x_px,y_px,width_px,height_px`, by slide.

    Raises:
        DataError: The file cannot be read, or a row breaks a rule.
    """
    found: defaultdict[str, list[Region]] = defaultdict(list)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if set(reader.fieldnames or ()) != set(_COLUMNS):
                raise DataError(f"{path}: the header must be {','.join(_COLUMNS)}")
            for row in reader:
                region = _rectangle(row, f"{path} line {reader.line_num}")
                found[row["slide"]].append(region)
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"cannot read the regions {path}: {error}") from None
    return dict(found)


def labels_of(
    grid: PatchGrid, regions: list[Region], min_cover: float
) -> list[str | None]:
    """Returns the class of each patch: of the regions that cover most of it.

    Where two classes cover equally much, the smaller region is meant: it was drawn
    within the larger one.

    Args:
        grid: The patches.
        regions: Of the same slide.
        min_cover: Share of a patch that must be covered; with less it has no class.
    """
    labels: list[str | None] = [None] * len(grid)
    if not regions or not len(grid):
        return labels
    areas = [float(region.shape.area) for region in regions]
    cover: defaultdict[int, defaultdict[str, float]] = defaultdict(
        lambda: defaultdict(float)
    )
    least: dict[tuple[int, str], float] = {}
    for patch, number, share in _shared(grid, regions):
        label = regions[number].label
        cover[patch][label] += share
        least[patch, label] = min(least.get((patch, label), np.inf), areas[number])
    for patch, shares in cover.items():
        ranked = [(round(each, 6), -least[patch, n], n) for n, each in shares.items()]
        most, _, label = max(ranked)
        if most >= min_cover:
            labels[patch] = label
    return labels


def _shared(grid: PatchGrid, regions: list[Region]) -> Iterator[tuple[int, int, float]]:
    """Yields patch, region, and the share of the patch that the region covers."""
    boxes = shapely.box(*grid.corners.T, *(grid.corners + grid.side_px).T)
    shapes = np.array([region.shape for region in regions])
    patches, numbers = shapely.STRtree(shapes).query(boxes, predicate="intersects")
    shared = shapely.area(shapely.intersection(boxes[patches], shapes[numbers]))
    shares = shared / grid.side_px**2
    for patch, number, share in zip(
        patches.tolist(), numbers.tolist(), shares.tolist(), strict=True
    ):
        if share > 0:
            yield patch, number, share


def _features(content: dict[str, Any]) -> list[Any]:
    if content.get("type") == "FeatureCollection":
        return list(content["features"])
    if content.get("type") == "Feature":
        return [content]
    raise ValueError("this is no FeatureCollection of GeoJSON")


def _regions(features: list[Any], path: Path) -> Iterator[Region]:
    passed_over = 0
    for number, feature in enumerate(features):
        label = _class_of(feature.get("properties") or {})
        geometry = feature.get("geometry") or {}
        if label is None or geometry.get("type") not in ("Polygon", "MultiPolygon"):
            passed_over += 1
            continue
        try:
            shape = shapely.from_geojson(json.dumps(geometry))
        except ShapelyError as error:
            raise DataError(f"{path}: object {number} is no shape: {error}") from None
        yield Region(label, shapely.make_valid(shape))
    if passed_over:
        _logger.debug("%d annotations have no class or no area", passed_over)


def _class_of(properties: dict[str, Any]) -> str | None:
    """Returns the class as QuPath writes it, of today and of before 0.3."""
    said = properties.get("classification")
    if isinstance(said, str):
        return said or None
    if not isinstance(said, dict):
        return None
    names = said.get("names")
    name = said.get("name") or (": ".join(map(str, names)) if names else None)
    return str(name) if name else None


def _rectangle(row: dict[str, str | None], where: str) -> Region:
    try:
        x, y, width, height = (float(row[key] or "") for key in _COLUMNS[2:])
    except (TypeError, ValueError):
        raise DataError(f"{where}: x_px to height_px must be numbers") from None
    if not (row["slide"] and row["label"]):
        raise DataError(f"{where}: the row names no slide or no label")
    if not (width > 0 and height > 0 and np.isfinite([x, y, width, height]).all()):
        raise DataError(f"{where}: the rectangle {width:g} x {height:g} has no area")
    return Region(row["label"], shapely.box(x, y, x + width, y + height))
