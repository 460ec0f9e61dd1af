"""Figures by hand, against scikit-learn, and at the edges."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, f1_score, recall_score, roc_auc_score

from moma_core.evaluation.figures import Evaluation
from moma_core.evaluation.grouping import Grouping
from moma_core.evaluation.metrics import evaluate, measure
from moma_core.evaluation.statistics import Outputs, WeightedFigures, bootstrap
from tests.support.site.tiny import ConvEncoder

NAMES = ("a", "b", "c")


def _logits(predictions: Sequence[int], classes: int = 3) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(predictions), classes).float() * 9


def _measured(
    logits: torch.Tensor,
    labels: Sequence[int],
    names: tuple[str, ...] = NAMES,
    *,
    is_ordered: bool = False,
) -> Evaluation:
    return measure(
        logits, torch.tensor(labels), names, is_ordered=is_ordered, has_intervals=False
    )


def test_figures_by_hand() -> None:
    found = _measured(_logits([0, 1, 1, 1, 0, 1]), [0, 0, 1, 2, 0, 0]).values()

    assert found["accuracy"] == pytest.approx(3 / 6)
    assert found["recall_a"] == pytest.approx(2 / 4)
    assert found["recall_b"] == pytest.approx(1.0)
    assert found["recall_c"] == pytest.approx(0.0)
    # F1 of a: 4/6; of b, predicted four times and right once: 2/5; of c: 0
    assert found["macro_f1"] == pytest.approx((4 / 6 + 2 / 5) / 3)


def _kappa_by_hand(cost: Sequence[Sequence[int]]) -> float:
    """Of truth 0 1 2 2 1 against 0 1 2 1 1: one error, between 2 and 1."""
    rows, columns = (1, 2, 2), (1, 3, 1)
    by_chance = sum(
        cost[i][j] * rows[i] * columns[j] / 5 for i in range(3) for j in range(3)
    )
    return 1 - 1 / by_chance


def test_kappa_of_classes_without_an_order_has_no_weights() -> None:
    found = _measured(_logits([0, 1, 2, 1, 1]), [0, 1, 2, 2, 1]).values()

    by_hand = _kappa_by_hand([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    assert found["kappa_unweighted"] == pytest.approx(by_hand)
    assert {"kappa", "kappa_quadratic"}.isdisjoint(found)


def test_kappa_of_grades_has_quadratic_weights_under_both_names() -> None:
    labels = [0, 1, 2, 2, 1]

    found = _measured(_logits([0, 1, 2, 1, 1]), labels, is_ordered=True).values()

    by_hand = _kappa_by_hand([[0, 1, 4], [1, 0, 1], [4, 1, 0]])
    assert found["kappa_quadratic"] == found["kappa"] == pytest.approx(by_hand)
    assert "kappa_unweighted" not in found


def test_the_figures_are_those_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(300, 4, generator=generator) * 2
    labels = torch.randint(4, (300,), generator=generator)
    shares, truth = logits.double().softmax(1).numpy(), labels.numpy()
    said = shares.argmax(1)

    found = _measured(logits, labels.tolist(), ("a", "b", "c", "d")).values()
    ordered = _measured(logits, labels.tolist(), ("a", "b", "c", "d"), is_ordered=True)

    theirs = {
        "macro_f1": f1_score(truth, said, average="macro"),
        "kappa_unweighted": cohen_kappa_score(truth, said),
        "auroc": roc_auc_score(truth, shares, multi_class="ovr"),
    }
    for name, value in theirs.items():
        assert found[name] == pytest.approx(value, abs=1e-6)
    quadratic = cohen_kappa_score(truth, said, weights="quadratic")
    assert ordered.values()["kappa"] == pytest.approx(quadratic, abs=1e-6)
    recalls = recall_score(truth, said, average=None)
    for name, recall in zip("abcd", recalls, strict=True):
        assert found[f"recall_{name}"] == pytest.approx(recall, abs=1e-6)


def test_the_calibration_error_is_that_of_fifteen_bins_counted_one_by_one() -> None:
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(300, 4, generator=generator) * 2
    labels = torch.randint(4, (300,), generator=generator)
    confidence, said = logits.double().softmax(1).max(1)

    found = _measured(logits, labels.tolist(), ("a", "b", "c", "d")).values()

    by_hand = 0.0
    for edge in range(15):
        held = (confidence > edge / 15) & (confidence <= (edge + 1) / 15)
        if held.any():
            right = (said == labels)[held].double().mean()
            by_hand += float(
                held.double().mean() * (confidence[held].mean() - right).abs()
            )
    assert found["ece"] == pytest.approx(by_hand, abs=1e-6)


def test_a_sure_student_is_ranked_by_its_odds() -> None:
    logits = torch.tensor([[40.0, 0], [60, 0], [30, 0], [20, 0], [50, 0], [10, 0]])

    found = _measured(logits, [0, 0, 1, 1, 0, 1], ("a", "b")).values()

    assert found["auroc"] == 1  # all probabilities are 1.0 in float32


def test_a_sure_student_of_three_classes_is_ranked_too() -> None:
    rows = [[90.0, 0, 5], [80, 5, 0], [5, 90, 0], [0, 80, 5], [0, 5, 90], [5, 0, 80]]

    found = _measured(torch.tensor(rows), [0, 0, 1, 1, 2, 2]).values()

    assert found["auroc"] == 1


def _exact_auroc(scores: Sequence[Fraction], labels: Sequence[int]) -> Fraction:
    """The share of pairs in order, pair by pair; of a tie one half."""
    positive = [s for s, label in zip(scores, labels, strict=True) if label]
    negative = [s for s, label in zip(scores, labels, strict=True) if not label]
    won = sum(
        Fraction(1) if p > n else Fraction(1, 2) if p == n else Fraction(0)
        for p in positive
        for n in negative
    )
    return Fraction(won) / (len(positive) * len(negative))


_VALUE = st.integers(-(2**20), 2**20).map(lambda n: n / 1024)
_ROWS = st.lists(st.tuples(_VALUE, _VALUE, st.integers(0, 1)), min_size=5, max_size=30)


@settings(max_examples=200, deadline=None)
@given(_ROWS.filter(lambda rows: {row[2] for row in rows} == {0, 1}))
def test_auroc_is_exact_for_any_two_logits(
    rows: list[tuple[float, float, int]],
) -> None:
    labels = [row[2] for row in rows]
    logits = torch.tensor([row[:2] for row in rows])  # float32, without loss

    found = _measured(logits, labels, ("a", "b")).values()

    exact = _exact_auroc([Fraction(b) - Fraction(a) for a, b, _ in rows], labels)
    assert found["auroc"] == pytest.approx(float(exact), abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(_VALUE, _VALUE, _VALUE), min_size=2, max_size=10),
    st.permutations(range(3)),
)
def test_auroc_does_not_depend_on_the_order_of_the_other_classes(
    rows: list[tuple[float, float, float]], order: list[int]
) -> None:
    """Each row once as it is and once in another order: no odds may differ by it."""
    logits = torch.tensor([row for row in rows for _ in range(3)])
    labels = [label for _ in rows for label in range(3)]

    one = _measured(logits, labels).values()
    other = _measured(logits[:, order], [order.index(n) for n in labels]).values()

    assert one["auroc"] == pytest.approx(0.5, abs=1e-12)  # all patches are alike
    assert one["auroc"] == other["auroc"]


def test_a_calibrated_student_has_a_small_error() -> None:
    labels = [0, 1, 2, 1, 0]

    assert _measured(_logits(labels) * 3, labels).values()["ece"] == pytest.approx(
        0, abs=1e-6
    )


def test_classes_that_do_not_occur_have_no_recall_and_spoil_nothing() -> None:
    labels = [0, 1, 1, 0, 1]

    found = _measured(_logits(labels), labels).values()

    assert "recall_c" not in found
    assert found["macro_f1"] == pytest.approx(1)
    assert found["auroc"] == pytest.approx(1)


def test_one_class_alone_has_only_figures_that_mean_something() -> None:
    found = _measured(_logits([0, 1, 0, 0, 0]), [0] * 5, ("良性", "b", "c"))

    assert set(found.values()) == {"accuracy", "ece", "recall_class_1"}
    for name in ("auroc", "macro_f1", "kappa_unweighted"):
        assert found.figures[name].value is None
        assert found.figures[name].reason == "one class alone: 良性"


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_outputs_that_are_not_finite_give_no_figure(bad: float) -> None:
    logits = _logits([0, 1, 2, 1, 0])
    logits[3, 1] = bad

    found = _measured(logits, [0, 1, 2, 1, 0])

    assert found.values() == {}
    reasons = {figure.reason for figure in found.figures.values()}
    assert reasons == {"the outputs of 1 of 5 patches are not finite"}


def test_a_tiny_split_has_no_figure() -> None:
    found = _measured(_logits([0, 1, 2, 1]), [0, 1, 2, 1])

    assert found.values() == {}
    assert list(found.lines("unseen_")) == [
        "unseen  no figure: 4 labelled patches, at least 5 are needed"
    ]


def test_evaluation_leaves_the_student_in_its_mode() -> None:
    student = ConvEncoder()
    views = torch.zeros(6, 3, 12, 12, dtype=torch.uint8)
    batches = [(views, torch.tensor([0, 1, 2, 0, 1, 2]))]

    found = evaluate(student, lambda x: x.float(), batches, NAMES)

    assert student.training
    assert 0 <= found["accuracy"] <= 1


def test_without_patches_there_are_no_figures() -> None:
    assert evaluate(ConvEncoder(), lambda x: x.float(), [], NAMES) == {}


def _of_patients(patients: int, patches: int, seed: int = 0) -> Evaluation:
    """Patients of whom each one's patches are all right or all wrong."""
    random = np.random.default_rng(seed)
    codes = np.repeat(np.arange(patients), patches)
    labels = random.integers(2, size=len(codes))
    wrong = np.repeat(random.random(patients) < 0.3, patches)
    logits = _logits(np.where(wrong, 1 - labels, labels).tolist(), 2)
    grouping = Grouping(codes, "patients")
    return measure(logits, torch.from_numpy(labels), ("a", "b"), grouping=grouping)


