"""Whole slides, and what other programs write beside them."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from moma_core.slides.annotations import labels_of, read_geojson, read_regions
from moma_core.slides.coordinates import read_coordinates
from moma_core.slides.grid import PatchGrid
from moma_core.slides.open import is_slide, open_slide
from moma_core.slides.slide import SlideLevel
from tests.fuzz.target import Target, by_first_byte, from_file
from tests.support.slides.pictures import painted, write_dicom, write_ome, write_tiff

_LEVELS = (SlideLevel(1600, 1200, 1.0), SlideLevel(400, 300, 4.0))
_CORNERS = np.array([[0, 0], [128, 0], [0, 128]])
_GRID = PatchGrid(_CORNERS, side_px=128, size_px=64)


def _written(write: Callable[[Path], object], name: str = "file") -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write(path)
        return path.read_bytes()


def coordinates() -> Target:
    """HDF5 files of TRIDENT and CLAM."""

    def trident(path: Path, **settings: object) -> None:
        with h5py.File(path, "w") as file:
            stored = file.create_dataset("coords", data=_CORNERS, **settings)
            stored.attrs.update(patch_size=64, patch_size_level0=128, overlap=0)

    def clam(path: Path) -> None:
        with h5py.File(path, "w") as file:
            stored = file.create_dataset("coords", data=_CORNERS.astype(float))
            stored.attrs.update(patch_size=64, patch_level=1)

    return Target(
        from_file(lambda path: read_coordinates(path, _LEVELS), "coordinates.h5"),
        (
            _written(trident),
            _written(clam),
            _written(lambda path: trident(path, chunks=(2, 2), compression="gzip")),
        ),
    )


def annotations() -> Target:
    """QuPath's GeoJSON, and a CSV of rectangles."""

    def geojson(path: Path) -> object:
        return labels_of(_GRID, read_geojson(path), 0.5)

    def regions(path: Path) -> object:
        return [labels_of(_GRID, each, 0.5) for each in read_regions(path).values()]

    ring = "[[0,0],[200.5,0],[200,200],[0,200],[0,0]]"
    shape = f'"geometry":{{"type":"Polygon","coordinates":[{ring}]}}'
    drawn = f'{{"type":"Feature",{shape},"properties":{{"classification":"tumour"}}}}'
    several = shape.replace("Polygon", "MultiPolygon").replace(ring, f"[{ring}]")
    today = f'{{"type":"FeatureCollection","features":[{drawn}]}}'
    before = f"[{drawn.replace(shape, several)}]"
    named = drawn.replace('"tumour"', '{"names":["tumour","necrosis"]}')
    rows = "slide,label,x_px,y_px,width_px,height_px\none,tumour,0,0.5,200,2e2\n"
    return Target(
        by_first_byte(
            from_file(geojson, "one.geojson"), from_file(regions, "regions.csv")
        ),
        (
            b"\0" + today.encode(),
            b"\0" + before.encode(),
            b"\0" + named.encode(),
            b"\1" + rows.encode(),
        ),
    )


def slides() -> Target:
    """OME-TIFF, TIFF and DICOM, as tifffile, OpenSlide and wsidicom read them."""
    flat = painted(256, 192) // 70 * 70  # so that a seed is small

    def read(path: Path) -> object:
        is_slide(path)
        with open_slide(path, 0.5) as slide:
            slide.thumbnail(64)
            return slide.read_square(10, 10, 128, 64)

    return Target(
        by_first_byte(
            from_file(read, "slide.ome.tif"),
            from_file(read, "slide.tif"),
            from_file(read, "slide.dcm"),
        ),
        (
            b"\0" + _written(lambda path: write_ome(path, flat)),
            b"\1" + _written(lambda path: write_tiff(path, flat, 0.5)),
            b"\2" + _written(lambda path: write_dicom(path, flat)),
        ),
    )
