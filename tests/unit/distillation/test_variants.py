"""The named variants of attention, head and bank, all through the one step."""

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from torch import Tensor

from moma_core.data.patch import NO_LABEL
from moma_core.distillation.attention import ResidualAttention, make_attentions
from moma_core.distillation.settings import DistillationSettings
from moma_core.distillation.step import Distiller, MomaDistiller
from moma_core.models.heads import make_head
from moma_core.teacher.protocol import TeacherOutput
from tests.support.site.tiny import ConvEncoder

LABELS = torch.tensor([0, 1, 2, 0, NO_LABEL, NO_LABEL])


def _distiller(length: int = 8, **changes: Any) -> MomaDistiller:
    torch.manual_seed(5)
    settings = DistillationSettings.published().model_copy(
        update={"feature_length": 8, "attention_heads": 2, "bank_size": 12} | changes
    )
    return MomaDistiller(
        ConvEncoder(),
        settings,
        teacher_length=length,
        teacher_classes=3,
        class_order=torch.arange(3),
    ).eval()


def _step(distiller: Distiller, length: int = 8) -> Any:
    generator = torch.Generator().manual_seed(2)
    answer = TeacherOutput(
        torch.randn(6, length, generator=generator),
        torch.randn(6, 3, generator=generator),
    )
    images = torch.rand(6, 3, 12, 12, generator=generator)
    return distiller(images, LABELS, answer)


@pytest.mark.parametrize(
    "attention", ["published", "none", "shared", "shared_residual", "gated"]
)
@pytest.mark.parametrize("head", ["mlp", "linear", "none"])
@pytest.mark.parametrize("bank", ["instance", "class_masked"])
@pytest.mark.parametrize("contrast", ["instance", "relational"])
def test_every_variant_teaches_the_student(
    attention: str, head: str, bank: str, contrast: str
) -> None:
    distiller = _distiller(attention=attention, head=head, bank=bank, contrast=contrast)

    output = _step(distiller)
    output.losses.contrastive.backward()
    distiller.update_memory(output.new_keys)

    gradients = [weight.grad for weight in distiller.student.parameters()]
    assert any(grad is not None and grad.abs().sum() > 0 for grad in gradients)
    assert all(grad is None or grad.isfinite().all() for grad in gradients)
    assert distiller.bank.cursor == 6


def _options() -> Iterator[dict[str, Any]]:
    """Yields every value that an option can take, alone, and numbers that switch on."""
    yield from ({"relation_heads": 4}, {"hint_weight": 0.5})
    for name, field in DistillationSettings.model_fields.items():
        if get_origin(field.annotation) is Literal:
            for value in get_args(field.annotation):
                needs = {"attention": "gated"} if name.startswith("attention_") else {}
                yield {name: value, **needs}


@pytest.mark.parametrize("options", [*_options()], ids=str)
def test_every_option_trains_from_an_empty_bank(options: dict[str, Any]) -> None:
    """As a run begins: the first step has no key to compare with."""
    start = {"attention_heads": 2, "bank_size": 12, "feature_length": 8}
    settings = DistillationSettings(**start, **options)
    distiller = MomaDistiller(
        ConvEncoder(),
        settings,
        teacher_length=8,
        teacher_classes=3,
        class_order=torch.arange(3),
    )

    for _ in range(3):
        output = _step(distiller)
        output.losses.total.backward()
        distiller.update_memory(output.new_keys)

    gradients = [weight.grad for weight in distiller.student.parameters()]
    assert all(grad is not None and grad.isfinite().all() for grad in gradients)


def test_shared_attention_is_one_module_and_learns() -> None:
    shared, published = (
        make_attentions(
            DistillationSettings(attention=kind, attention_heads=2), feature_length=8
        )
        for kind in ("shared", "published")
    )

    assert shared.query is shared.key is shared.queue
    assert all(weight.requires_grad for weight in shared.query.parameters())
    assert not any(weight.requires_grad for weight in published.key.parameters())
    assert not any(weight.requires_grad for weight in published.queue.parameters())


def test_a_residual_attention_that_adds_nothing_leaves_rows_as_they_are() -> None:
    attention = ResidualAttention(8, 2)
    torch.nn.init.zeros_(attention.proj.weight)
    torch.nn.init.zeros_(attention.proj.bias)
    rows = torch.nn.functional.normalize(torch.randn(5, 8), dim=1)

    torch.testing.assert_close(attention(rows), rows)


@pytest.mark.parametrize("head", ["mlp", "linear", "none"])
def test_a_head_gives_unit_length(head: Any) -> None:
    rows = make_head(head, 8, 4)(torch.randn(5, 8))

    assert rows.shape == (5, 8 if head == "none" else 4)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(5))


def test_without_a_head_another_width_still_meets_through_the_adapter() -> None:
    distiller = _distiller(20, head="none", attention="none")

    new_keys = _step(distiller, 20).new_keys

    assert new_keys.features.shape == (6, 20)


def test_a_key_head_may_start_as_the_query_head() -> None:
    one, own = _distiller(key_head_start="query"), _distiller()

    assert torch.equal(one.key_head.output.weight, one.query_head.output.weight)
    assert not torch.equal(own.key_head.output.weight, own.query_head.output.weight)


def _contrastive(bank: str, classes: Tensor, **changes: Any) -> Tensor:
    distiller = _distiller(bank=bank, attention="none", **changes)
    distiller.bank.classes.copy_(classes)
    contrastive: Tensor = _step(distiller).losses.contrastive
    return contrastive


def test_keys_of_a_querys_own_class_are_no_negatives() -> None:
    unknown, known = torch.full((12,), NO_LABEL), torch.arange(12) % 3

    masked, instance = (_contrastive(b, known) for b in ("class_masked", "instance"))

    assert masked < instance
    torch.testing.assert_close(_contrastive("class_masked", unknown), instance)


def test_a_masked_key_is_out_of_the_teachers_similarities_as_well() -> None:
    known = torch.arange(12) % 3

    masked, whole = (
        _contrastive(bank, known, contrast="relational")
        for bank in ("class_masked", "instance")
    )

    assert 0 < masked < whole


def test_the_bank_learns_labels_and_the_teachers_guess_where_there_is_none() -> None:
    distiller = _distiller()
    output = _step(distiller)

    distiller.update_memory(output.new_keys)

    assert torch.equal(distiller.bank.classes[:4], LABELS[:4])
    assert (distiller.bank.classes[4:6] >= 0).all()
    assert (distiller.bank.classes[6:] == NO_LABEL).all()


def test_an_empty_bank_counts_only_what_was_written() -> None:
    distiller = _distiller(bank_start="empty")

    first = _step(distiller)
    distiller.update_memory(first.new_keys)
    second = _step(distiller)

    assert first.losses.contrastive == 0
    assert second.losses.contrastive > 0
    assert distiller.bank.negatives().features.shape == (6, 8)


def test_what_has_no_lesson_says_so() -> None:
    class Mute(Distiller):
        distils = True

    settings = DistillationSettings()

    with pytest.raises(NotImplementedError, match="Mute learns from no teacher"):
        _step(Mute(ConvEncoder(), settings))
    with pytest.raises(NotImplementedError, match="Distiller keeps no keys"):
        Distiller(ConvEncoder(), settings).update_memory(_step(_distiller()).new_keys)
