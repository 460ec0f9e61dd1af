"""The arithmetic of a round: by hand, by property, by reference, by attack."""

import numpy as np
import pytest
from flwr.app import ArrayRecord, RecordDict
from flwr.serverapp.strategy.fedtrimmedavg import trim_mean
from flwr.serverapp.strategy.multikrum import select_multikrum
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from moma_core.errors import UpdateRejectedError
from moma_core.federation.aggregation import (
    FEWEST_SITES,
    Aggregation,
    aggregate,
    movements,
)
from moma_core.federation.weights import weights_from_bytes, weights_to_bytes

Arrays = dict[str, NDArray[np.float32]]
_VALUES = st.floats(-1e6, 1e6, width=32)
_UPDATES = st.lists(
    st.tuples(hnp.arrays(np.float32, (2, 3), elements=_VALUES), st.integers(1, 1000)),
    min_size=1,
    max_size=6,
)
RULES: tuple[Aggregation, ...] = tuple(FEWEST_SITES)
ROBUST: tuple[Aggregation, ...] = tuple(rule for rule in RULES if rule != "mean")


def combine(
    rule: Aggregation,
    *updates: tuple[Arrays, int],
    start: Arrays | None = None,
    max_patches: int = 10**9,
) -> Arrays:
    arrays, patches = [u for u, _ in updates], [p for _, p in updates]
    return aggregate(rule, arrays, patches, start=start, max_patches=max_patches)


def one(*values: float) -> Arrays:
    return {"w": np.array(values, np.float32)}


def test_in_a_mean_a_site_counts_by_its_patches() -> None:
    mean = combine("mean", (one(1.0), 10), (one(4.0), 20))

    assert mean["w"] == pytest.approx([3.0])


@given(_UPDATES)
def test_the_mean_equals_numpys(
    updates: list[tuple[NDArray[np.float32], int]],
) -> None:
    mean = combine("mean", *(({"w": array}, patches) for array, patches in updates))

    expected = np.average(
        [array.astype(np.float64) for array, _ in updates],
        axis=0,
        weights=[patches for _, patches in updates],
    )
    np.testing.assert_allclose(mean["w"], expected, rtol=1e-6, atol=1e-6)
    assert mean["w"].dtype == np.float32


@pytest.mark.parametrize("rule", ["mean", "clipped_mean"])
@given(
    array=hnp.arrays(np.float32, (4,), elements=_VALUES),
    start=hnp.arrays(np.float32, (4,), elements=_VALUES),
    patches=st.integers(1, 10**9),
)
def test_of_one_site_its_update_comes_through_bit_for_bit(
    rule: Aggregation,
    array: NDArray[np.float32],
    start: NDArray[np.float32],
    patches: int,
) -> None:
    mean = combine(rule, ({"w": array}, patches), start={"w": start})

    np.testing.assert_array_equal(mean["w"], array)


def test_no_site_weighs_more_than_the_cap_of_a_mean() -> None:
    mean = combine("mean", (one(0.0), 100), (one(1.0), 10**9), max_patches=100)

    assert mean["w"] == pytest.approx([0.5])


def test_by_default_no_site_weighs_more_than_the_median_site() -> None:
    honest = [(one(1.0), 900), (one(2.0), 1000), (one(3.0), 5000)]

    alone = combine("clipped_mean", *honest, start=one(0.0))
    claims = combine("clipped_mean", *honest, (one(2.0), 10**12), start=one(0.0))

    # 900, 1000, 1000 of 2900; nobody moves more than the 2.0 of the median site
    assert alone["w"] == pytest.approx([(0.9 * 1 + 2 + 2) / 2.9])
    assert claims["w"] == pytest.approx([(0.9 * 1 + 2 + 2 + 2) / 3.9])


_SITE = hnp.arrays(np.float32, (5,), elements=st.floats(-1, 1, width=32))
_HOSTILE = hnp.arrays(np.float32, (5,), elements=st.floats(-1e9, 1e9, width=32))
_CLAIM = st.integers(1, 10**12)
_STILL = {"w": np.zeros(5, np.float32)}


@given(_SITE, st.integers(2, 6), _HOSTILE, _CLAIM)
def test_one_hostile_site_moves_the_default_by_its_share_of_a_movement(
    array: NDArray[np.float32], sites: int, hostile: NDArray[np.float32], claimed: int
) -> None:
    honest = [({"w": array}, 1000)] * sites

    attacked = combine("clipped_mean", *honest, ({"w": hostile}, claimed), start=_STILL)

    share = min(claimed, 1000) / (1000 * sites + min(claimed, 1000))
    moved = np.linalg.norm(attacked["w"] - (1 - share) * array)
    assert moved <= share * np.linalg.norm(array) + 1e-5


@given(st.lists(_SITE, min_size=2, max_size=6), _HOSTILE, _CLAIM)
def test_no_hostile_site_moves_the_default_further_than_an_honest_one_did(
    honest: list[NDArray[np.float32]], hostile: NDArray[np.float32], claimed: int
) -> None:
    updates = [({"w": array}, 1000) for array in honest]

    attacked = combine(
        "clipped_mean", *updates, ({"w": hostile}, claimed), start=_STILL
    )

    furthest = max(float(np.linalg.norm(array)) for array in honest)
    assert np.linalg.norm(attacked["w"]) <= furthest + 1e-5


