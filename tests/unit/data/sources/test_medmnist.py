import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moma_core.data.patch import TRAIN, UNSEEN, VALIDATION
from moma_core.data.sources.medmnist import KNOWN_CLASS_NAMES, MedmnistSource
from moma_core.errors import DataError
from tests.support.machine.needs import shared_data


def _arrays(counts: tuple[int, int, int] = (4, 2, 3), grey: bool = False) -> Any:
    draws = np.random.default_rng(0)
    shape = (12, 12) if grey else (12, 12, 3)
    arrays = {}
    for split, count in zip(("train", "val", "test"), counts, strict=True):
        pixels = draws.integers(0, 256, (count, *shape), dtype=np.uint8)
        arrays[f"{split}_images"] = pixels
        arrays[f"{split}_labels"] = np.arange(count, dtype=np.uint8).reshape(-1, 1) % 3
    return arrays


def _archive(folder: Path, **arrays: Any) -> Path:
    path = folder / "set.npz"
    np.savez_compressed(path, **arrays)
    return path


@pytest.mark.parametrize("cached", [False, True])
def test_rows_run_through_train_validation_and_unseen(
    tmp_path: Path, cached: bool
) -> None:
    arrays = _arrays()
    cache_dir = tmp_path / "cache" if cached else None

    source = MedmnistSource(_archive(tmp_path, **arrays), cache_dir=cache_dir)

    everything = np.concatenate(
        [arrays[f"{k}_images"] for k in ("train", "val", "test")]
    )
    for row, pixels in enumerate(everything):
        assert np.array_equal(source.read(row).pixels, pixels)
    assert source.index.rows(TRAIN).tolist() == [0, 1, 2, 3]
    assert source.index.rows(VALIDATION).tolist() == [4, 5]
    assert source.index.rows(UNSEEN).tolist() == [6, 7, 8]
    assert source.index.labels.tolist() == [0, 1, 2, 0, 0, 1, 0, 1, 2]
    assert source.class_names == ("0", "1", "2")


def test_grey_images_become_rgb(tmp_path: Path) -> None:
    arrays = _arrays(grey=True)

    source = MedmnistSource(_archive(tmp_path, **arrays))

    pixels = source.read(0).pixels
    assert pixels.shape == (12, 12, 3)
    assert np.array_equal(pixels[..., 2], arrays["train_images"][0])


def test_an_archive_may_hold_training_patches_alone(tmp_path: Path) -> None:
    arrays = _arrays()
    train = {key: arrays[key] for key in ("train_images", "train_labels")}

    source = MedmnistSource(_archive(tmp_path, **train))

    assert len(source.index) == 4


def test_nine_classes_are_not_taken_for_the_colon_set(tmp_path: Path) -> None:
    arrays = _arrays((9, 1, 1))
    arrays["train_labels"] = np.arange(9, dtype=np.uint8)

    path = _archive(tmp_path, **arrays)

    assert MedmnistSource(path).class_names == tuple("012345678")
    named = MedmnistSource(path, class_names=KNOWN_CLASS_NAMES["pathmnist"])
    assert named.class_names[8] == "TUM"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_labels": np.zeros((4, 2), np.uint8)}, "expected one each"),
        ({"train_labels": np.zeros((3, 1), np.uint8)}, "expected one each"),
        ({"train_labels": np.zeros((4, 1), np.float32)}, "are no class indices"),
        ({"train_labels": np.full((4, 1), -1)}, "are no class indices"),
        ({"train_labels": np.array([0, 1, 2, None])}, "holds Python objects"),
        ({"train_images": np.zeros((4, 12, 12, 3), np.float32)}, "expected 8-bit RGB"),
        ({"train_images": np.zeros((4, 9, 9, 9), np.uint8)}, "expected 8-bit RGB"),
        ({"train_images": np.zeros((4, 2, 2, 3), np.uint8)}, "2x2 px"),
    ],
)
def test_an_array_that_breaks_the_layout_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = _archive(tmp_path, **{**_arrays(), **change})

    with pytest.raises(DataError, match=message):
        MedmnistSource(path)


