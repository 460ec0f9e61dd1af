"""Slides and what lies beside them, as somebody may send them who means no good."""

import io
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import shapely
import tifffile
from PIL import Image

from moma_core.errors import DataError
from moma_core.slides import annotations
from moma_core.slides.annotations import Region, labels_of, read_geojson
from moma_core.slides.coordinates import read_coordinates
from moma_core.slides.grid import PatchGrid, PatchGridSection, lay_grid
from moma_core.slides.open import open_slide
from moma_core.slides.slide import SlideLevel
from moma_core.slides.tiff_file import TiffFile
from tests.support.slides.hostile import small_ome, with_part, with_tags
from tests.support.slides.pictures import (
    TUMOUR,
    painted,
    write_dicom,
    write_ome,
    write_tiff,
)

LEVELS = (SlideLevel(1600, 1200, 1.0), SlideLevel(400, 300, 4.0))
CORNERS = np.array([[0, 0], [128, 256], [1472, 1072]])


def _described(path: Path, xml: str) -> Path:
    """Writes an OME-TIFF of tumour alone, with other metadata."""
    pixels = np.full((256, 256, 3), TUMOUR, np.uint8)
    tifffile.imwrite(
        path, pixels, photometric="rgb", tile=(128, 128), description=xml, metadata=None
    )
    return path


def _ome(pixels: str = "", *, before: str = "", inside: str = "") -> str:
    return (
        f'<?xml version="1.0"?>{before}<OME><Image ID="Image:0"><Pixels '
        f'DimensionOrder="XYCZT" Type="uint8" SizeX="256" SizeY="256" SizeC="3" '
        f'SizeZ="1" SizeT="1" PhysicalSizeX="0.5" PhysicalSizeY="0.5" {pixels}>'
        f'<Channel SamplesPerPixel="3"/>{inside}</Pixels></Image></OME>'
    )


def _shown(path: Path) -> np.ndarray:
    with open_slide(path) as slide:
        return slide.read_square(0, 0, 256, 64)


def test_a_slide_opens_no_other_file_that_its_metadata_names(tmp_path: Path) -> None:
    other = write_ome(tmp_path / "other.ome.tif", painted(256, 256) * 0)
    inside = (
        f'<TiffData IFD="0" PlaneCount="1"><UUID FileName="{other}">urn:uuid:1</UUID>'
        "</TiffData>"
    )

    shown = _shown(_described(tmp_path / "a.ome.tif", _ome(inside=inside)))

    assert (shown == TUMOUR).all()


@pytest.mark.parametrize(
    "xml",
    [
        _ome(inside='<TiffData PlaneCount="999999999999"/>'),
        _ome('SizeZ="999999999" SizeT="999999999"'),
        _ome(
            before="<!DOCTYPE OME ["
            + '<!ENTITY a0 "laughs">'
            + "".join(f'<!ENTITY a{n + 1} "{f"&a{n};" * 10}">' for n in range(12))
            + "]>",
            inside="&a12;",
        ),
        _ome(
            before='<!DOCTYPE OME [<!ENTITY a SYSTEM "file:///etc/hostname">]>',
            inside="&a;",
        ),
        '{"shape": [999999999, 999999999, 3]}',
    ],
    ids=["planes", "sizes", "entities", "external entity", "shape"],
)
def test_what_metadata_states_makes_no_work(tmp_path: Path, xml: str) -> None:
    shown = _shown(_described(tmp_path / "a.ome.tif", xml))

    assert (shown == TUMOUR).all()


