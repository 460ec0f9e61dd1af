"""Patches of whole slides as a source: where they lie, and which class they have."""

import csv
import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from moma_core.data.augment.recipe import recipe_named
from moma_core.data.batch import Batch
from moma_core.data.loader import view_batches
from moma_core.data.patch import NO_LABEL, TRAIN, UNSEEN, PatchSource
from moma_core.data.sampler import BatchSettings
from moma_core.data.sources.factory import open_source
from moma_core.errors import ConfigError, DataError
from moma_core.slides.coordinates import read_coordinates
from moma_core.slides.open import open_slide
from tests.support.slides.pictures import (
    STROMA,
    STROMA_BOX,
    TUMOUR,
    TUMOUR_BOX,
    painted,
    write_ome,
    write_tiff,
)

GRID = {"mpp": 1.0, "patch_size_px": 64, "min_tissue_area_um2": 1000}


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    folder = tmp_path / "slides"
    folder.mkdir()
    write_ome(folder / "one.ome.tif", painted(), 0.5)
    write_tiff(folder / "two.tif", painted(), 0.5)
    return folder


def _open(slides: Path, **keys: Any) -> PatchSource:
    return open_source({"kind": "slides", "root": slides, "patches": GRID, **keys})


def _colour(pixels: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool(np.abs(pixels.reshape(-1, 3).mean(0) - colour).max() < 6)


def _manifest(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return path


def _geojson(
    path: Path, *regions: tuple[str, tuple[int, int, int, int]], name: bool = True
) -> None:
    features: list[dict[str, Any]] = [
        {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 1]}},
        {
            "type": "Feature",
            "geometry": _polygon(STROMA_BOX),
            "properties": {"objectType": "annotation"},
        },
    ]
    for label, box in regions:
        said: Any = {"name": label, "color": [1, 2, 3]} if name else label
        features.append(
            {
                "type": "Feature",
                "geometry": _polygon(box),
                "properties": {"objectType": "annotation", "classification": said},
            }
        )
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def _polygon(box: tuple[int, int, int, int]) -> dict[str, Any]:
    left, top, right, bottom = box
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    return {"type": "Polygon", "coordinates": [ring]}


def test_patches_lie_over_tissue_and_have_the_resolution_asked_for(
    slides: Path,
) -> None:
    source = _open(slides, class_names=["stroma", "tumour"])

    patches = [source.read(row) for row in range(len(source.index))]
    assert Counter(patch.slide for patch in patches) == {"one": 77, "two": 77}
    assert {patch.pixels.shape for patch in patches} == {(64, 64, 3)}
    assert {patch.resolution_mpp for patch in patches} == {1.0}
    assert (source.index.labels == NO_LABEL).all()
    glass = [patch for patch in patches if patch.pixels.mean() > 235]
    assert not glass


@pytest.mark.parametrize(
    ("keys", "patches"),
    [
        ({"min_tissue": 0}, 12 * 9),
        ({"min_tissue": 0, "edge": "pad"}, 13 * 10),
        ({"min_tissue": 0, "overlap_px": 32}, 24 * 17),
        ({"min_tissue": 1}, 10 * 6),
    ],
)
def test_overlap_edge_and_share_of_tissue_decide_which_patches_there_are(
    slides: Path, keys: dict[str, Any], patches: int
) -> None:
    (slides / "two.tif").unlink()

    source = _open(slides, class_names=["a", "b"], patches=GRID | keys)

    assert len(source.index) == patches


def test_a_slide_without_microns_is_refused_until_they_are_said(tmp_path: Path) -> None:
    write_ome(tmp_path / "a.ome.tif", painted(), None)
    write_ome(tmp_path / "b.ome.tif", painted(), 0.5)

    with pytest.raises(DataError, match=r"a.ome.tif states no microns.*data.slide_mpp"):
        _open(tmp_path, class_names=["a", "b"])
    source = _open(tmp_path, class_names=["a", "b"], slide_mpp=0.5)
    rows = [{"path": "a.ome.tif", "mpp": "0.25"}, {"path": "b.ome.tif", "mpp": ""}]
    manifest = _manifest(tmp_path / "m.csv", rows)
    told = _open(tmp_path, manifest=manifest, class_names=["a", "b"])

    assert len(source.index) == 154
    assert Counter(told.read(n).slide for n in range(len(told.index)))["a"] < 30


