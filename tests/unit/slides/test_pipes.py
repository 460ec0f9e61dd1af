"""A pipe in the place of a file: who opened it would wait for ever."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from moma_core.data.images import decode_rgb
from moma_core.data.sources.csv_manifest import list_csv_manifest
from moma_core.errors import DataError
from moma_core.slides.annotations import read_geojson, read_regions
from moma_core.slides.coordinates import read_coordinates
from moma_core.slides.open import is_slide, open_slide
from moma_core.slides.slide import SlideLevel

_READERS: dict[str, Callable[[Path], object]] = {
    "a.geojson": read_geojson,
    "regions.csv": read_regions,
    "manifest.csv": list_csv_manifest,
    "a.h5": lambda path: read_coordinates(path, (SlideLevel(160, 120, 1.0),)),
    "a.svs": open_slide,
    "a.ome.tif": open_slide,
    "a.tif": open_slide,
    "a.dcm": open_slide,
    "a.png": decode_rgb,
}


@pytest.mark.parametrize("name", _READERS)
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    os.mkfifo(path)

    with pytest.raises(DataError, match="a pipe or a device"):
        _READERS[name](path)


def test_a_pipe_is_not_opened_to_see_whether_it_is_a_slide(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tif")

    assert not is_slide(tmp_path / "a.tif")
