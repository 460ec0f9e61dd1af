"""The rules by which figures, counts and rounds leave a site."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moma_core.federation.disclosure import (
    Cohort,
    CoordinatorHistory,
    FigurePolicy,
    RoundBounds,
    figure_in_words,
    figure_name,
    figure_rule,
    round_refusal,
    rounded_patch_count,
)
from moma_core.federation.task import RoundTask

COHORT = Cohort("a" * 64, 20, {"benign": 12, "malignant": 9}, "20 patients")
KEYS = ("validation_accuracy", "validation_kappa", "validation_recall_benign")


def _rule(
    key: str = "validation_accuracy",
    value: float = 0.5,
    cohort: Cohort | None = COHORT,
    told: str | None = None,
    allowed: tuple[str, ...] = KEYS,
) -> str | None:
    policy = FigurePolicy(
        allowed=frozenset((*allowed, key) if allowed is KEYS else allowed),
        decimals=3,
        min_patients=10,
        min_class_patients=5,
    )
    return figure_rule(key, value, cohort, told, policy)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("validation_accuracy", ("validation", "accuracy", None)),
        ("ce_unseen_macro_f1", ("unseen", "macro_f1", None)),
        ("validation_recall_g3_g4", ("validation", "recall_g3_g4", "g3_g4")),
        (
            "kd_unseen_recall_validation_ece",
            ("unseen", "recall_validation_ece", "validation_ece"),
        ),
        ("loss", None),
        ("maria_mueller", None),
        ("validation_maria_mueller", None),
        ("train_accuracy", None),
        ("validation_accuracy\nx", None),
    ],
)
def test_a_key_says_of_whom_and_what_it_tells(key: str, name: object) -> None:
    assert figure_name(key) == name


def test_a_figure_within_all_rules_leaves() -> None:
    assert _rule() is None
    assert _rule(told=COHORT.digest) is None


@pytest.mark.parametrize("key", ["unseen_auroc", "maria_mueller", ""])
def test_a_figure_that_is_not_on_the_list_stays(key: str) -> None:
    assert _rule(key, allowed=("validation_accuracy",)) == "metric"


def test_a_key_that_nobody_understands_stays_though_it_is_on_the_list() -> None:
    assert _rule("maria_mueller") == "metric"


@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan, math.inf, -math.inf])
def test_a_figure_out_of_its_range_stays(value: float) -> None:
    assert _rule(value=value) == "range"


def test_a_kappa_may_be_negative_and_the_recall_of_a_class_of_that_name_not() -> None:
    assert _rule("validation_kappa", -0.5) is None
    assert _rule("validation_recall_kappa", -0.5) == "range"


@pytest.mark.parametrize("cohort", [None, COHORT._replace(people=9)])
def test_a_figure_on_too_few_patients_stays(cohort: Cohort | None) -> None:
    assert _rule(cohort=cohort) == "patients"


def test_a_class_of_too_few_patients_is_not_told_of() -> None:
    cells = COHORT._replace(by_class={"benign": 4, "malignant": 9, "other": 7})

    assert _rule("validation_recall_benign", cohort=cells) == "class_patients"
    assert _rule("validation_recall_nobody", cohort=cells) == "class_patients"


def test_the_smallest_other_class_keeps_a_small_one_company() -> None:
    cells = COHORT._replace(by_class={"benign": 4, "malignant": 9, "other": 7})

    assert _rule("validation_recall_other", cohort=cells) == "complement"
    assert _rule("validation_recall_malignant", cohort=cells) is None


def test_small_classes_hide_one_another_only_where_they_are_enough_people() -> None:
    enough = {"benign": 4, "malignant": 9, "necrosis": 2, "other": 12}
    too_few = enough | {"benign": 1}

    for cells, rule in ((enough, None), (too_few, "complement")):
        cohort = COHORT._replace(by_class=cells)
        assert _rule("validation_recall_malignant", cohort=cohort) == rule
        assert _rule("validation_recall_other", cohort=cohort) is None


def test_a_figure_on_other_people_than_before_stays() -> None:
    assert _rule(told="b" * 64) == "cohort"


@given(st.integers(min_value=0, max_value=10**7))
def test_a_count_of_patches_tells_tens_only(count: int) -> None:
    told = rounded_patch_count(count, 10**9)

    assert told % 10 == 0
    assert told >= 10
    assert abs(told - max(count, 10)) <= 5


def test_a_count_of_patches_is_capped() -> None:
    assert rounded_patch_count(10**6, 500) == 500


BOUNDS = RoundBounds(
    epochs_per_round=5,
    epochs_per_run=20,
    rounds_per_run=10,
    runs=2,
    evaluations_per_run=12,
    weights_may_leave=False,
)
TASK = RoundTask(
    kind="train", run="r1", round=1, rounds=4, local_epochs=5, mode="independent"
)
NOTHING = CoordinatorHistory(frozenset(), 0)
WEIGHTS = {"w": np.zeros(1, np.float32)}


def test_a_round_within_all_bounds_is_done() -> None:
    assert round_refusal(TASK, BOUNDS, NOTHING) is None
    assert (
        round_refusal(TASK, BOUNDS, CoordinatorHistory(frozenset({"r1", "r2"}), 11))
        is None
    )


@pytest.mark.parametrize(
    ("changed", "asked", "rule", "sentence"),
    [
        ({"local_epochs": 6}, NOTHING, "epochs", "more than 5 epochs a round"),
        ({"rounds": 5}, NOTHING, "epochs", "more than 20 epochs a run"),
        (
            {"rounds": 11, "local_epochs": 0},
            NOTHING,
            "rounds",
            "more than 10 rounds a run",
        ),
        ({}, CoordinatorHistory(frozenset({"a", "b"}), 0), "runs", "more than 2 runs"),
        (
            {},
            CoordinatorHistory(frozenset(), 12),
            "evaluations",
            "more than 12 evaluations a run",
        ),
        ({"mode": "fedavg"}, NOTHING, "weights", "weights may not leave this site"),
        (
            {"weights": WEIGHTS},
            NOTHING,
            "weights",
            "weights are taken in a round of fedavg only",
        ),
        (
            {"kind": "close", "local_epochs": 6},
            NOTHING,
            "epochs",
            "more than 5 epochs a round",
        ),
    ],
)
def test_a_coordinator_that_asks_for_more_is_refused(
    changed: dict[str, Any], asked: CoordinatorHistory, rule: str, sentence: str
) -> None:
    refusal = round_refusal(replace(TASK, **changed), BOUNDS, asked)

    assert refusal is not None
    assert refusal[:2] == (rule, sentence)


def test_weights_may_leave_where_the_site_says_so() -> None:
    task = replace(TASK, mode="fedavg", weights=WEIGHTS)

    bounds = replace(BOUNDS, weights_may_leave=True)

    assert round_refusal(task, bounds, NOTHING) is None


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("validation_accuracy", "accuracy on validation patches"),
        ("ce_validation_macro_f1", "macro-F1 of ce on validation patches"),
        ("unseen_kappa_quadratic", "kappa with quadratic weights on unseen patches"),
        ("unseen_recall_grade_5", "recall of grade 5 on unseen patches"),
        ("what_is_this", "what_is_this"),
    ],
)
def test_a_key_is_said_in_words(key: str, words: str) -> None:
    assert figure_in_words(key) == words
