"""The parts of the method against numbers of the published implementation."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from moma_core.distillation.attention import BatchAttention
from moma_core.distillation.losses import contrastive_logits, info_nce, soft_target_loss
from moma_core.distillation.memory_bank import MemoryBank
from moma_core.models.heads import ProjectionHead

Golden = Callable[[str], dict[str, Tensor]]
EXACT = {"rtol": 1e-9, "atol": 1e-12}
SINGLE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, EXACT), (torch.float32, SINGLE)]
)
def test_attention_equals_the_published_one(
    golden: Golden, dtype: torch.dtype, tolerance: dict[str, float]
) -> None:
    vectors = golden("attention")
    x = vectors["x"].to(dtype).requires_grad_()
    attention = BatchAttention(x.shape[1], int(vectors["num_heads"])).to(dtype)
    attention.load_state_dict(
        {
            "qkv.weight": vectors["qkv_weight"],
            "qkv.bias": vectors["qkv_bias"],
            "proj.weight": vectors["proj_weight"],
            "proj.bias": vectors["proj_bias"],
        }
    )

    y = attention(x)
    (y * vectors["upstream_grad"].to(dtype)).sum().backward()

    torch.testing.assert_close(y, vectors["y"].to(dtype), **tolerance)
    torch.testing.assert_close(x.grad, vectors["x_grad"].to(dtype), **tolerance)
    torch.testing.assert_close(
        attention.qkv.weight.grad, vectors["qkv_weight_grad"].to(dtype), **tolerance
    )


def test_the_bank_and_info_nce_equal_the_published_ones(golden: Golden) -> None:
    vectors = golden("memory_bank")
    size, length = vectors["initial_queue"].shape
    temperature = float(vectors["temperature"])
    bank = MemoryBank(size, length).double()
    bank.keys.copy_(vectors["initial_queue"])
    steps = sum(name.startswith("query_") for name in vectors)

    for step in range(steps):
        query, key = vectors[f"query_{step}"], vectors[f"key_{step}"]
        logits = contrastive_logits(query, key, bank.keys, temperature)
        loss = info_nce(logits)
        bank.enqueue(vectors[f"enqueued_{step}"])

        torch.testing.assert_close(logits, vectors[f"logits_{step}"], **EXACT)
        torch.testing.assert_close(loss, vectors[f"loss_{step}"], **EXACT)
        torch.testing.assert_close(bank.keys, vectors[f"queue_after_{step}"], **EXACT)
        assert bank.cursor == vectors[f"pointer_after_{step}"]
    assert steps > 0


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, EXACT), (torch.float32, SINGLE)]
)
def test_the_projection_head_equals_the_published_one(
    golden: Golden, dtype: torch.dtype, tolerance: dict[str, float]
) -> None:
    vectors = golden("projection_head")
    head = ProjectionHead(vectors["x"].shape[1], len(vectors["w2"])).to(dtype)
    head.load_state_dict(
        {
            "hidden.weight": vectors["w1"],
            "hidden.bias": vectors["b1"],
            "output.weight": vectors["w2"],
            "output.bias": vectors["b2"],
        }
    )

    y = head(vectors["x"].to(dtype))

    torch.testing.assert_close(y, vectors["y"].to(dtype), **tolerance)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, EXACT), (torch.float32, SINGLE)]
)
def test_the_kl_equals_the_published_one(
    golden: Golden, dtype: torch.dtype, tolerance: dict[str, float]
) -> None:
    vectors = golden("kl_divergence")
    student = vectors["student_logits"].to(dtype).requires_grad_()
    teacher = vectors["teacher_logits"].to(dtype)

    loss = soft_target_loss(student, teacher, float(vectors["temperature"]))
    loss.backward()

    torch.testing.assert_close(loss, vectors["loss"].to(dtype), **tolerance)
    torch.testing.assert_close(
        student.grad, vectors["student_logits_grad"].to(dtype), **tolerance
    )