def test_an_interval_is_of_patients_and_not_of_their_patches() -> None:
    few, many = _of_patients(40, 2), _of_patients(40, 20)

    widths = []
    for found in (few, many):
        interval = found.figures["accuracy"].interval
        assert interval is not None
        widths.append(interval[1] - interval[0])
    # ten times the patches of the same patients say nothing new of patients
    assert widths[1] == pytest.approx(widths[0], rel=0.2)
    # the standard error of a share of 40 patients
    share = few.values()["accuracy"]
    assert widths[0] == pytest.approx(
        2 * 1.96 * (share * (1 - share) / 40) ** 0.5, rel=0.2
    )


def test_the_same_outputs_have_the_same_intervals() -> None:
    assert _of_patients(12, 3) == _of_patients(12, 3)


def test_every_figure_lies_within_its_interval() -> None:
    for figure in _of_patients(30, 4).figures.values():
        assert figure.interval is not None
        assert figure.value is not None
        assert figure.interval[0] <= figure.value <= figure.interval[1]


def test_a_student_that_is_never_wrong_has_an_interval_all_the_same() -> None:
    labels = [0, 1] * 10

    found = measure(_logits(labels, 2), torch.tensor(labels), ("a", "b"))

    low, high = found.figures["accuracy"].interval or (0, 0)
    assert high == 1
    assert low == pytest.approx(0.025 ** (1 / 20))
    assert found.figures["auroc"].interval is None
    assert "the draws are all alike" in str(found.figures["auroc"])


