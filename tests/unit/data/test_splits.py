from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from moma_core.data.patch import (
    NO_LABEL,
    SPLITS,
    TRAIN,
    UNSEEN,
    VALIDATION,
    PatchIndex,
)
from moma_core.data.sources.csv_manifest import list_csv_manifest
from moma_core.data.splits import (
    ReindexedSource,
    SplitFractions,
    assign_splits,
    hide_labels,
    is_nearly_a_split_name,
    split_code,
)
from moma_core.errors import DataError


def _index(
    labels: list[int],
    splits: list[str] | None = None,
    patients: list[int] | None = None,
) -> PatchIndex:
    rows = len(labels)
    codes = [SPLITS.index(name) for name in splits or [TRAIN] * rows]
    return PatchIndex(
        labels=np.array(labels, dtype=np.int16),
        splits=np.array(codes, dtype=np.uint8),
        patients=np.array(patients or range(rows), dtype=np.int32),
    )


def test_patients_are_divided_by_the_fractions() -> None:
    patients = [f"p{number}" for number in range(20)]

    splits = assign_splits(
        patients, SplitFractions(train=0.6, validation=0.3, unseen=0.1)
    )

    assert Counter(splits.values()) == {0: 12, 1: 6, 2: 2}


@given(st.permutations([f"p{number}" for number in range(12)]), st.integers(0, 99))
def test_the_order_of_rows_does_not_move_a_patient(
    patients: list[str], seed: int
) -> None:
    fractions = SplitFractions(seed=seed)

    shuffled = assign_splits([*patients, *patients[:5]], fractions)

    assert shuffled == assign_splits(sorted(patients), fractions)


def test_another_seed_divides_otherwise() -> None:
    patients = [f"p{number}" for number in range(50)]

    first = assign_splits(patients, SplitFractions(seed=0))
    second = assign_splits(patients, SplitFractions(seed=1))

    assert first != second


def test_fractions_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"add up to 0\.9, not 1"):
        SplitFractions(train=0.6, validation=0.15, unseen=0.15)


@pytest.mark.parametrize(
    ("unseen", "expected"), [(0.2, (0.75, 0.25, 0.0)), (1.0, (1.0, 0.0, 0.0))]
)
def test_fractions_without_unseen_keep_their_proportion(
    unseen: float, expected: tuple[float, float, float]
) -> None:
    rest = 1 - unseen
    fractions = SplitFractions(
        train=0.75 * rest, validation=0.25 * rest, unseen=unseen
    ).without_unseen()

    found = (fractions.train, fractions.validation, fractions.unseen)
    assert found == pytest.approx(expected)


@given(
    st.lists(st.sampled_from([NO_LABEL, 0, 1, 2, 2, 2]), min_size=1, max_size=60),
    st.integers(0, 70),
    st.integers(0, 5),
)
def test_exactly_the_wanted_number_of_labels_stays(
    labels: list[int], keep: int, seed: int
) -> None:
    index = _index(labels)
    had = len(index.rows(TRAIN, labelled=True))

    hidden = hide_labels(index, keep_labelled=keep, seed=seed)

    rows = hidden.rows(TRAIN, labelled=True)
    assert len(rows) == min(keep, had)
    assert np.array_equal(hidden.labels[rows], index.labels[rows])


def test_kept_labels_follow_the_classes_and_every_class_keeps_one() -> None:
    index = _index([0] * 80 + [1] * 18 + [2] * 2)

    hidden = hide_labels(index, keep_labelled=10, seed=0)

    kept = hidden.labels[hidden.rows(TRAIN, labelled=True)]
    assert Counter(kept.tolist()) == {0: 8, 1: 1, 2: 1}


def test_labels_of_other_splits_are_not_hidden() -> None:
    index = _index([0, 1, 0, 1], [TRAIN, TRAIN, VALIDATION, UNSEEN])

    hidden = hide_labels(index, keep_labelled=0, seed=0)

    assert hidden.labels.tolist() == [NO_LABEL, NO_LABEL, 0, 1]


def test_names_of_other_programs_are_understood() -> None:
    named = {
        TRAIN: ("train", "Training"),
        VALIDATION: ("val", "VALID", "validation", "dev "),
        UNSEEN: ("test", "Testing", "unseen", "HOLDOUT"),
    }

    for split, names in named.items():
        assert {SPLITS[split_code(name)] for name in names} == {split}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train_set", True),
        ("01_train", True),
        ("TestSet", True),
        ("val data", True),
        ("external-test", True),
        ("hold-out", True),
        ("train", False),
        ("TUM", False),
        ("attested", False),
        ("trained", False),
        ("invalid", False),
        ("develop", False),
    ],
)
def test_a_name_that_was_meant_as_a_split_is_seen(name: str, expected: bool) -> None:
    assert is_nearly_a_split_name(name) is expected


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(DataError, match="split 'fold1' is unknown"):
        split_code("fold1")


def test_an_index_of_other_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path,label\n1.png,a\n")

    with pytest.raises(ValueError, match="2 rows do not fit 1"):
        ReindexedSource(list_csv_manifest(tmp_path / "m.csv").patches(), _index([0, 0]))