def test_a_manifest_gives_each_slide_its_class_patient_and_split(slides: Path) -> None:
    rows = [
        {"path": "one.ome.tif", "label": "high", "patient_id": "p1", "split": "train"},
        {"path": "two.tif", "label": "low", "patient_id": "p2", "split": "test"},
    ]

    source = _open(slides, manifest=_manifest(slides / "m.csv", rows), root=None)

    assert source.class_names == ("high", "low")
    train, unseen = source.index.rows(TRAIN), source.index.rows(UNSEEN)
    assert (len(train), len(unseen)) == (77, 77)
    patch = source.read(int(unseen[0]))
    assert (patch.patient, patch.slide, patch.label) == ("p2", "two", 1)


@pytest.mark.parametrize("has_object", [True, False])
def test_a_patch_has_the_class_of_the_polygon_that_covers_it(
    slides: Path, tmp_path: Path, has_object: bool
) -> None:
    for name in ("one", "two"):
        _geojson(
            tmp_path / "qupath" / f"{name}.geojson",
            ("stroma", STROMA_BOX),
            ("tumour", TUMOUR_BOX),
            name=has_object,
        )

    source = _open(slides, annotations={"geojson": tmp_path / "qupath"})

    assert source.class_names == ("stroma", "tumour")
    for row in range(len(source.index)):
        patch = source.read(row)
        if not (_colour(patch.pixels, STROMA) or _colour(patch.pixels, TUMOUR)):
            continue  # it lies over both
        assert _colour(patch.pixels, (STROMA, TUMOUR)[patch.label or 0])
    assert {*source.index.labels.tolist()} == {0, 1}


def test_the_smaller_of_two_regions_that_cover_a_patch_is_meant(
    slides: Path, tmp_path: Path
) -> None:
    whole = (0, 0, 1600, 1200)
    for name in ("one", "two"):
        _geojson(
            tmp_path / "qupath" / f"{name}.geojson",
            ("tumour", TUMOUR_BOX),
            ("tissue", whole),
        )

    source = _open(slides, annotations={"geojson": tmp_path / "qupath"})

    for row in range(len(source.index)):
        patch = source.read(row)
        if _colour(patch.pixels, TUMOUR):
            assert source.class_names[patch.label or 0] == "tumour"
        if _colour(patch.pixels, STROMA):
            assert source.class_names[patch.label or 0] == "tissue"


def test_what_no_region_covers_is_dropped_or_trained_without_label(
    slides: Path, tmp_path: Path
) -> None:
    rows = [
        {
            "slide": "one",
            "label": "tumour",
            "x_px": "800",
            "y_px": "100",
            "width_px": "700",
            "height_px": "900",
        },
    ]
    regions = {"regions": _manifest(tmp_path / "regions.csv", rows)}

    dropped = _open(slides, annotations=regions)
    kept = _open(slides, annotations=regions | {"outside": "unlabelled"})

    assert 0 < len(dropped.index) < 77
    assert len(kept.index) == 154
    assert (kept.index.labels != NO_LABEL).sum() == len(dropped.index)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot read the annotations"),
        ('{"type": "Topology"}', "no FeatureCollection"),
        (
            '[{"geometry": {"type": "Polygon", "coordinates": [[1, 2]]},'
            ' "properties": {"classification": "a"}}]',
            "object 1: its coordinates are no polygon",
        ),
    ],
)
def test_annotations_that_are_none_are_named_with_their_reason(
    slides: Path, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "qupath").mkdir()
    (tmp_path / "qupath" / "one.geojson").write_text(content)

    with pytest.raises(DataError, match=message):
        _open(slides, annotations={"geojson": tmp_path / "qupath"})


def test_a_region_of_a_slide_that_is_not_there_is_refused(
    slides: Path, tmp_path: Path
) -> None:
    path = tmp_path / "regions.csv"
    path.write_text("slide,label,x_px,y_px,width_px,height_px\nthree,a,0,0,9,9\n")

    with pytest.raises(DataError, match="names the slide 'three', and there is none"):
        _open(slides, annotations={"regions": path})


def test_labels_of_slides_and_of_their_parts_exclude_each_other(slides: Path) -> None:
    rows = [{"path": "one.ome.tif", "label": "high"}]
    manifest = _manifest(slides / "m.csv", rows)

    with pytest.raises(DataError, match="leave one of them out"):
        _open(slides, manifest=manifest, annotations={"geojson": slides})
    with pytest.raises(ConfigError, match="geojson or regions, one of them"):
        _open(slides, annotations={})


def test_two_slides_of_one_name_are_refused(slides: Path) -> None:
    write_tiff(slides / "one.tif", painted(), 0.5)

    with pytest.raises(DataError, match="two slides are called one"):
        _open(slides, class_names=["a", "b"])


