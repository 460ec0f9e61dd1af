import numpy as np
import pytest

from benchmarks.quality.statistics import mean_macro_f1, paired_difference
from benchmarks.study.intervals import grouped_difference


def _said(truth: np.ndarray, share: float, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    other = random.integers(3, size=len(truth))
    return np.where(random.random(len(truth)) < share, truth, other)[None]


def test_where_each_image_is_a_group_it_is_the_images_bootstrap() -> None:
    truth = np.random.default_rng(0).integers(3, size=90)
    ours, theirs = (
        [_said(truth, share, 10 * place + seed) for seed in range(4)]
        for place, share in enumerate((0.8, 0.5))
    )

    found = grouped_difference(truth, ours, theirs, np.arange(90))
    known = paired_difference(truth, [o[0] for o in ours], [t[0] for t in theirs])

    assert found.mean == pytest.approx(known.mean)
    assert found.low == pytest.approx(known.low, abs=0.03)
    assert found.high == pytest.approx(known.high, abs=0.03)


def test_images_of_few_patients_say_less_than_as_many_of_many() -> None:
    truth = np.random.default_rng(0).integers(3, size=90)
    groups = np.arange(90) // 15  # six patients
    luck = np.random.default_rng(1).random(6) < 0.5  # some patients are easy

    ours = [np.where(luck[groups], truth, (truth + 1) % 3)[None]]
    theirs = [_said(truth, 0.5, 3)]

    few = grouped_difference(truth, ours, theirs, groups)
    many = grouped_difference(truth, ours, theirs, np.arange(90))
    assert few.high - few.low > 1.5 * (many.high - many.low)


def test_a_figure_of_several_evaluations_is_their_mean() -> None:
    truth = np.random.default_rng(0).integers(3, size=60)
    said = np.concatenate([_said(truth, 0.7, seed) for seed in range(3)])

    found = mean_macro_f1(truth, [said])

    each = mean_macro_f1(truth, said[:, None])
    assert found == pytest.approx([each.mean()])
