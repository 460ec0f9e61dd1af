from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from moma_core.data.augment.recipe import ViewRecipe
from moma_core.data.augment.views import plain_view, render_view, view_seed
from moma_core.data.batch import Batch
from moma_core.data.loader import BatchSettings, TrainingBatches, evaluation_batches
from moma_core.data.patch import NO_LABEL, PatchSource
from moma_core.data.sources.csv_manifest import open_csv_manifest
from moma_core.data.sources.fault_tolerant import TolerantSource
from moma_core.data.splits import ReindexedSource
from moma_core.errors import DataError
from tests.support.machine.pictures import noise, write_picture

_LABELLED, _UNLABELLED = np.arange(5), np.arange(5, 19)
_SETTINGS = BatchSettings(
    batch_size=6,
    labelled_share=0.34,
    seed=11,
    recipe=ViewRecipe.tissue(),
    view_size_px=16,
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> PatchSource:
    """Nineteen rows of noise, row r from seed r; the last has a file that is empty."""
    folder = tmp_path_factory.mktemp("patches")
    lines = ["path,label,split"]
    for row in range(20):
        write_picture(folder / f"{row}.png", seed=row)
        lines.append(f"{row}.png,{'abc'[row % 3]},train")
    (folder / "19.png").write_bytes(b"")
    (folder / "manifest.csv").write_text("\n".join(lines))
    return open_csv_manifest(folder / "manifest.csv")


def _batches(source: PatchSource, **changes: Any) -> TrainingBatches:
    return TrainingBatches(
        source,
        labelled_rows=_LABELLED,
        unlabelled_rows=_UNLABELLED,
        settings=replace(_SETTINGS, **changes),
    )


def _assert_equal(first: list[Batch], second: list[Batch]) -> None:
    for one, other in zip(first, second, strict=True):
        assert one.step == other.step
        assert torch.equal(one.views, other.views)
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)


def test_a_batch_has_views_images_and_labels(source: PatchSource) -> None:
    batches = list(_batches(source).epoch(0))

    assert len(batches) == 4
    for batch in batches[:3]:
        assert batch.views.shape == batch.images.shape == (6, 3, 16, 16)
        assert batch.views.dtype == batch.images.dtype == torch.uint8
        assert batch.labels.dtype == torch.int64
        assert int((batch.labels != NO_LABEL).sum()) == 2
    assert len(batches[3].views) == 4


def test_steps_are_counted_over_epochs(source: PatchSource) -> None:
    training = _batches(source)

    steps = [batch.step for epoch in range(2) for batch in training.epoch(epoch)]

    assert steps == list(range(8))


def test_a_view_comes_again_from_its_seed(source: PatchSource) -> None:
    training = TrainingBatches(
        source,
        labelled_rows=np.array([4, 9]),
        unlabelled_rows=np.array([], dtype=np.int64),
        settings=replace(_SETTINGS, batch_size=2),
    )

    (batch,) = training.epoch(3)

    replayed = {
        render_view(noise(row), view_seed(11, row, 3), ViewRecipe.tissue(), 16)
        .numpy()
        .tobytes()
        for row in (4, 9)
    }
    assert {view.numpy().tobytes() for view in batch.views} == replayed


def test_with_two_views_a_patch_shows_no_third_one(source: PatchSource) -> None:
    batches = _batches(source, views=2)

    shown: dict[tuple[int, int], list[Tensor]] = {}
    for batch in (batch for epoch in range(4) for batch in batches.epoch(epoch)):
        for place, view in enumerate(batch.views):
            key = (int(batch.rows[place]), int(batch.view_numbers[place]))
            shown.setdefault(key, []).append(view)

    assert {number for _, number in shown} == {0, 1}
    assert max(len(views) for views in shown.values()) > 1
    for views in shown.values():
        assert all(torch.equal(view, views[0]) for view in views)


def test_without_photometric_jitter_images_are_the_views(source: PatchSource) -> None:
    batch = next(_batches(source, recipe=ViewRecipe.geometry_only()).epoch(0))

    assert batch.images is batch.views


def test_with_photometric_jitter_images_differ_from_the_views(
    source: PatchSource,
) -> None:
    batch = next(_batches(source).epoch(0))

    assert not torch.equal(batch.images, batch.views)


