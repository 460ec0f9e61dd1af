import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from moma_core.models.ema import (
    MomentumTerms,
    ema_update,
    move,
    relative_distance,
    updated_weights,
)
from tests.support.site.tiny import ConvEncoder


@given(st.floats(0, 1))
def test_the_follower_moves_towards_the_leader(decay: float) -> None:
    follower, leader = nn.Linear(3, 2).double(), nn.Linear(3, 2).double()
    before = follower.weight.clone()

    ema_update(follower, leader, decay)

    expected = decay * before + (1 - decay) * leader.weight
    torch.testing.assert_close(follower.weight.data, expected.data)


def test_batch_norm_statistics_move_with_the_weights() -> None:
    follower, leader = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    leader(torch.randn(8, 2) + 5)
    expected = 0.9 * follower.running_mean + 0.1 * leader.running_mean

    ema_update(follower, leader, 0.9)

    torch.testing.assert_close(follower.running_mean, expected)
    assert follower.num_batches_tracked == leader.num_batches_tracked == 1


def test_networks_of_different_depth_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ema_update(nn.Linear(2, 2), nn.Linear(2, 2, bias=False), 0.5)


def test_a_classifier_over_other_classes_does_not_move() -> None:
    teacher, student = ConvEncoder(), ConvEncoder(classes=5)
    classifier = teacher.fc.weight.clone()
    terms = MomentumTerms(0.0)

    move(teacher, updated_weights(student, terms), terms, 1.0)

    assert torch.equal(teacher.fc.weight, classifier)
    assert torch.equal(teacher.conv.weight, student.conv.weight)


def test_weights_of_another_network_are_a_mistake() -> None:
    terms = MomentumTerms(0.5)

    with pytest.raises(ValueError, match=r"names differ: \['conv.bias'"):
        move(ConvEncoder(), {}, terms, 0.5)


@pytest.mark.parametrize(
    ("decay", "order"), [(1.1, None), (float("nan"), None), (0.5, (0, 0)), (0.5, (1,))]
)
def test_terms_that_cannot_be_are_a_mistake(
    decay: float, order: tuple[int, ...] | None
) -> None:
    with pytest.raises(ValueError, match=r"decay must be|no permutation"):
        MomentumTerms(decay, class_order=order)


def test_the_distance_is_that_of_the_parameters_or_of_the_statistics() -> None:
    terms = MomentumTerms(0.9, class_order=(1, 2, 0))
    teacher = ConvEncoder()
    own = updated_weights(teacher, terms)
    rows = torch.tensor([1, 2, 0])
    same = {
        name: tensor[rows] if name.startswith("fc.") else tensor.clone()
        for name, tensor in own.items()
    }
    doubled = {
        name: 2 * tensor if isinstance(own[name], nn.Parameter) else tensor
        for name, tensor in same.items()
    }
    far = {**same, "norm.running_var": same["norm.running_var"] + 3}

    assert relative_distance(teacher, same, terms) == 0
    assert relative_distance(teacher, doubled, terms) == pytest.approx(1)
    assert relative_distance(teacher, far, terms) == pytest.approx(3)
