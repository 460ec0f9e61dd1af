from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moma_core.data.augment.recipe import ViewRecipe
from moma_core.data.sampler import BatchPlan, BatchSettings
from moma_core.errors import DataError


def _plan(
    labelled: int,
    unlabelled: int,
    *,
    batch_size: int = 8,
    share: float = 0.25,
    steps: int | None = None,
    world_size: int = 1,
) -> BatchPlan:
    return BatchPlan(
        labelled_rows=np.arange(labelled),
        unlabelled_rows=1000 + np.arange(unlabelled),
        settings=BatchSettings(
            batch_size=batch_size,
            labelled_share=share,
            seed=3,
            recipe=ViewRecipe.tissue(),
            view_size_px=16,
            steps_per_epoch=steps,
            world_size=world_size,
        ),
    )


@given(st.integers(2, 90), st.integers(2, 9), st.integers(0, 3))
def test_without_unlabelled_rows_an_epoch_sees_every_row_once(
    labelled: int, batch_size: int, epoch: int
) -> None:
    plan = _plan(labelled, 0, batch_size=batch_size)

    start = epoch * plan.steps_per_epoch
    batches = [plan.rows(start + step) for step in range(plan.steps_per_epoch)]

    seen = [planned.row for batch in batches for planned in batch]
    dropped = 1 if labelled % batch_size == 1 else 0
    assert len(seen) == len(set(seen)) == labelled - dropped
    assert min(map(len, batches)) >= 2
    assert all(planned.labelled for batch in batches for planned in batch)
    assert {p.drawn_before for batch in batches for p in batch} == {epoch}


@given(st.integers(1, 40), st.integers(1, 90), st.integers(2, 12), st.floats(0, 1))
def test_an_epoch_is_one_pass_over_the_unlabelled_rows(
    labelled: int, unlabelled: int, batch_size: int, share: float
) -> None:
    plan = _plan(labelled, unlabelled, batch_size=batch_size, share=share)

    batches = [plan.rows(step) for step in range(plan.steps_per_epoch)]

    seen = sorted(p.row for batch in batches for p in batch if not p.labelled)
    assert seen == [1000 + row for row in range(unlabelled)]
    counts = {sum(p.labelled for p in batch) for batch in batches}
    wanted = max(share, labelled / (labelled + unlabelled)) * batch_size
    assert counts == {min(max(1, round(wanted)), batch_size - 1)}


def test_the_labelled_stream_goes_on_over_epochs_and_is_fair() -> None:
    plan = _plan(5, 12, batch_size=8, share=0.5)

    batches = [plan.rows(step) for step in range(2 * plan.steps_per_epoch)]
    drawn = [(p.row, p.drawn_before) for batch in batches for p in batch if p.labelled]

    assert len(drawn) == len(set(drawn)) == 24
    assert set(Counter(row for row, _ in drawn).values()) == {4, 5}


def test_an_override_makes_full_batches_of_an_endless_stream() -> None:
    plan = _plan(3, 10, batch_size=8, share=0.25, steps=7)

    batches = [plan.rows(step) for step in range(14)]

    assert plan.steps_per_epoch == 7
    assert {len(batch) for batch in batches} == {8}
    unlabelled = Counter(p.row for batch in batches for p in batch if not p.labelled)
    assert set(unlabelled.values()) == {8, 9}


def test_a_shuffle_differs_from_epoch_to_epoch() -> None:
    plan = _plan(32, 0)

    first = [p.row for step in range(4) for p in plan.rows(step)]
    second = [p.row for step in range(4, 8) for p in plan.rows(step)]

    assert first != second
    assert sorted(first) == sorted(second)


def test_a_step_does_not_depend_on_the_steps_before() -> None:
    used, fresh = _plan(7, 50), _plan(7, 50)
    for step in range(30):
        used.rows(step)

    assert used.rows(20) == fresh.rows(20)


def test_every_ranks_share_holds_both_kinds() -> None:
    plan = _plan(10, 60, batch_size=16, share=0.25, world_size=4)

    batch = plan.rows(0)

    for rank in range(4):
        assert sum(p.labelled for p in batch[4 * rank : 4 * rank + 4]) == 1


def test_a_last_batch_that_leaves_a_rank_one_row_is_dropped() -> None:
    assert _plan(19, 0, batch_size=8, world_size=2).steps_per_epoch == 2
    assert _plan(20, 0, batch_size=8, world_size=2).steps_per_epoch == 3


def test_without_labelled_rows_all_rows_are_unlabelled() -> None:
    plan = _plan(0, 20)

    assert not any(p.labelled for step in range(3) for p in plan.rows(step))


@pytest.mark.parametrize(("labelled", "steps"), [(0, None), (0, 5), (1, None)])
def test_too_few_rows_are_refused(labelled: int, steps: int | None) -> None:
    with pytest.raises(DataError, match=f"{labelled} patches are too few"):
        _plan(labelled, 0, steps=steps)
