import math

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from moma_core.data.patch import NO_LABEL
from moma_core.distillation.losses import (
    contrastive_logits,
    info_nce,
    labelled_cross_entropy,
    relational_loss,
    soft_target_loss,
)


def test_info_nce_by_hand() -> None:
    query, key = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    negatives = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])

    loss = info_nce(contrastive_logits(query, key, negatives, temperature=0.5))

    expected = -math.log(math.exp(2) / (math.exp(2) + 1 + math.exp(-2)))
    assert math.isclose(loss.item(), expected, rel_tol=1e-6)


@given(st.integers(0, 2**32 - 1), st.floats(0.5, 20))
def test_the_kl_is_never_negative_and_zero_on_itself(seed: int, warmth: float) -> None:
    logits = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(seed))
    student, teacher = logits.double()

    assert soft_target_loss(student, teacher, warmth) >= 0
    assert abs(soft_target_loss(teacher, teacher, warmth).item()) < 1e-9


@given(st.lists(st.integers(-1, 3), min_size=1, max_size=12))
def test_cross_entropy_is_the_mean_over_labelled_rows(labels: list[int]) -> None:
    target = torch.tensor(labels)
    logits = torch.randn(len(labels), 4, generator=torch.Generator().manual_seed(0))
    known = target != NO_LABEL

    loss = labelled_cross_entropy(logits, target)

    expected = F.cross_entropy(logits[known], target[known]) if known.any() else 0.0
    torch.testing.assert_close(loss, torch.as_tensor(expected))


def test_a_query_that_is_its_key_has_the_least_relational_loss() -> None:
    generator = torch.Generator().manual_seed(3)
    key, query = F.normalize(torch.randn(2, 4, 6, generator=generator), dim=-1)
    negatives = F.normalize(torch.randn(9, 6, generator=generator), dim=-1)
    target = contrastive_logits(key, key, negatives, 0.2)

    on_itself = relational_loss(target, target)
    elsewhere = relational_loss(contrastive_logits(query, key, negatives, 0.2), target)

    entropy = -(target.softmax(1) * target.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(on_itself, entropy)
    assert elsewhere > on_itself