def test_missing_names_arrays_and_archives_are_refused(tmp_path: Path) -> None:
    arrays = _arrays()
    with pytest.raises(DataError, match="label 2 has no name among 2"):
        MedmnistSource(_archive(tmp_path, **arrays), class_names=("a", "b"))

    del arrays["val_labels"]
    with pytest.raises(DataError, match="the archive has no val_labels"):
        MedmnistSource(_archive(tmp_path, **arrays))

    (tmp_path / "set.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match="cannot read"):
        MedmnistSource(tmp_path / "set.npz")


def test_pixels_beyond_the_memory_limit_want_a_cache(tmp_path: Path) -> None:
    path = _archive(tmp_path, **_arrays())

    with pytest.raises(DataError, match="set cache_dir"):
        MedmnistSource(path, memory_limit_bytes=2000)
    cached = MedmnistSource(path, memory_limit_bytes=2000, cache_dir=tmp_path / "cache")

    assert len(cached.index) == 9


def test_a_cached_archive_is_unpacked_once(tmp_path: Path) -> None:
    path = _archive(tmp_path, **_arrays())
    MedmnistSource(path, cache_dir=tmp_path / "cache")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir()}

    MedmnistSource(path, cache_dir=tmp_path / "cache")

    after = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir()}
    assert after == before
    assert len(after) == 3


def test_a_copy_for_another_process_carries_no_pixels(tmp_path: Path) -> None:
    source = MedmnistSource(_archive(tmp_path, **_arrays((50, 1, 1))))

    carried = pickle.dumps(source)

    assert len(carried) < 1000
    copy = pickle.loads(carried)
    assert np.array_equal(copy.read(7).pixels, source.read(7).pixels)


def test_the_shared_colon_set_opens() -> None:
    path = shared_data("pathmnist_subset.npz")

    source = MedmnistSource(path, class_names=KNOWN_CLASS_NAMES["pathmnist"])

    assert [len(source.index.rows(s)) for s in (TRAIN, VALIDATION, UNSEEN)] == [
        800,
        200,
        359,
    ]
    assert source.read(0).pixels.shape == (28, 28, 3)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_archive_with_any_byte_flipped_opens_or_is_one_sentence(
    tmp_path: Path, save: Callable[..., None], cached: bool
) -> None:
    path = tmp_path / "set.npz"
    pixels = np.zeros((1, 8, 8), np.uint8)
    save(path, train_images=pixels, train_labels=np.zeros(1, np.uint8))
    whole = path.read_bytes()
    faults = []

    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            MedmnistSource(path, cache_dir=tmp_path / "cache" if cached else None)
        except DataError as error:
            faults.append(str(error))

    assert len(faults) > len(whole) / 3
    assert not any("\n" in fault for fault in faults)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "has no train_images.npy, only nothing"),
        ({"x_train": np.zeros(3)}, "has no train_images.npy, only x_train.npy"),
        ({"train_images": np.zeros((1, 8, 8), np.uint8)}, "has no train_labels.npy"),
        (
            {
                "train_images": np.zeros((0, 8, 8, 3), np.uint8),
                "train_labels": np.zeros(0, np.uint8),
            },
            "holds no patches",
        ),
        ({"train_images": np.array([{}])}, "holds Python objects (pickles)"),
        (
            {**_arrays(), "val_images": np.array(["a"], object)},
            "holds Python objects (pickles)",
        ),
    ],
)
def test_an_archive_of_something_else_is_one_sentence(
    tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError) as caught:
        MedmnistSource(_archive(tmp_path, **arrays))

    assert message in str(caught.value)


@pytest.mark.parametrize(
    "data", [b"", b"PK\x05\x06" + bytes(18), b"\x93NUMPY", b"path,label\n"]
)
def test_a_file_that_is_no_archive_is_one_sentence(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "set.npz").write_bytes(data)

    with pytest.raises(DataError, match=r"set\.npz|no train_images"):
        MedmnistSource(tmp_path / "set.npz")


def test_an_array_of_no_split_is_passed_over_and_named(tmp_path: Path) -> None:
    source = MedmnistSource(_archive(tmp_path, **_arrays(), patients=np.arange(9)))

    (each,) = source.index.passed_over
    assert (each.kind, each.names) == ("member", ("patients.npy",))
