from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moma_core.data.augment.recipe import ViewRecipe
from moma_core.data.sampler import BatchPlan, BatchSettings, PlannedRow
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


def _balanced(sizes: list[int], unlabelled: int = 0) -> tuple[BatchPlan, list[int]]:
    labels = np.repeat(np.arange(len(sizes), dtype=np.int16), sizes)
    everything = np.concatenate([labels, np.full(unlabelled, -1, np.int16)])
    plan = BatchPlan(
        labelled_rows=np.arange(len(labels)),
        unlabelled_rows=len(labels) + np.arange(unlabelled),
        settings=BatchSettings(
            batch_size=8,
            labelled_share=0.25,
            seed=3,
            recipe=ViewRecipe.tissue(),
            view_size_px=16,
            balanced=True,
        ),
        labels=everything,
    )
    return plan, everything.tolist()


@given(
    st.lists(st.integers(1, 30), min_size=2, max_size=5),
    st.integers(0, 40),
    st.integers(1, 30),
)
def test_a_balanced_plan_draws_every_class_equally_often(
    sizes: list[int], unlabelled: int, steps: int
) -> None:
    if sum(sizes) < 8:
        sizes = [*sizes, 8]
    plan, labels = _balanced(sizes, unlabelled)

    planned = [row for step in range(steps) for row in plan.rows(step)]

    drawn = Counter(labels[p.row] for p in planned if p.labelled)
    assert max(drawn.values()) - min(drawn[c] for c in range(len(sizes))) <= 1
    for row in {p.row for p in planned}:
        often = [p.drawn_before for p in planned if p.row == row]
        assert sorted(often) == list(range(len(often)))
    labelled, others = plan.passes(steps)
    assert labelled - 1 <= _most(planned, labelled=True) <= labelled
    assert _most(planned, labelled=False) == others


def _most(planned: list[PlannedRow], *, labelled: bool) -> int:
    counts = Counter(p.row for p in planned if p.labelled == labelled)
    return max(counts.values(), default=0)


def test_a_balanced_plan_takes_as_many_steps_as_another() -> None:
    plan, _ = _balanced([30, 2])

    assert plan.steps_per_epoch == _plan(32, 0).steps_per_epoch
