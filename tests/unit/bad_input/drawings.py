"""What was drawn on slides: QuPath's GeoJSON, and a CSV of rectangles."""

import json
from pathlib import Path
from typing import Any

from moma_core.slides.annotations import read_geojson, read_regions
from tests.unit.bad_input.table import BadInput, written


def _geojson(name: str, content: Any, says: str) -> BadInput:
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    says = f"cannot read the annotations ./a.geojson: {says}"
    return BadInput(name, written(read_geojson, "a.geojson", text), says)


def _drawn(ring: Any, label: Any = "tumour") -> list[dict[str, Any]]:
    geometry = {"type": "Polygon", "coordinates": ring}
    properties = {"classification": {"name": label}}
    return [{"type": "Feature", "geometry": geometry, "properties": properties}]


def _square(x: Any) -> list[list[Any]]:
    return [[x, 0], [9, 0], [9, 9], [x, 9], [x, 0]]


_NO_POLYGON = "object 1: its coordinates are no polygon"
_TOO_FAR = (
    "object 1: it lies more than 2097152 px from the slide: coordinates are pixels of "
    "level 0"
)
_NOT_FINITE = "object 1: Out of range float values are not JSON compliant"


def _sparse(folder: Path) -> object:
    path = folder / "a.geojson"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    return read_geojson(path)


ANNOTATIONS = (
    _geojson(
        "annotations that are no JSON",
        "{",
        "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
    ),
    _geojson(
        "annotations in another encoding",
        b'["\xff"]',
        "'utf-8' codec can't decode byte 0xff in position 2: invalid start byte",
    ),
    _geojson("annotations without an end", "[" * 100_000, "it is nested too deeply"),
    BadInput(
        "annotations of a terabyte",
        _sparse,
        "cannot read the annotations ./a.geojson: it has 1048576 MiB, more than 32: "
        "export annotations alone, without detections",
    ),
    _geojson(
        "a FeatureCollection without features",
        {"type": "FeatureCollection"},
        "this is no FeatureCollection of GeoJSON",
    ),
    _geojson(
        "a number in the place of annotations",
        5,
        "this is no FeatureCollection of GeoJSON",
    ),
    _geojson(
        "a number in the place of an annotation",
        [5],
        "object 1: it is no Feature of GeoJSON",
    ),
    _geojson(
        "an annotation whose shape is a list",
        [{"geometry": [1]}],
        "object 1: it is no Feature of GeoJSON",
    ),
    _geojson("a polygon of text", _drawn([_square("7")]), _NO_POLYGON),
    _geojson("a polygon of two points", _drawn([[[0, 0], [1, 1]]]), _NO_POLYGON),
    _geojson("a polygon at NaN", _drawn([_square(float("nan"))]), _NOT_FINITE),
    _geojson("a polygon at infinity", _drawn([_square(1e999)]), _NOT_FINITE),
    _geojson("a polygon at 1e308", _drawn([_square(1e308)]), _TOO_FAR),
    _geojson(
        "a class of a thousand letters",
        _drawn([_square(0)], "a" * 1000),
        "object 1: its class has a name of 1000 letters",
    ),
)

_TOO_FAR_AWAY = " lies more than 2097152 px from the slide: write pixels of level 0"
_SAVE_AS = "save it as CSV in UTF-8 (in Excel: CSV UTF-8)"
_HEADER = "slide,label,x_px,y_px,width_px,height_px\n"


def _regions(name: str, content: str | bytes, says: str) -> BadInput:
    return BadInput(name, written(read_regions, "r.csv", content), says)


REGIONS = (
    _regions(
        "regions without a header",
        "one,tumour,0,0,9,9\n",
        "./r.csv: the header must be slide,label,x_px,y_px,width_px,height_px",
    ),
    _regions(
        "a region of text",
        _HEADER + "one,tumour,left,0,9,9\n",
        "./r.csv line 2: x_px to height_px must be numbers",
    ),
    _regions(
        "a region of NaN",
        _HEADER + "one,tumour,0,0,nan,9\n",
        "./r.csv line 2: the rectangle nan x 9 has no area",
    ),
    _regions(
        "a region at NaN",
        _HEADER + "one,tumour,nan,0,9,9\n",
        "./r.csv line 2: the rectangle at nan, 0" + _TOO_FAR_AWAY,
    ),
    _regions(
        "a region at 1e308",
        _HEADER + "one,tumour,1e308,0,1e308,9\n",
        "./r.csv line 2: the rectangle at 1e+308, 0" + _TOO_FAR_AWAY,
    ),
    _regions(
        "a region of no slide",
        _HEADER + ",tumour,0,0,9,9\n",
        "./r.csv line 2: the row names no slide or no label",
    ),
    _regions(
        "a region with a cell too few",
        _HEADER + "one,tumour,0,0,9\n",
        "./r.csv line 2: x_px to height_px must be numbers",
    ),
    _regions(
        "regions in another code page",
        (_HEADER + "one,Müller,0,0,9,9\n").encode("latin-1"),
        "./r.csv: line 2 is not UTF-8 (byte 0xfc, as Windows-1252 has it): " + _SAVE_AS,
    ),
    _regions(
        "regions in one endless line",
        _HEADER + "a" * (2 << 20),
        "./r.csv line 2 is too long to be a row: " + _SAVE_AS,
    ),
)
