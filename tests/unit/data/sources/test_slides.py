"""Patches of whole slides as a source: where they lie, and which class they have."""

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from moma_core.data.augment.recipe import recipe_named
from moma_core.data.batch import Batch
from moma_core.data.checks.pictures import look_at_pictures
from moma_core.data.loader import view_batches
from moma_core.data.patch import NO_LABEL, TRAIN, UNSEEN
from moma_core.data.sampler import BatchSettings
from moma_core.errors import DataError
from moma_core.slides.coordinates import read_coordinates
from moma_core.slides.open import open_slide
from tests.support.slides.pictures import (
    STROMA,
    TUMOUR,
    painted,
    write_ome,
    write_tiff,
)
from tests.support.slides.two_slides import (
    GRID,
    has_colour,
    open_patches,
    two_slides,
    write_rows,
)


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    return two_slides(tmp_path / "slides")


def test_patches_lie_over_tissue_and_have_the_resolution_asked_for(
    slides: Path,
) -> None:
    source = open_patches(slides, class_names=["stroma", "tumour"])

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

    source = open_patches(slides, class_names=["a", "b"], patches=GRID | keys)

    assert len(source.index) == patches


def test_a_slide_without_microns_is_refused_until_they_are_said(tmp_path: Path) -> None:
    write_ome(tmp_path / "a.ome.tif", painted(), None)
    write_ome(tmp_path / "b.ome.tif", painted(), 0.5)

    with pytest.raises(DataError, match=r"a.ome.tif states no microns.*data.slide_mpp"):
        open_patches(tmp_path, class_names=["a", "b"])
    source = open_patches(tmp_path, class_names=["a", "b"], slide_mpp=0.5)
    rows = [{"path": "a.ome.tif", "mpp": "0.25"}, {"path": "b.ome.tif", "mpp": ""}]
    manifest = write_rows(tmp_path / "m.csv", rows)
    told = open_patches(tmp_path, manifest=manifest, class_names=["a", "b"])

    assert len(source.index) == 154
    assert Counter(told.read(n).slide for n in range(len(told.index)))["a"] < 30


def test_a_manifest_gives_each_slide_its_class_patient_and_split(slides: Path) -> None:
    rows = [
        {"path": "one.ome.tif", "label": "high", "patient_id": "p1", "split": "train"},
        {"path": "two.tif", "label": "low", "patient_id": "p2", "split": "test"},
    ]

    source = open_patches(
        slides, manifest=write_rows(slides / "m.csv", rows), root=None
    )

    assert source.class_names == ("high", "low")
    train, unseen = source.index.rows(TRAIN), source.index.rows(UNSEEN)
    assert (len(train), len(unseen)) == (77, 77)
    patch = source.read(int(unseen[0]))
    assert (patch.patient, patch.slide, patch.label) == ("p2", "two", 1)


def test_two_slides_of_one_name_are_refused(slides: Path) -> None:
    write_tiff(slides / "one.tif", painted(), 0.5)

    with pytest.raises(DataError, match="two slides are called one"):
        open_patches(slides, class_names=["a", "b"])


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

    source = open_patches(slides, coordinates=folder.parent, class_names=["a", "b"])

    patches = [source.read(row) for row in range(6)]
    assert len(source.index) == 6
    assert {patch.pixels.shape for patch in patches} == {(128, 128, 3)}
    assert has_colour(patches[0].pixels, STROMA)
    assert has_colour(patches[1].pixels, TUMOUR)
    assert {patch.resolution_mpp for patch in patches} == {1.0}


def test_clam_coordinates_have_the_resolution_of_their_level(
    slides: Path, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            coords = file.create_dataset("coords", data=np.array([[200, 200]]))
            coords.attrs.update(patch_size=64, patch_level=1)

    source = open_patches(slides, coordinates=tmp_path, class_names=["a", "b"])

    patch = source.read(0)
    assert patch.pixels.shape == (64, 64, 3)
    assert patch.resolution_mpp == pytest.approx(2.0)
    assert has_colour(patch.pixels, STROMA)


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
        open_patches(slides, coordinates=tmp_path, class_names=["a", "b"])


def test_a_slide_without_coordinates_is_named_by_the_files_it_lacks(
    slides: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"neither one_patches.h5 nor one.h5"):
        open_patches(slides, coordinates=tmp_path, class_names=["a", "b"])


def test_the_patches_found_are_written_down_once_as_trident_does(
    slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    found = open_patches(slides, class_names=["a", "b"], cache_dir=cache)
    monkeypatch.setattr("moma_core.data.sources.slides.lay_grid", None)

    again = open_patches(slides, class_names=["a", "b"], cache_dir=cache)

    assert len(again.index) == len(found.index)
    assert (again.read(3).pixels == found.read(3).pixels).all()
    (path,) = cache.glob("one-*.h5")
    with open_slide(slides / "one.ome.tif") as slide, h5py.File(path) as file:
        assert len(read_coordinates(path, slide.levels)) == 77
        said = dict(file["coords"].attrs)
    assert (said["patch_size"], said["patch_size_level0"]) == (64, 128)
    assert (said["level0_magnification"], said["target_magnification"]) == (20, 10)


def test_two_workers_read_the_same_patches_as_one_process(slides: Path) -> None:
    source = open_patches(slides, class_names=["a", "b"])
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
    source = open_patches(slides, class_names=["a", "b"])
    source.read(0)

    copy = pickle.loads(pickle.dumps(source))

    assert (copy.read(5).pixels == source.read(5).pixels).all()


def test_the_doctor_counts_the_slides_that_patches_are_cut_from(slides: Path) -> None:
    source = open_patches(slides, class_names=["a", "b"])

    first, *_ = look_at_pictures(source, None, view_size_px=64, max_unreadable=10)

    assert first.text == "patches are cut from 2 slides, 154 of 154 opened"