def test_trident_coordinates_are_taken_as_they_are(
    slides: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "20x_128px_0px_overlap" / "patches"
    folder.mkdir(parents=True)
    for name in ("one", "two"):
        with h5py.File(folder / f"{name}_patches.h5", "w") as file:
            corners = np.array([[200, 200], [900, 300], [1000, 700]])
            coords = file.create_dataset("coords", data=corners)
            coords.attrs.update(
                patch_size=128, patch_size_level0=256, overlap=0, name=name
            )

    source = _open(slides, coordinates=folder.parent, class_names=["a", "b"])

    patches = [source.read(row) for row in range(6)]
    assert len(source.index) == 6
    assert {patch.pixels.shape for patch in patches} == {(128, 128, 3)}
    assert _colour(patches[0].pixels, STROMA)
    assert _colour(patches[1].pixels, TUMOUR)
    assert {patch.resolution_mpp for patch in patches} == {1.0}


def test_clam_coordinates_have_the_resolution_of_their_level(
    slides: Path, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            coords = file.create_dataset("coords", data=np.array([[200, 200]]))
            coords.attrs.update(patch_size=64, patch_level=1)

    source = _open(slides, coordinates=tmp_path, class_names=["a", "b"])

    patch = source.read(0)
    assert patch.pixels.shape == (64, 64, 3)
    assert patch.resolution_mpp == pytest.approx(2.0)
    assert _colour(patch.pixels, STROMA)


def _no_coords(file: h5py.File) -> None:
    file.create_dataset("features", data=np.zeros((2, 2)))


def _three_columns(file: h5py.File) -> None:
    file.create_dataset("coords", data=np.zeros((2, 3)))


def _no_size(file: h5py.File) -> None:
    file.create_dataset("coords", data=np.zeros((2, 2)))


def _elsewhere(file: h5py.File) -> None:
    coords = file.create_dataset("coords", data=np.array([[90_000, 5]]))
    coords.attrs.update(patch_size=64, patch_size_level0=64)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (_no_coords, "it has no coords"),
        (_three_columns, "not N x 2"),
        (_no_size, "neither TRIDENT nor CLAM"),
        (_elsewhere, "another slide's"),
    ],
)
def test_coordinates_that_do_not_fit_are_refused(
    slides: Path, tmp_path: Path, write: Any, message: str
) -> None:
    for name in ("one", "two"):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            write(file)

    with pytest.raises(DataError, match=message):
        _open(slides, coordinates=tmp_path, class_names=["a", "b"])


def test_a_slide_without_coordinates_is_named_by_the_files_it_lacks(
    slides: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"neither one_patches.h5 nor one.h5"):
        _open(slides, coordinates=tmp_path, class_names=["a", "b"])


def test_the_patches_found_are_written_down_once_as_trident_does(
    slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    found = _open(slides, class_names=["a", "b"], cache_dir=cache)
    monkeypatch.setattr("moma_core.data.sources.slides.lay_grid", None)

    again = _open(slides, class_names=["a", "b"], cache_dir=cache)

    assert len(again.index) == len(found.index)
    assert (again.read(3).pixels == found.read(3).pixels).all()
    (path,) = cache.glob("one-*.h5")
    with open_slide(slides / "one.ome.tif") as slide, h5py.File(path) as file:
        assert len(read_coordinates(path, slide.levels)) == 77
        said = dict(file["coords"].attrs)
    assert (said["patch_size"], said["patch_size_level0"]) == (64, 128)
    assert (said["level0_magnification"], said["target_magnification"]) == (20, 10)


def test_two_workers_read_the_same_patches_as_one_process(slides: Path) -> None:
    source = _open(slides, class_names=["a", "b"])
    groups = [np.array([[row, 0], [row + 77, 1]]) for row in range(4)]

    def views(workers: int) -> list[Batch]:
        settings = BatchSettings(
            batch_size=2,
            labelled_share=0.5,
            seed=1,
            recipe=recipe_named("tissue"),
            view_size_px=32,
            workers=workers,
        )
        return list(view_batches(source, groups, settings))

    for one, two in zip(views(0), views(2), strict=True):
        assert (one.views == two.views).all()


def test_a_source_travels_without_its_open_files(slides: Path) -> None:
    source = _open(slides, class_names=["a", "b"])
    source.read(0)

    copy = pickle.loads(pickle.dumps(source))

    assert (copy.read(5).pixels == source.read(5).pixels).all()
