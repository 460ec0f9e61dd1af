import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from moma_core.data.patch import NO_LABEL
from moma_core.data.sources.demo_tissue import EmbeddedSource
from moma_core.errors import StoppedError
from moma_core.evaluation.membership_inference import (
    advantage,
    area_under_curve,
    best_threshold,
    held_out_advantage,
    loss_scores,
    membership_advantage,
)
from moma_core.models.backbone import Normalise
from tests.support.site.tiny import ConvEncoder

IDENTITY = Normalise((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_an_attack_by_hand() -> None:
    members, others = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, 1.0, 2.0, 5.0])

    threshold = best_threshold(members, others)

    assert threshold == 0.0  # above it: all members, three of four others
    assert advantage(members, others, threshold) == pytest.approx(0.25)
    # of 16 pairs 4 + 3 + 2 + 1 are in order and 1 + 1 are ties, from the lowest up
    assert area_under_curve(members, others) == pytest.approx((1.5 + 2.5 + 3 + 3) / 16)


def test_who_always_scores_higher_is_always_found() -> None:
    random = np.random.default_rng(0)
    members, others = random.random(50) + 2, random.random(70)

    assert held_out_advantage(members, others) == pytest.approx(1.0, abs=0.05)
    assert area_under_curve(members, others) == 1.0


def test_equal_groups_give_nothing_away_on_average() -> None:
    random = np.random.default_rng(0)

    found = [
        held_out_advantage(random.normal(size=200), random.normal(size=200))
        for _ in range(100)
    ]

    assert abs(np.mean(found)) < 3 * np.std(found) / math.sqrt(len(found))


def test_a_threshold_measured_where_it_was_chosen_flatters_the_attack() -> None:
    random = np.random.default_rng(0)
    members, others = random.normal(size=(2, 100))

    threshold = best_threshold(members, others)

    assert advantage(members, others, threshold) > 0.05


def test_a_loss_score_is_minus_the_cross_entropy() -> None:
    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])

    scores = loss_scores(logits, labels)

    expected = -torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    np.testing.assert_allclose(scores, expected.numpy(), rtol=1e-5, atol=1e-6)


def test_a_network_of_random_weights_remembers_nobody() -> None:
    source = EmbeddedSource("teacher")
    torch.manual_seed(0)
    network = ConvEncoder(classes=len(source.class_names)).train()

    found = membership_advantage(
        network, IDENTITY, source, 32, seed=0, stopped=lambda: False
    )

    assert found is not None
    assert abs(found) < 0.4
    assert network.training


def test_an_audit_can_be_stopped() -> None:
    with pytest.raises(StoppedError):
        membership_advantage(
            ConvEncoder(classes=4),
            IDENTITY,
            EmbeddedSource("teacher"),
            32,
            seed=0,
            stopped=lambda: True,
        )


def test_with_too_few_patches_nothing_is_claimed() -> None:
    network = ConvEncoder(classes=4).train()
    source = EmbeddedSource("teacher")
    few = replace(source.index, labels=np.full_like(source.index.labels, NO_LABEL))
    source.index = few

    found = membership_advantage(
        network, IDENTITY, source, 32, seed=0, stopped=lambda: False
    )

    assert found is None
    assert network.training
