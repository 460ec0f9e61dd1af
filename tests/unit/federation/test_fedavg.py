"""The arithmetic of federated averaging, by hand, by property, by reference."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from moma_core.errors import UpdateRejectedError
from moma_core.federation.fedavg import RunningAverage
from moma_core.federation.weights import weights_from_bytes, weights_to_bytes

Arrays = dict[str, NDArray[np.float32]]
_VALUES = st.floats(-1e6, 1e6, width=32)
_UPDATES = st.lists(
    st.tuples(hnp.arrays(np.float32, (2, 3), elements=_VALUES), st.integers(1, 1000)),
    min_size=1,
    max_size=6,
)


def average(*updates: tuple[Arrays, int], max_patches: int = 10**9) -> Arrays:
    running = RunningAverage(like=None, max_patches=max_patches)
    for update, patches in updates:
        running.add(update, patches)
    return running.result()


def one(value: float) -> Arrays:
    return {"w": np.array([value], np.float32)}


def test_a_site_counts_by_its_patches() -> None:
    mean = average((one(1.0), 10), (one(4.0), 20))

    assert mean["w"] == pytest.approx([3.0])


@given(_UPDATES)
def test_the_mean_equals_numpys(
    updates: list[tuple[NDArray[np.float32], int]],
) -> None:
    mean = average(*(({"w": array}, patches) for array, patches in updates))

    expected = np.average(
        [array.astype(np.float64) for array, _ in updates],
        axis=0,
        weights=[patches for _, patches in updates],
    )
    np.testing.assert_allclose(mean["w"], expected, rtol=1e-6, atol=1e-6)
    assert mean["w"].dtype == np.float32


@given(hnp.arrays(np.float32, (4,), elements=_VALUES), st.integers(1, 10**9))
def test_the_mean_of_one_site_is_its_update_bit_for_bit(
    array: NDArray[np.float32], patches: int
) -> None:
    mean = average(({"w": array}, patches))

    np.testing.assert_array_equal(mean["w"], array)


def test_no_site_weighs_more_than_the_cap() -> None:
    mean = average((one(0.0), 100), (one(1.0), 10**9), max_patches=100)

    assert mean["w"] == pytest.approx([0.5])


def test_batch_norm_statistics_are_averaged_and_its_count_is_the_largest() -> None:
    first = {
        "running_mean": np.array([1.0], np.float32),
        "num_batches_tracked": np.array(7, np.int64),
    }
    second = {
        "running_mean": np.array([3.0], np.float32),
        "num_batches_tracked": np.array(5, np.int64),
    }
    running = RunningAverage(like=None, max_patches=100)

    running.add(first, 10)
    running.add(second, 10)
    mean = running.result()

    assert mean["running_mean"] == pytest.approx([2.0])
    assert all(type(array) is np.ndarray for array in mean.values())
    assert (
        weights_from_bytes(weights_to_bytes(mean), max_bytes=10**6).keys()
        == mean.keys()
    )
    assert mean["num_batches_tracked"] == 7
    assert mean["num_batches_tracked"].dtype == np.int64
    assert mean["num_batches_tracked"].shape == ()


@pytest.mark.parametrize(
    ("update", "patches", "message"),
    [
        ({"v": np.zeros(1, np.float32)}, 1, "names"),
        ({"w": np.zeros(2, np.float32)}, 1, r"float32\[2\]"),
        ({"w": np.zeros(1, np.float64)}, 1, "float64"),
        ({"w": np.array([np.nan], np.float32)}, 1, "not finite"),
        ({"w": np.array([np.inf], np.float32)}, 1, "not finite"),
        ({"w": np.zeros(1, np.float32)}, 0, "weighs nothing"),
    ],
)
def test_an_update_that_does_not_fit_is_refused_and_leaves_no_trace(
    update: Arrays, patches: int, message: str
) -> None:
    running = RunningAverage(like=None, max_patches=100)
    running.add(one(1.0), 10)

    with pytest.raises(UpdateRejectedError, match=message):
        running.add(update, patches)

    assert running.result()["w"] == pytest.approx([1.0])


def test_every_update_must_look_like_the_global_model() -> None:
    running = RunningAverage(like=one(0.0), max_patches=100)

    with pytest.raises(UpdateRejectedError, match="names"):
        running.add({"other": np.zeros(1, np.float32)}, 1)


def test_an_average_of_nothing_is_refused() -> None:
    running = RunningAverage(like=one(0.0), max_patches=100)

    with pytest.raises(UpdateRejectedError, match="nothing to average"):
        running.result()
