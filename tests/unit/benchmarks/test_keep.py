import numpy as np
import pytest

from benchmarks.keep import COLUMNS, RULES, Rule, judged, table
from moma_core.training.best import BestStudent
from tests.support.site.tiny import ConvEncoder

CURVE = (0.2, 0.6, 0.5, 0.6, 0.4, 0.7)


@pytest.mark.parametrize(
    ("rule", "chosen"),
    [
        (Rule("last", 0), (5, 6)),
        (Rule("best", 0), (5, 6)),
        (Rule("last", 3), (4, 5)),
        (Rule("best", 3), (1, 5)),
        (Rule("best", 9), (5, 6)),
    ],
)
def test_a_rule_chooses_as_training_does(rule: Rule, chosen: tuple[int, int]) -> None:
    assert rule.choose(CURVE) == chosen


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("patience", [0, 2, 4])
def test_the_best_epoch_is_that_of_the_training_loop(seed: int, patience: int) -> None:
    figures = np.random.default_rng(seed).integers(0, 6, 20) / 6  # with ties
    best, student, epoch = BestStudent(), ConvEncoder(), 0
    for epoch, figure in enumerate(figures.tolist(), start=1):
        best.note(figure, student, epoch)
        if patience and best.waited == patience:
            break

    assert Rule("best", patience).choose(figures.tolist()) == (best.step - 1, epoch)


def test_no_half_judges_its_own_choice() -> None:
    line = {"first_half": "0.9 0.1", "second_half": "0.2 0.4"}

    fair, chose, epochs = judged(line, Rule("best", 0))

    assert fair == pytest.approx((0.2 + 0.1) / 2)
    assert chose == pytest.approx((0.9 + 0.4) / 2)
    assert epochs == 2


def test_the_table_has_each_rule_beside_the_last_epoch() -> None:
    lines = [
        dict.fromkeys(COLUMNS, "1")
        | {"method": "ce", "first_half": first, "second_half": "0.2 0.4"}
        for first in ("0.9 0.1", "0.7 0.1")
    ]

    rows = table(lines).splitlines()

    assert len(rows) == 2 + len(RULES)
    assert rows[2].startswith("| ce | last | 0 | 0.250 ± 0.000 | +0.000 ± 0.000 |")
    assert rows[3].startswith("| ce | best | 0 | 0.150 ± 0.000 | -0.100 ± 0.000 |")
