import pytest
import torch
from torch import Tensor

from moma_core.data.patch import NO_LABEL
from moma_core.distillation.settings import DistillationSettings
from moma_core.distillation.step import MomaDistiller, TeacherShape
from moma_core.teacher.protocol import TeacherOutput
from tests.support.site.tiny import ConvEncoder

SETTINGS = DistillationSettings.published().model_copy(
    update={"feature_length": 8, "attention_heads": 2, "bank_size": 32}
)


def _images(size: int = 6) -> Tensor:
    return torch.rand(size, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def _answer(size: int = 6, length: int = 8, classes: int = 3) -> TeacherOutput:
    generator = torch.Generator().manual_seed(2)
    return TeacherOutput(
        torch.randn(size, length, generator=generator),
        torch.randn(size, classes, generator=generator),
    )


def test_unlabelled_rows_enter_the_contrast_and_not_the_cross_entropy() -> None:
    distiller = MomaDistiller(ConvEncoder(), SETTINGS, TeacherShape(8, 3)).eval()
    labels = torch.tensor([0, 1, 2, NO_LABEL, NO_LABEL, NO_LABEL])

    losses, new_keys = distiller(_images(), labels, _answer())
    alone = distiller(_images()[:3], labels[:3], None)

    torch.testing.assert_close(losses.classification, alone.losses.classification)
    assert losses.contrastive > 0
    assert new_keys.features.shape == (6, 8)
    assert torch.equal(new_keys.classes, labels)
    assert alone.new_keys is None


def test_a_batch_without_labels_has_a_finite_loss_and_no_cross_entropy() -> None:
    distiller = MomaDistiller(
        ConvEncoder(), SETTINGS, TeacherShape(8, 3), torch.arange(3)
    )

    losses = distiller(_images(), torch.full((6,), NO_LABEL), _answer()).losses

    assert losses.classification == 0
    assert losses.total.isfinite()


def test_the_kl_reads_the_teachers_classes_by_name() -> None:
    student = ConvEncoder().eval()
    order = torch.tensor([2, 0, 1])
    straight = MomaDistiller(
        student, SETTINGS, TeacherShape(8, 3), torch.arange(3)
    ).eval()
    permuted = MomaDistiller(student, SETTINGS, TeacherShape(8, 3), order).eval()
    answer = _answer()
    shuffled = TeacherOutput(answer.embedding, answer.logits[:, order.argsort()])
    labels = torch.full((6,), NO_LABEL)

    expected = straight(_images(), labels, answer).losses.distillation
    found = permuted(_images(), labels, shuffled).losses.distillation

    torch.testing.assert_close(found, expected)
    assert expected > 0


def test_without_equal_classes_there_is_no_kl() -> None:
    distiller = MomaDistiller(
        ConvEncoder(), SETTINGS, TeacherShape(8, 3), class_order=None
    )

    losses = distiller(_images(), torch.zeros(6).long(), _answer(classes=7)).losses

    assert losses.distillation == 0


def test_no_gradient_reaches_keys_bank_or_their_attention() -> None:
    distiller = MomaDistiller(
        ConvEncoder(), SETTINGS, TeacherShape(8, 3), torch.arange(3)
    )

    distiller(_images(), torch.zeros(6).long(), _answer()).losses.total.backward()

    touched = {
        name.split(".")[0]
        for name, weight in distiller.named_parameters()
        if weight.grad is not None
    }
    assert touched == {"student", "query_head", "query_attention"}


@pytest.mark.parametrize("length", [5, 20])
def test_a_teacher_of_another_width_meets_the_student_through_an_adapter(
    length: int,
) -> None:
    distiller = MomaDistiller(ConvEncoder(), SETTINGS, TeacherShape(length, 3))

    output = distiller(_images(), torch.zeros(6).long(), _answer(length=length))
    output.losses.total.backward()

    assert output.new_keys.features.shape == (6, 8)
    assert distiller.adapter.weight.grad is not None


def test_the_key_head_follows_the_query_head() -> None:
    distiller = MomaDistiller(ConvEncoder(), SETTINGS, TeacherShape(8, 3))
    before = distiller.key_head.hidden.weight.clone()

    distiller(_images(), torch.zeros(6).long(), _answer())

    expected = 0.999 * before + 0.001 * distiller.query_head.hidden.weight
    torch.testing.assert_close(distiller.key_head.hidden.weight.data, expected.data)
