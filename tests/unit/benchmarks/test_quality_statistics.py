import numpy as np
import pytest
from sklearn.metrics import f1_score

from benchmarks.quality.statistics import holm, mean_macro_f1, paired_difference

CLASSES = 4


def drawn(seed: int, count: int = 120) -> np.ndarray:
    return np.random.default_rng(seed).integers(CLASSES, size=count)


def partly_right(truth: np.ndarray, share: float, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.where(
        random.random(len(truth)) < share, truth, drawn(seed + 1000, len(truth))
    )


def test_macro_f1_is_that_of_scikit_learn() -> None:
    truth, said = drawn(0), np.stack([drawn(2), drawn(3)])

    found = mean_macro_f1(truth, said[:, None])

    expected = [f1_score(truth, one, average="macro") for one in said]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_class_that_nobody_names_does_not_count() -> None:
    truth = np.array([0, 0, 8])

    assert mean_macro_f1(truth, [truth[None]]) == pytest.approx([1.0])


def test_a_clear_difference_has_an_interval_without_zero() -> None:
    truth = drawn(0, 300)
    good = [partly_right(truth, 0.8, seed) for seed in range(5)]
    poor = [partly_right(truth, 0.4, 50 + seed) for seed in range(5)]

    found = paired_difference(truth, good, poor)

    assert 0 < found.low < found.mean < found.high
    assert found.p < 0.01


def test_the_same_predictions_differ_by_nothing() -> None:
    truth = drawn(0)
    same = [partly_right(truth, 0.6, seed) for seed in range(5)]

    found = paired_difference(truth, same, same)

    assert (found.mean, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_the_other_way_round_the_difference_has_the_other_sign() -> None:
    truth = drawn(0)
    one = [partly_right(truth, 0.7, seed) for seed in range(3)]
    other = [partly_right(truth, 0.5, 9 + seed) for seed in range(3)]

    forth, back = (
        paired_difference(truth, one, other),
        paired_difference(truth, other, one),
    )

    assert forth.mean == pytest.approx(-back.mean)
    assert forth.low == pytest.approx(-back.high)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    hits, repeats = 0, 40
    for repeat in range(repeats):
        truth = drawn(repeat, 80)
        one = [partly_right(truth, 0.6, 100 * repeat + s) for s in range(4)]
        other = [partly_right(truth, 0.6, 100 * repeat + 50 + s) for s in range(4)]
        found = paired_difference(truth, one, other)
        hits += found.low <= 0 <= found.high

    assert hits >= 0.85 * repeats


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_holm_never_leaves_the_range_of_a_probability() -> None:
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
