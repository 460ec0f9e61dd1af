import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from moma_core.models.momentum import follow
from tests.tiny import ConvEncoder


@given(st.floats(0, 1))
def test_the_follower_moves_towards_the_leader(decay: float) -> None:
    follower, leader = nn.Linear(3, 2).double(), nn.Linear(3, 2).double()
    before = follower.weight.clone()

    follow(follower, leader, decay)

    expected = decay * before + (1 - decay) * leader.weight
    torch.testing.assert_close(follower.weight.data, expected.data)


def test_batch_norm_statistics_move_with_the_weights() -> None:
    follower, leader = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    leader(torch.randn(8, 2) + 5)
    expected = 0.9 * follower.running_mean + 0.1 * leader.running_mean

    follow(follower, leader, 0.9)

    torch.testing.assert_close(follower.running_mean, expected)
    assert follower.num_batches_tracked == leader.num_batches_tracked == 1


def test_a_part_that_stays_does_not_move() -> None:
    follower, leader = ConvEncoder(), ConvEncoder()
    classifier = follower.fc.weight.clone()

    follow(follower, leader, 0.0, except_for=follower.classifier)

    assert torch.equal(follower.fc.weight, classifier)
    assert torch.equal(follower.conv.weight, leader.conv.weight)


def test_networks_of_different_depth_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="shorter"):
        follow(nn.Linear(2, 2), nn.Linear(2, 2, bias=False), 0.5)
