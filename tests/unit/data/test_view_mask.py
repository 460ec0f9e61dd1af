from pathlib import Path

import numpy as np
import pytest

from moma_core.data.augment.recipe import ViewRecipe
from moma_core.data.augment.views import render_view, view_seed
from moma_core.data.loader import view_batches
from moma_core.data.patch import NO_LABEL
from moma_core.data.sampler import BatchPlan, BatchSettings
from moma_core.data.sources.demo_tissue import EmbeddedSource
from moma_core.data.view_mask import ViewMask
from moma_core.errors import DataError

SETTINGS = BatchSettings(
    batch_size=8,
    labelled_share=0.25,
    seed=3,
    recipe=ViewRecipe.tissue(),
    view_size_px=16,
    views=4,
)


def _mask(*masks: int) -> ViewMask:
    return ViewMask(np.array(masks, np.uint64))


def test_a_full_row_shows_its_views_in_turn_and_a_poor_one_what_it_has() -> None:
    mask = _mask(0b1111, 0b1010, 1 << 63)

    shown = [[mask.number(row, drawn) for drawn in range(6)] for row in range(3)]

    assert shown == [[0, 1, 2, 3, 0, 1], [1, 3, 1, 3, 1, 3], [63] * 6]


def test_rows_with_a_usable_view_and_rows_that_miss_one_are_named() -> None:
    mask, rows = _mask(0b01, 0, 0b10, 0b11), np.array([3, 2, 1, 0])

    assert mask.usable(rows).tolist() == [3, 2, 0]
    assert mask.missing(rows, 0).tolist() == [2, 1]
    assert mask.missing(rows, 1).tolist() == [1, 0]


def test_a_mask_comes_back_from_its_file_and_a_damaged_one_is_refused(
    tmp_path: Path,
) -> None:
    path = tmp_path / "mask.npy"
    _mask(1, 2).save(path)
    found, whole = ViewMask.load(path).masks.tolist(), path.read_bytes()

    assert found == [1, 2]
    for damaged in (whole[:40], whole.replace(b"}", b"|")):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="cannot read the mask of views"):
            ViewMask.load(path)
    np.save(path, np.zeros(3))
    with pytest.raises(DataError, match="is no mask of views"):
        ViewMask.load(path)


@pytest.mark.parametrize(("labelled", "unlabelled"), [(5, 40), (30, 0), (40, 9)])
def test_a_plan_knows_how_often_it_draws_a_row(labelled: int, unlabelled: int) -> None:
    plan = BatchPlan(
        labelled_rows=np.arange(labelled),
        unlabelled_rows=1000 + np.arange(unlabelled),
        settings=SETTINGS,
    )

    for steps in (0, 1, 7, 2 * plan.steps_per_epoch, 30):
        rows = [row for step in range(steps) for row in plan.rows(step)]
        drawn = [
            max((r.drawn_before + 1 for r in rows if (r.row < 1000) == kind), default=0)
            for kind in (True, False)
        ]
        assert plan.passes(steps) == tuple(drawn)
    assert [plan.size(step) for step in range(30)] == [
        len(plan.rows(step)) for step in range(30)
    ]


@pytest.mark.parametrize("workers", [0, 1])
def test_chosen_views_are_those_of_the_training_run(workers: int) -> None:
    source = EmbeddedSource("site-a")
    groups = [np.array([[4, 0], [9, 3]]), np.array([[7, 1]])]
    settings = SETTINGS if not workers else _with_workers(workers)

    batches = list(view_batches(source, groups, settings))

    assert [batch.step for batch in batches] == [0, 1]
    for batch, group in zip(batches, groups, strict=True):
        assert batch.rows.tolist() == group[:, 0].tolist()
        assert batch.view_numbers.tolist() == group[:, 1].tolist()
        assert (batch.labels == NO_LABEL).all()
        for view, (row, number) in zip(batch.views, group.tolist(), strict=True):
            pixels, seed = source.read(row).pixels, view_seed(3, row, number)
            assert view.equal(render_view(pixels, seed, SETTINGS.recipe, 16))


def _with_workers(workers: int) -> BatchSettings:
    return BatchSettings(
        batch_size=8,
        labelled_share=0.25,
        seed=3,
        recipe=ViewRecipe.tissue(),
        view_size_px=16,
        views=4,
        workers=workers,
    )
