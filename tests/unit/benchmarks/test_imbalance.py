from collections import Counter

import numpy as np
import pytest

from benchmarks.imbalance import COLUMNS, COMMON, RARE, RARE_CLASSES, imbalanced, table
from moma_core.data.patch import Patch, PatchIndex


class Even:
    """Nine classes of 70 training patches, in turns."""

    class_names = tuple("abcdefghi")
    index = PatchIndex(
        (np.arange(630) % 9).astype(np.int16),
        np.zeros(630, np.uint8),
        np.full(630, -1, np.int32),
    )

    def read(self, row: int) -> Patch:
        raise NotImplementedError


@pytest.mark.parametrize("seed", [0, 1])
def test_a_seed_makes_four_classes_ten_times_as_rare(seed: int) -> None:
    rows, rare = imbalanced(Even(), seed)

    sizes = Counter(Even.index.labels[rows].tolist())
    assert len(rare) == RARE_CLASSES
    assert COMMON == 10 * RARE
    assert sizes == {label: RARE if label in rare else COMMON for label in range(9)}


def test_the_table_has_mean_and_deviation_of_each_way() -> None:
    lines = [
        dict.fromkeys(COLUMNS, value) | {"balance": balance}
        for balance in ("none", "weights", "sampler")
        for value in ("0.5", "0.7")
    ]

    rows = table(lines).splitlines()

    assert len(rows) == 5
    assert rows[2].startswith("| none | 0.600 ± 0.141 |")