def test_a_resumed_epoch_equals_the_rest_of_an_uninterrupted_one(
    source: PatchSource,
) -> None:
    whole = [*_batches(source).epoch(0), *_batches(source).epoch(1)]

    resumed = list(_batches(source).epoch(1, first_step_in_epoch=2))

    _assert_equal(resumed, whole[6:])


def test_a_loading_process_makes_the_same_batches(source: PatchSource) -> None:
    here = [*_batches(source).epoch(0), *_batches(source).epoch(1, 2)]
    there = _batches(source, workers=1)

    _assert_equal([*there.epoch(0), *there.epoch(1, 2)], here)


def test_an_epoch_left_early_does_not_disturb_the_next(source: PatchSource) -> None:
    training = _batches(source)
    next(training.epoch(0))

    _assert_equal(list(training.epoch(1)), list(_batches(source).epoch(1)))


def test_loading_draws_nothing_from_the_global_generator(source: PatchSource) -> None:
    before = torch.get_rng_state()

    list(_batches(source).epoch(0))

    assert torch.equal(before, torch.get_rng_state())


def test_ranks_take_parts_of_the_same_batch(source: PatchSource) -> None:
    whole = list(_batches(source).epoch(0))

    parts = [list(_batches(source, rank=r, world_size=2).epoch(0)) for r in (0, 1)]

    for one, first, second in zip(whole, *parts, strict=True):
        assert torch.equal(one.views, torch.cat([first.views, second.views]))
        assert torch.equal(one.labels, torch.cat([first.labels, second.labels]))


def test_an_unlabelled_row_hides_the_label_that_the_index_has(
    source: PatchSource,
) -> None:
    labels = torch.cat([batch.labels for batch in _batches(source).epoch(0)])

    assert int((labels == NO_LABEL).sum()) == len(_UNLABELLED)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_patch_is_one_sentence_from_any_process(
    source: PatchSource, workers: int
) -> None:
    training = TrainingBatches(
        source,
        labelled_rows=np.array([0, 19]),
        unlabelled_rows=np.array([], dtype=np.int64),
        settings=replace(_SETTINGS, workers=workers),
    )

    with pytest.raises(DataError) as caught:
        list(training.epoch(0))

    assert str(caught.value) == "a file is no image of a known format"


def test_a_labelled_row_without_a_label_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path,label,split\n1.png,a,train\n2.png,,train\n")

    with pytest.raises(DataError, match="some labelled rows have no label"):
        TrainingBatches(
            open_csv_manifest(tmp_path / "m.csv"),
            labelled_rows=np.array([0, 1]),
            unlabelled_rows=np.array([], dtype=np.int64),
            settings=_SETTINGS,
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 1}, "under 2 rows"),
        ({"batch_size": 4, "world_size": 3}, "under 2 rows"),
        ({"rank": 1}, "rank 1 is not in"),
        ({"labelled_share": 1.1}, "labelled_share must be"),
        ({"steps_per_epoch": 0}, "steps_per_epoch must be"),
        ({"seed": -1}, "seed, workers and views"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(_SETTINGS, **changes)


def test_an_epoch_that_cannot_be_is_refused(source: PatchSource) -> None:
    with pytest.raises(ValueError, match="no step 5 in epoch 0"):
        list(_batches(source).epoch(0, first_step_in_epoch=5))


def test_evaluation_sees_every_row_once_and_plain(source: PatchSource) -> None:
    rows = np.array([3, 1, 18, 7, 0])

    batches = list(evaluation_batches(source, rows, view_size_px=16, batch_size=2))

    assert [len(views) for views, _ in batches] == [2, 2, 1]
    views = torch.cat([views for views, _ in batches])
    expected = torch.stack([plain_view(noise(row), 16) for row in rows.tolist()])
    assert torch.equal(views, expected)
    assert torch.cat([labels for _, labels in batches]).tolist() == [0, 1, 0, 1, 0]


@pytest.mark.parametrize("rows", [[1, 19, 4], [19]])
def test_evaluation_leaves_out_what_another_patch_would_stand_in_for(
    source: PatchSource, rows: list[int]
) -> None:
    tolerant = TolerantSource(source, max_unreadable=1)
    all_labels = ReindexedSource(tolerant, tolerant.index)

    batches = evaluation_batches(
        all_labels, np.array(rows), view_size_px=16, batch_size=1
    )

    shown = [view for views, _ in batches for view in views]
    expected = [plain_view(noise(row), 16) for row in rows if row != 19]
    assert len(shown) == len(expected)
    assert all(map(torch.equal, shown, expected))