def test_a_colour_a_page_is_read_where_ome_says_so(tmp_path: Path) -> None:
    planes = np.moveaxis(painted(512, 512), 2, 0)
    path = tmp_path / "a.ome.tif"
    metadata = {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    with tifffile.TiffWriter(path, ome=True) as file:
        tiles: dict[str, Any] = {"tile": (128, 128), "photometric": "minisblack"}
        file.write(planes, subifds=1, metadata=metadata, **tiles)
        file.write(planes[:, ::2, ::2], subfiletype=1, **tiles)

    with open_slide(path) as slide:
        assert [level.width_px for level in slide.levels] == [512, 256]
        assert (slide.read_square(0, 0, 512, 512) == painted(512, 512)).all()


def test_levels_are_found_without_the_metadata_that_names_them(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", painted(), 0.5)

    with TiffFile.open(path) as slide:
        assert [level.width_px for level in slide.levels] == [1600, 400]


def test_a_part_that_states_more_pixels_than_it_may_is_not_decoded(
    tmp_path: Path,
) -> None:
    large = io.BytesIO()
    Image.new("RGB", (9000, 9000)).save(large, "JPEG")
    path = with_part(tmp_path / "a.ome.tif", large.getvalue())

    with TiffFile.open(path) as slide, pytest.raises(DataError, match="9000 x 9000"):
        slide.read_region(0, 0, level=0, width_px=64, height_px=64)


def test_a_part_of_the_file_that_is_not_there_is_damage(tmp_path: Path) -> None:
    path = small_ome(tmp_path / "a.ome.tif")
    with tifffile.TiffFile(path) as file:
        parts = len(file.pages[0].databytecounts)
    with_tags(path, TileByteCounts=[1 << 31] * parts)

    with open_slide(path) as slide, pytest.raises(DataError, match="behind the end"):
        slide.read_region(0, 0, level=0, width_px=64, height_px=64)


@pytest.mark.parametrize("name", ["a.ome.tif", "a.tif", "a.dcm"])
def test_a_slide_that_is_cut_anywhere_says_so(tmp_path: Path, name: str) -> None:
    write = {"a.ome.tif": write_ome, "a.tif": write_tiff, "a.dcm": write_dicom}[name]
    whole = write(tmp_path / name, painted(512, 512)).read_bytes()

    for share in range(1, 10):
        (tmp_path / name).write_bytes(whole[: len(whole) * share // 10])
        with pytest.raises(DataError) as error, open_slide(tmp_path / name) as slide:
            slide.read_square(0, 0, 512, 512)

        assert str(error.value).isprintable()


def test_a_slide_is_not_cut_into_millions_of_patches(tmp_path: Path) -> None:
    section = PatchGridSection(patch_size_px=16, overlap_px=15, min_tissue=0)

    with open_slide(write_ome(tmp_path / "a.ome.tif", painted())) as slide:
        slide.levels = (SlideLevel(100_000, 100_000, 1.0),)
        with pytest.raises(DataError, match="overlap them less"):
            lay_grid(slide, painted(64, 64), section)


@pytest.mark.parametrize(
    ("dtype", "settings"),
    [
        ("<i8", {}),
        ("<f8", {}),
        (">f4", {}),
        ("<u2", {}),
        ("<i4", {"chunks": (1, 2), "maxshape": (None, 2)}),
        ("<i8", {"chunks": (2, 2), "compression": "gzip"}),
        ("<i8", {"chunks": (2, 2), "compression": "gzip", "shuffle": True}),
        ("<f8", {"chunks": (3, 2), "compression": "gzip", "fletcher32": True}),
    ],
)
def test_coordinates_are_read_as_programs_store_them(
    tmp_path: Path, dtype: str, settings: dict[str, Any]
) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        stored = file.create_dataset("coords", data=CORNERS.astype(dtype), **settings)
        stored.attrs.update(patch_size=64.0, patch_size_level0=np.array([128]))

    grid = read_coordinates(path, LEVELS)

    assert grid.corners.dtype == np.int64
    assert (grid.corners == CORNERS).all()
    assert (grid.side_px, grid.size_px, grid.overlap_px) == (128, 64, 0)


def test_no_coordinates_are_no_patches(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        stored = file.create_dataset("coords", (0, 2), "<i8")
        stored.attrs.update(patch_size=64, patch_level=1)

    grid = read_coordinates(path, LEVELS)

    assert (len(grid), grid.side_px) == (0, 256)


def _star(points: int) -> np.ndarray:
    """Returns a ring around (1000, 1000) of many teeth, (points + 1, 2)."""
    turns = np.linspace(0, 2 * np.pi, points + 1)
    turns[-1] = 0  # closed, to the last digit
    radii = 800 + 30 * np.sin(turns * 40)
    return 1000 + radii[:, None] * np.stack([np.cos(turns), np.sin(turns)], axis=1)


def _grid_of(side_px: int, patches: int) -> PatchGrid:
    x, y = np.meshgrid(np.arange(patches), np.arange(patches))
    corners = np.stack([x.ravel(), y.ravel()], axis=1) * side_px
    return PatchGrid(corners, side_px, side_px)


def test_a_polygon_of_many_points_covers_what_it_covers_whole() -> None:
    shape = shapely.Polygon(_star(20_000))
    grid = _grid_of(100, 20)
    boxes = shapely.box(*grid.corners.T, *(grid.corners + 100).T)
    cover = shapely.area(shapely.intersection(boxes, shape)) / 100**2

    labels = labels_of(grid, [Region("tumour", shape)], 0.5)

    assert labels == ["tumour" if share >= 0.5 else None for share in cover]


def test_regions_drawn_over_one_another_too_often_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(annotations, "_MOST_OVERLAPS", 50)
    regions = [Region("tumour", shapely.box(0, 0, 200, 200))] * 13

    assert labels_of(_grid_of(100, 2), regions[:12], 0.5) == ["tumour"] * 4
    with pytest.raises(DataError, match="draw each region once"):
        labels_of(_grid_of(100, 2), regions, 0.5)


def _annotation(path: Path, ring: np.ndarray) -> Path:
    geometry = {"type": "Polygon", "coordinates": [ring.tolist()]}
    said = {"properties": {"classification": "tumour"}, "geometry": geometry}
    path.write_text(json.dumps([said]))
    return path


def test_a_polygon_that_touches_or_crosses_itself_is_mended(tmp_path: Path) -> None:
    bow = np.array([[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]])

    (region,) = read_geojson(_annotation(tmp_path / "a.geojson", bow))

    assert region.shape.area == 50


def test_a_polygon_that_crosses_itself_everywhere_is_refused(tmp_path: Path) -> None:
    ring = np.random.default_rng(0).uniform(0, 1000, (2000, 2))
    path = _annotation(tmp_path / "a.geojson", np.vstack([ring, ring[:1]]))

    with pytest.raises(DataError, match="crosses itself thousands of times"):
        read_geojson(path)


def test_more_points_than_anybody_draws_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotations, "_MOST_POINTS", 1000)

    assert read_geojson(_annotation(tmp_path / "a.geojson", _star(999)))
    with pytest.raises(DataError, match="more than 1000 points"):
        read_geojson(_annotation(tmp_path / "b.geojson", _star(1000)))