@pytest.mark.parametrize("rule", ROBUST)
@pytest.mark.parametrize("has_start", [True, False])
@pytest.mark.parametrize("value", [1e9, -1e9, 3.4e38, 1e4])
def test_one_of_five_does_not_carry_the_round_away(
    rule: Aggregation, has_start: bool, value: float
) -> None:
    random = np.random.default_rng(7)
    honest = [one(*(1 + 0.1 * random.normal(size=20))) for _ in range(4)]
    poisoned = one(*([value] * 20))
    start = one(*([0.0] * 20)) if has_start else None

    with np.errstate(over="raise", invalid="raise"):
        student = combine(
            rule, *((h, 1000) for h in honest), (poisoned, 10**12), start=start
        )

    # an honest round gives 1.0; a poisoned one its share of one movement at most
    assert np.abs(student["w"] - 1.0).max() < 0.6


def test_a_movement_in_one_tensor_is_bounded_by_that_tensors() -> None:
    small, large = np.full(3, 1e-3, np.float32), np.full(1000, 1.0, np.float32)
    honest = [({"bn.running_var": small, "w": large}, 10)] * 3
    hostile = {"bn.running_var": np.full(3, 10.0, np.float32), "w": 0 * large}
    start = {"bn.running_var": 0 * small, "w": 0 * large}

    student = combine("clipped_mean", *honest, (hostile, 10), start=start)

    assert student["bn.running_var"].max() < 2e-3


def test_of_step_counts_the_lower_median_is_kept() -> None:
    def counted(steps: int) -> dict[str, NDArray[np.int64]]:
        return {"num_batches_tracked": np.array(steps, np.int64)}

    for rule in ("clipped_mean", "mean"):
        student = aggregate(
            rule,  # type: ignore[arg-type]
            [counted(7), counted(2**40), counted(5), counted(6)],
            [10] * 4,
            start=None,
            max_patches=100,
        )
        assert student["num_batches_tracked"] == 6


@pytest.mark.parametrize("rule", RULES)
def test_a_student_keeps_its_types_and_can_travel(rule: Aggregation) -> None:
    update = {
        "running_mean": np.array([1.0], np.float32),
        "half": np.array([[2.0]], np.float16),
        "scale": np.array(3.0, np.float64),
        "num_batches_tracked": np.array(7, np.int64),
    }

    student = aggregate(rule, [update] * 3, [1] * 3, start=None, max_patches=1)

    assert all(type(array) is np.ndarray for array in student.values())
    back = weights_from_bytes(weights_to_bytes(student), max_bytes=10**6)
    for name, array in update.items():
        assert (back[name].dtype, back[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(back[name], array)


@given(
    st.lists(hnp.arrays(np.float32, (4,), elements=_VALUES), min_size=5, max_size=11)
)
def test_median_and_trimmed_mean_are_the_engines(
    arrays: list[NDArray[np.float32]],
) -> None:
    updates = [({"w": array}, 1) for array in arrays]
    wide = np.stack(arrays).astype(np.float64)

    median = combine("median", *updates)["w"]
    trimmed = combine("trimmed_mean", *updates)["w"]

    np.testing.assert_allclose(median, np.median(wide, axis=0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(trimmed, trim_mean(wide, 0.2), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("sites", [3, 4, 5, 8, 11])
def test_krum_chooses_as_the_engine_does(sites: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    arrays = random.normal(size=(sites, 2, 6)).astype(np.float32)
    contents = [
        RecordDict({"arrays": ArrayRecord([a[0], a[1]], keep_input=True)})
        for a in arrays
    ]
    (chosen,) = select_multikrum(contents, (sites - 3) // 2, 1)
    index = next(i for i, content in enumerate(contents) if content is chosen)

    student = combine("krum", *(({"a": a[0], "b": a[1]}, 1) for a in arrays))

    np.testing.assert_array_equal(student["a"], arrays[index][0])


def test_of_few_sites_one_is_trimmed_at_each_end() -> None:
    updates = [(one(value), 1) for value in (0.0, 1.0, 2.0, 1e9)]

    assert combine("trimmed_mean", *updates)["w"] == pytest.approx([1.5])


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_says_when_it_has_too_few_sites(rule: Aggregation) -> None:
    with pytest.raises(UpdateRejectedError, match="updates were accepted"):
        combine(rule, *[(one(1.0), 1)] * (FEWEST_SITES[rule] - 1))


def test_movements_are_from_the_start_or_from_the_middle() -> None:
    updates = [one(0.0, 3.0), one(0.0, 4.0), one(0.0, 10.0)]

    assert movements(updates, one(0.0, 0.0)) == [3.0, 4.0, 10.0]
    assert movements(updates, None) == [1.0, 0.0, 6.0]
