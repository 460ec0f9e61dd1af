"""Attention that starts as nothing, relation heads, and the bank that they read."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from moma_core.data.patch import NO_LABEL
from moma_core.distillation.attention import GatedAttention, nearest_rows
from moma_core.distillation.losses import (
    contrastive_logits,
    head_slices,
    relational_loss,
)
from moma_core.distillation.memory_bank import Keys
from moma_core.distillation.methods.settings import BaselineSettings
from moma_core.distillation.settings import DistillationSettings
from moma_core.distillation.step import MomaDistiller, StepOutput
from moma_core.errors import ConfigError
from moma_core.teacher.protocol import TeacherOutput
from tests.support.site.tiny import ConvEncoder

LENGTH, BANK, ROWS = 8, 12, 6
LABELS = torch.tensor([0, 1, 2, 0, NO_LABEL, NO_LABEL])


def _distiller(classes: int | None = 3, **changes: Any) -> MomaDistiller:
    torch.manual_seed(5)
    settings = DistillationSettings(attention_heads=2, bank_size=BANK, **changes)
    student = ConvEncoder().eval()
    torch.manual_seed(6)
    distiller = MomaDistiller(
        student,
        settings,
        teacher_length=LENGTH,
        teacher_classes=3,
        class_order=None if classes is None else torch.arange(classes),
    ).eval()
    keys = F.normalize(torch.randn(BANK, LENGTH, generator=_numbers(3)), dim=1)
    distiller.update_memory(Keys(keys, torch.arange(BANK) % 3))
    return distiller


def _numbers(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _output() -> TeacherOutput:
    numbers = _numbers(2)
    return TeacherOutput(
        torch.randn(ROWS, LENGTH, generator=numbers),
        torch.randn(ROWS, 3, generator=numbers),
    )


def _step(distiller: MomaDistiller, labels: Tensor = LABELS) -> StepOutput:
    images = torch.rand(ROWS, 3, 12, 12, generator=_numbers(1))
    found: StepOutput = distiller(images, labels, _output())
    return found


@pytest.mark.parametrize("scale", ["scalar", "channels"])
@pytest.mark.parametrize("reach", ["batch", "bank"])
def test_a_gate_of_zero_is_no_attention_bit_for_bit(scale: str, reach: str) -> None:
    plain = _distiller(attention="none")
    gated = _distiller(attention="gated", attention_scale=scale, attention_reach=reach)

    expected, found = _step(plain), _step(gated)

    assert all(map(torch.equal, found.losses, expected.losses))
    assert found.new_keys is not None
    assert expected.new_keys is not None
    assert torch.equal(found.new_keys.features, expected.new_keys.features)


@pytest.mark.parametrize("reach", ["batch", "bank"])
@pytest.mark.parametrize("scale", ["scalar", "channels"])
def test_the_gradient_opens_the_gate_and_then_reaches_the_attention(
    scale: str, reach: str
) -> None:
    distiller = _distiller(
        attention="gated", attention_scale=scale, attention_reach=reach
    )
    attention = distiller.query_attention
    assert isinstance(attention, GatedAttention)

    _step(distiller).losses.total.backward()
    opened = attention.scale.grad
    assert opened is not None
    assert opened.abs().sum() > 0
    assert attention.qkv.weight.grad is not None
    assert attention.qkv.weight.grad.abs().sum() == 0

    with torch.no_grad():
        attention.scale.sub_(opened)
    distiller.zero_grad()
    _step(distiller).losses.total.backward()
    assert attention.qkv.weight.grad is not None
    assert attention.qkv.weight.grad.abs().sum() > 0


def test_an_open_gate_keeps_unit_length_and_changes_the_rows() -> None:
    torch.manual_seed(0)
    attention = GatedAttention(LENGTH, 2)
    rows = F.normalize(torch.randn(ROWS, LENGTH), dim=1)
    with torch.no_grad():
        attention.scale.fill_(0.7)

    found = attention(rows)

    torch.testing.assert_close(found.norm(dim=1), torch.ones(ROWS))
    assert not torch.allclose(found, rows, atol=1e-3)


def test_queries_keys_and_bank_share_the_gated_attention() -> None:
    distiller = _distiller(attention="gated")

    one = distiller.query_attention
    assert one is distiller.key_attention is distiller.queue_attention
    names = [name for name, _ in distiller.named_parameters()]
    assert sum(name.endswith("scale") for name in names) == 1


def test_rows_attend_to_the_banks_nearest_keys_as_well() -> None:
    torch.manual_seed(0)
    attention = GatedAttention(LENGTH, 2)
    with torch.no_grad():
        attention.scale.fill_(0.7)
    rows = F.normalize(torch.randn(ROWS, LENGTH), dim=1)
    context = F.normalize(torch.randn(5, LENGTH), dim=1)

    found = attention(rows, context)

    together = attention(torch.cat([rows, context]))[:ROWS]
    torch.testing.assert_close(found, together)
    assert not torch.allclose(found, attention(rows))


def test_the_nearest_keys_are_those_of_the_highest_similarity_to_any_row() -> None:
    rows = torch.eye(4)[:2]
    others = torch.tensor([[0.0, 0, 1, 0], [0.9, 0, 0, 0.1], [0, 0.5, 0, 0.5]])

    assert torch.equal(nearest_rows(rows, others, 1), others[[1]])
    assert torch.equal(nearest_rows(rows, others, 2), others[[1, 2]])
    assert len(nearest_rows(rows, others, 9)) == 3


def test_an_empty_bank_has_no_neighbours_yet() -> None:
    settings = DistillationSettings(attention="gated", attention_reach="bank")
    distiller = MomaDistiller(
        ConvEncoder().eval(), settings, teacher_length=LENGTH, teacher_classes=3
    )

    assert _step(distiller).losses.total.isfinite()


def test_one_relation_head_is_the_shipped_contrast() -> None:
    key = F.normalize(torch.randn(ROWS, LENGTH), dim=1)

    assert torch.equal(head_slices(key, 1)[0], key)


def test_relation_heads_compare_slice_by_slice() -> None:
    distiller = _distiller(attention="none", relation_heads=4)
    output = _output()
    images = torch.rand(ROWS, 3, 12, 12, generator=_numbers(1))

    found = distiller(images, LABELS, output).losses.contrastive

    query = F.normalize(distiller.student(images).embedding, dim=1)
    key = F.normalize(output.embedding, dim=1)
    bank = distiller.bank.negatives().features
    expected = []
    for start in range(0, LENGTH, 2):
        own, positive, others = (
            F.normalize(rows[:, start : start + 2], dim=1)
            for rows in (query, key, bank)
        )
        target = contrastive_logits(positive, positive, others, 0.07)
        expected.append(
            relational_loss(contrastive_logits(own, positive, others, 0.07), target)
        )
    torch.testing.assert_close(found, torch.stack(expected).mean())


def test_a_key_of_the_teachers_own_class_is_no_negative_whatever_the_classes() -> None:
    """The teacher's classes are not the student's, so that only it can tell."""
    masked = _distiller(None, bank="teacher_masked", attention="none")
    whole = _distiller(None, bank="instance", attention="none")
    guesses = _output().logits.argmax(1)

    found, without = _step(masked), _step(whole)

    assert found.new_keys is not None
    assert torch.equal(found.new_keys.classes, guesses)
    assert found.losses.contrastive < without.losses.contrastive


@pytest.mark.parametrize("relation_heads", [1, 4])
def test_a_masked_key_gets_no_gradient_and_no_weight(relation_heads: int) -> None:
    """Were all of the bank of the teacher's class, there would be nothing to learn."""
    distiller = _distiller(
        bank="class_masked", attention="none", relation_heads=relation_heads
    )
    distiller.bank.classes.zero_()

    losses = _step(distiller, torch.zeros(ROWS, dtype=torch.long)).losses

    assert losses.contrastive == 0