def test_a_share_that_is_the_same_in_every_patient_has_an_interval_of_patients() -> (
    None
):
    labels = [0, 1, 2] * 6
    codes = np.repeat(np.arange(6), 3)

    found = measure(
        _logits([2] * 18),
        torch.tensor(labels),
        ("a", "b", "c"),
        grouping=Grouping(codes, "patients"),
    )

    # binomtest(2, 6).proportion_ci(method="wilson") of scipy
    expected = pytest.approx((0.0967714, 0.7000067), abs=1e-6)
    assert found.precision["c"].interval == expected
    assert found.figures["accuracy"].interval == expected
    assert found.figures["macro_f1"].interval is None  # no share of patches


def test_too_few_patients_have_no_interval_and_a_reason() -> None:
    codes = np.repeat(np.arange(3), 4)
    labels = [0, 1] * 6

    found = measure(
        _logits(labels, 2),
        torch.tensor(labels),
        ("a", "b"),
        grouping=Grouping(codes, "patients"),
    )

    figure = found.figures["accuracy"]
    assert (figure.value, figure.interval, figure.groups) == (1, None, 3)
    assert figure.reason == "patients: 3, at least 5 are needed"


def test_the_draws_get_fewer_as_the_patches_get_more() -> None:
    counts = []
    for patches in (500, 50_000):
        random = np.random.default_rng(0)
        labels = random.integers(3, size=patches)
        logits = random.normal(size=(patches, 3))
        outputs = Outputs(logits, labels, np.arange(patches), is_ordered=False)
        draws = bootstrap(WeightedFigures(outputs), outputs, seed=0)
        counts.append(len(draws["auroc"]))

    assert counts == [1000, 114]
