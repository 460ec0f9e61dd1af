"""Each loss against its formulae, computed once more in numpy, in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from moma_core.data.patch import NO_LABEL
from moma_core.distillation.losses import soft_target_loss
from moma_core.distillation.settings import LogitLoss, ProjectorKind
from moma_core.distillation.soft_targets import SoftTargets
from moma_core.distillation.terms.aligned_hint import AlignedHint
from moma_core.distillation.terms.decoupled_kd import decoupled_loss
from moma_core.distillation.terms.dist import dist_loss
from moma_core.distillation.terms.wttm import wttm_loss
from moma_core.distillation.terms.z_score import standardised
from moma_core.models.encoder import Features
from moma_core.teacher.protocol import TeacherOutput

T = 3.0
Array = np.ndarray


def _logits() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    student, teacher = 2 * torch.randn(
        2, 6, 5, generator=generator, dtype=torch.float64
    )
    return student, teacher


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def _kl(teacher: Array, student: Array) -> Array:
    return (teacher * np.log(teacher / student)).sum(1)


def test_dist_is_one_minus_the_correlations_of_rows_and_of_columns() -> None:
    student, teacher = _logits()
    p, q = (_softmax(each.numpy() / T) for each in (teacher, student))
    rows = [np.corrcoef(p[i], q[i])[0, 1] for i in range(6)]
    columns = [np.corrcoef(p[:, c], q[:, c])[0, 1] for c in range(5)]

    found = dist_loss(student, teacher, T)

    expected = T**2 * ((1 - np.mean(rows)) + (1 - np.mean(columns)))
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_decoupled_kd_is_alpha_target_and_beta_the_others() -> None:
    student, teacher = _logits()
    target = np.array([0, 1, 2, 3, 4, 0])
    p, q = (_softmax(each.numpy() / T) for each in (teacher, student))
    sure = [np.stack([x[range(6), target], 1 - x[range(6), target]], 1) for x in (p, q)]
    others = []
    for x in (p, q):
        rest = np.stack([np.delete(row, c) for row, c in zip(x, target, strict=True)])
        others.append(rest / rest.sum(1, keepdims=True))

    found = decoupled_loss(student, teacher, torch.from_numpy(target), T)

    expected = T**2 * (_kl(*sure).mean() + 8 * _kl(*others).mean())
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_decoupled_kd_with_the_teachers_own_weights_is_hintons() -> None:
    """KD = TCKD + (1 - p_target) NCKD: the identity that the method starts from."""
    student, teacher = (each[:1] for each in _logits())
    target = torch.tensor([2])
    p = torch.softmax(teacher / T, 1)[0, 2]

    both = decoupled_loss(student, teacher, target, T)
    kd = soft_target_loss(student, teacher, T)

    a = _softmax(teacher.numpy() / T)
    b = _softmax(student.numpy() / T)
    binary = [np.array([[x[0, 2], 1 - x[0, 2]]]) for x in (a, b)]
    tckd = T**2 * _kl(*binary)[0]
    nckd = (float(both) - tckd) / 8
    assert float(kd) == pytest.approx(tckd + (1 - float(p)) * nckd, rel=1e-9)


def test_z_scores_have_no_mean_and_deviation_one() -> None:
    student, _ = _logits()

    found = standardised(student).numpy()

    expected = student.numpy() - student.numpy().mean(1, keepdims=True)
    expected /= student.numpy().std(1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_wttm_weighs_each_row_by_the_teachers_power_sum() -> None:
    student, teacher = _logits()
    powers = _softmax(teacher.numpy()) ** (1 / T)
    sums = powers.sum(1)
    divergence = _kl(powers / sums[:, None], _softmax(student.numpy()))

    found = wttm_loss(student, teacher, T)

    assert float(found) == pytest.approx((sums * divergence).mean(), rel=1e-9)


@pytest.mark.parametrize("projector", ["linear", "orthogonal"])
def test_the_hint_is_cosine_and_smooth_l1_to_z_scored_columns(
    projector: ProjectorKind,
) -> None:
    torch.manual_seed(1)
    hint = AlignedHint(4, 7, projector).double()
    own, other = torch.randn(6, 4).double(), 5 + 3 * torch.randn(6, 7).double()

    found = hint(own, other).item()

    weight = hint.projector.weight.detach().numpy()
    said, teacher = own.numpy() @ weight.T, other.numpy()
    target = (teacher - teacher.mean(0)) / (teacher.std(0) + 1e-6)
    cosine = (said * target).sum(1) / (
        np.linalg.norm(said, axis=1) * np.linalg.norm(target, axis=1)
    )
    gap = np.abs(said - target)
    smooth = np.where(gap < 1, gap**2 / 2, gap - 0.5).mean()
    assert found == pytest.approx((1 - cosine).mean() + smooth, rel=1e-9)


@pytest.mark.parametrize(("own", "other"), [(4, 7), (7, 4), (5, 5)])
def test_an_orthogonal_projector_stays_so_while_it_learns(own: int, other: int) -> None:
    torch.manual_seed(1)
    hint = AlignedHint(own, other, "orthogonal")
    descent = torch.optim.SGD(hint.parameters(), lr=0.5)
    for _ in range(5):
        descent.zero_grad()
        hint(torch.randn(6, own), torch.randn(6, other)).backward()
        descent.step()

    weight = hint.projector.weight.detach()

    small = weight.T @ weight if other >= own else weight @ weight.T
    torch.testing.assert_close(small, torch.eye(min(own, other)), atol=1e-5, rtol=0)


def test_a_student_that_says_what_the_teacher_says_has_nothing_to_learn() -> None:
    _, teacher = _logits()
    target = teacher.argmax(1)

    losses = [
        dist_loss(teacher, teacher, T),
        decoupled_loss(teacher, teacher, target, T),
        soft_target_loss(standardised(2 * teacher + 1), standardised(teacher), T),
        wttm_loss(teacher, teacher, 1.0),
    ]

    assert [float(loss) for loss in losses] == pytest.approx([0] * 4, abs=1e-6)


@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.floats(1, 20))
def test_no_loss_is_negative_or_infinite(seed: int, rows: int, warmth: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = 30 * torch.randn(2, rows, 4, generator=generator)
    student.requires_grad_()
    features = Features(torch.zeros(rows, 3), student)
    output = TeacherOutput(torch.zeros(rows, 3), teacher)
    for loss in ("kl", "dist", "decoupled", "standardised", "wttm"):
        term = SoftTargets(3, 4, torch.arange(4), warmth, loss)
        found = term(features, output)

        (gradient,) = torch.autograd.grad(found, student)
        assert found >= -1e-3, loss
        assert found.isfinite(), loss
        assert gradient.isfinite().all(), loss


def test_decoupled_takes_labels_and_the_teachers_class_where_there_is_none() -> None:
    student, teacher = (each.float() for each in _logits())
    order = torch.tensor([4, 3, 2, 1, 0])
    term = SoftTargets(3, 5, order, T, "decoupled")
    features = Features(torch.zeros(6, 3), student)
    output = TeacherOutput(torch.zeros(6, 3), teacher)
    labels = torch.tensor([1, NO_LABEL, 3, NO_LABEL, 0, 0])

    found = term(features, output, labels)

    theirs = teacher[:, order]
    target = torch.where(labels == NO_LABEL, theirs.argmax(1), labels)
    torch.testing.assert_close(found, decoupled_loss(student, theirs, target, T))


@pytest.mark.parametrize("loss", ["dist", "decoupled", "standardised", "wttm"])
def test_other_classes_are_learned_beside_the_students_own(loss: LogitLoss) -> None:
    torch.manual_seed(0)
    term = SoftTargets(3, 5, None, T, loss)
    features = Features(torch.randn(6, 3), torch.randn(6, 2))
    output = TeacherOutput(torch.zeros(6, 3), torch.randn(6, 5))

    term(features, output, torch.tensor([0, 1, 0, 1, NO_LABEL, 0])).backward()

    assert term.side_head is not None
    assert all(weight.grad is not None for weight in term.side_head.parameters())