def test_the_hint_stands_beside_the_contrast() -> None:
    alone = _distiller(attention="none")
    beside = _distiller(attention="none", hint_weight=0.5)
    assert beside.hint is not None

    found, without = _step(beside).losses, _step(alone).losses

    images = torch.rand(ROWS, 3, 12, 12, generator=_numbers(1))
    hint = beside.hint(beside.student(images).embedding, _output().embedding)
    torch.testing.assert_close(found.contrastive, without.contrastive + 0.5 * hint)
    found.total.backward()
    learns = [weight.grad for weight in beside.hint.parameters()]
    assert all(grad is not None and grad.abs().sum() > 0 for grad in learns)


def test_a_students_weights_hold_nothing_of_the_method() -> None:
    """What a federation averages is the student alone."""
    plain = _distiller(attention="none")
    rich = _distiller(attention="gated", hint_weight=1.0, relation_heads=2)

    assert plain.student.state_dict().keys() == rich.student.state_dict().keys()


def test_all_parts_come_back_from_a_state_dict() -> None:
    changes = {"attention": "gated", "hint_weight": 1.0, "attention_reach": "bank"}
    one, other = _distiller(**changes), _distiller(**changes)
    with torch.no_grad():
        one.query_attention.get_parameter("scale").fill_(0.3)
    output = _step(one)
    assert output.new_keys is not None
    one.update_memory(output.new_keys)

    other.load_state_dict(one.state_dict())

    assert all(map(torch.equal, _step(one).losses, _step(other).losses))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"attention_reach": "bank"}, "write attention: gated instead of none"),
        (
            {"relation_heads": 4, "contrast": "instance"},
            "relation_heads 4 needs contrast: relational",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValidationError, match=sentence):
        DistillationSettings(**changes)


def test_heads_that_do_not_divide_a_key_are_refused() -> None:
    with pytest.raises(ConfigError, match="is 3, which does not divide the 8 numbers"):
        _distiller(relation_heads=3)


def test_a_release_that_adds_keys_leaves_the_digest_of_a_run_as_it_was() -> None:
    settings = DistillationSettings(fallback="none")

    assert len(settings.without_added()) == 17
    assert "relation_heads" not in settings.without_added()
    changed = DistillationSettings(relation_heads=4).without_added()
    assert changed["relation_heads"] == 4
    assert "dist_weight" not in BaselineSettings().without_added()
    assert "dist_weight" in BaselineSettings(dist_weight=3).without_added()
