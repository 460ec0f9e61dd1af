"""What each method does of its own, and what the registry refuses."""

import copy
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moma_core.data.patch import NO_LABEL
from moma_core.distillation.methods import registry, torchdistill_losses
from moma_core.distillation.methods.base import Baseline
from moma_core.distillation.methods.context import DistillationContext
from moma_core.distillation.methods.names import Method, check_allowed, need_of
from moma_core.distillation.methods.outputs import LogitDistillation
from moma_core.distillation.methods.registry import make_distiller, register_method
from moma_core.distillation.step import Distiller
from moma_core.errors import ConfigError
from moma_core.models.encoder import Encoder, Features
from moma_core.teacher.protocol import TeacherOutput
from tests.support.site.method_bench import (
    BATCH,
    ROWS,
    answer_of,
    images,
    local_pair,
    setup_for,
)
from tests.support.site.tiny import ConvEncoder, TwoStageEncoder

LABELS = torch.zeros(BATCH, dtype=torch.long)


def test_kd_reads_the_teachers_classes_by_name() -> None:
    order = torch.tensor([2, 0, 1])
    student = ConvEncoder().eval()
    straight = make_distiller("kd", student, setup_for(None, class_order=order))
    plain = make_distiller("kd", student, setup_for(None, class_order=torch.arange(3)))
    logits = torch.randn(BATCH, 3)
    empty = torch.zeros(BATCH, 8)

    found = straight(images(), LABELS, TeacherOutput(empty, logits))
    expected = plain(images(), LABELS, TeacherOutput(empty, logits[:, order]))

    torch.testing.assert_close(found.losses, expected.losses)


def test_kd_between_other_classes_learns_them_beside_the_students_own() -> None:
    student = TwoStageEncoder(classes=5)
    distiller = make_distiller("kd", student, setup_for(TwoStageEncoder()))
    answer = TeacherOutput(torch.zeros(BATCH, 8), torch.randn(BATCH, 3))

    losses = distiller(images(), torch.full((BATCH,), NO_LABEL), answer).losses
    losses.total.backward()

    assert isinstance(distiller, LogitDistillation)
    assert isinstance(distiller.soft_targets.side_head, nn.Linear)
    assert distiller.soft_targets.side_head.out_features == 3
    assert student.first.weight.grad.abs().sum() > 0
    assert student.fc.weight.grad.abs().sum() == 0
    assert not any("side_head" in name for name in student.state_dict())


@pytest.mark.parametrize("method", ["hint", "at", "sp", "cc", "rkd", "pkt", "srrl"])
def test_a_student_that_equals_its_teacher_has_little_to_learn(method: Method) -> None:
    distiller, teacher = local_pair(method)
    views = images()
    before = distiller.eval()(views, LABELS, answer_of(teacher, views)).losses

    distiller.student.load_state_dict(teacher.state_dict())
    after = distiller(views, LABELS, answer_of(teacher, views)).losses

    if method == "srrl":  # its connector still stands between the two
        assert after.distillation < before.distillation
    else:
        assert after.distillation < 1e-4 * before.distillation


def test_crd_draws_anew_at_each_step_and_alike_after_a_resume() -> None:
    distiller, _ = local_pair("crd")
    memory, own = distiller.memory, torch.arange(4)
    first, second = memory.draw(own, 9), memory.draw(own, 9)
    state = copy.deepcopy(distiller.state_dict())
    third = memory.draw(own, 9)

    again, _ = local_pair("crd")
    repeated = again.memory.draw(own, 9)
    again.load_state_dict(state)

    assert torch.equal(first, repeated)
    assert not torch.equal(first, second)
    assert torch.equal(again.memory.draw(own, 9), third)
    assert torch.equal(first[:, 0], own)
    assert first.max() < len(ROWS)


def test_crd_keeps_its_memories_in_the_state_dict_and_moves_its_own_rows() -> None:
    distiller, teacher = local_pair("crd")
    views, rows = images(), ROWS[:BATCH] + 7
    before = {name: value.clone() for name, value in distiller.state_dict().items()}

    output = distiller(views, LABELS, answer_of(teacher, views), rows)
    kept = distiller.state_dict()
    assert torch.equal(kept["memory.student"], before["memory.student"])
    distiller.update_memory(output.new_keys)

    own = torch.arange(BATCH) + 7
    for side in ("student", "teacher"):
        was, now = before[f"memory.{side}"], kept[f"memory.{side}"]
        moved = (was != now).any(dim=1).nonzero().flatten()
        assert torch.equal(moved, own)
        torch.testing.assert_close(now[own].norm(dim=1), torch.ones(BATCH))
        assert kept[f"memory.{side}_normaliser"] > 0


def test_crd_refuses_patches_that_are_no_training_rows() -> None:
    distiller, teacher = local_pair("crd")
    answer = answer_of(teacher, images())

    with pytest.raises(ValueError, match="no training rows"):
        distiller(images(), LABELS, answer, ROWS[:BATCH] + 28)
    with pytest.raises(ValueError, match="which patches"):
        distiller(images(), LABELS, answer)


def test_simkd_infers_with_the_teachers_frozen_classifier_in_the_students_order() -> (
    None
):
    torch.manual_seed(1)
    teacher = TwoStageEncoder(length=20)
    order = torch.tensor([2, 0, 1])
    setup = setup_for(teacher, class_order=order)

    distiller = make_distiller("simkd", TwoStageEncoder(), setup)
    embedding, logits, _ = distiller.student.eval()(images())

    expected = F.linear(embedding, teacher.fc.weight, teacher.fc.bias)[:, order]
    torch.testing.assert_close(logits, expected)
    assert embedding.shape == (BATCH, 20)
    assert not any(w.requires_grad for w in distiller.student.classifier.parameters())


def test_simkd_learns_from_no_label() -> None:
    distiller, teacher = local_pair("simkd", length=20)
    views = images()

    losses = distiller(views, LABELS, answer_of(teacher, views)).losses

    assert losses.classification > 0
    assert losses.total == losses.distillation


def test_ft_starts_as_the_teacher_and_keeps_a_new_classifier_for_new_classes() -> None:
    teacher, same = TwoStageEncoder(), TwoStageEncoder()
    other = TwoStageEncoder(classes=5)
    own_classifier = other.fc.weight.clone()
    order = torch.tensor([2, 0, 1])

    distiller = make_distiller("ft", same, setup_for(teacher, class_order=order))
    make_distiller("ft", other, setup_for(teacher))

    assert torch.equal(same.first.weight, teacher.first.weight)
    assert torch.equal(same.norm.running_var, teacher.norm.running_var)
    assert torch.equal(same.fc.weight, teacher.fc.weight[order])
    assert torch.equal(other.second.weight, teacher.second.weight)
    assert torch.equal(other.fc.weight, own_classifier)
    assert distiller(images(), LABELS, None).losses.distillation == 0
    assert not distiller.distils


@pytest.mark.parametrize("student", [ConvEncoder(), TwoStageEncoder(length=4)])
def test_ft_refuses_another_architecture(student: ConvEncoder) -> None:
    with pytest.raises(ConfigError, match="one architecture"):
        make_distiller("ft", student, setup_for(TwoStageEncoder()))


def test_simkd_refuses_other_classes() -> None:
    with pytest.raises(ConfigError, match="other classes"):
        make_distiller("simkd", TwoStageEncoder(), setup_for(TwoStageEncoder()))


def test_an_encoder_without_maps_is_refused_where_maps_are_needed() -> None:
    with pytest.raises(ConfigError, match="shows no feature maps"):
        make_distiller("vid", ConvEncoder(), setup_for(TwoStageEncoder()))


@pytest.mark.parametrize("method", ["at", "vid", "semckd", "simkd", "srrl", "ft"])
def test_a_remote_teacher_is_refused_where_its_inside_is_needed(method: Method) -> None:
    what = "feature maps" if need_of(method) == "maps" else "the teacher's weights"

    with pytest.raises(ConfigError, match=f"{method} needs {what}: teacher"):
        check_allowed(method, teacher_is_local=False)
    with pytest.raises(ConfigError, match=r"teacher\.mode local"):
        make_distiller(method, TwoStageEncoder(), setup_for(None))
    check_allowed(method, teacher_is_local=True)


def test_a_method_of_torchdistill_says_which_extra_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name.startswith("torchdistill")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchdistill", None)

    with pytest.raises(ConfigError, match=r"moma-service\[bench\]"):
        check_allowed("rkd", teacher_is_local=False)
    with pytest.raises(ConfigError, match=r"moma-service\[bench\]"):
        torchdistill_losses.relational(25, 50)
    check_allowed("sp", teacher_is_local=False)


def test_cross_entropy_needs_no_teacher_and_moma_its_answers() -> None:
    ce = make_distiller("ce", ConvEncoder(), setup_for(None))
    moma = make_distiller("moma", ConvEncoder(), setup_for(None))

    assert type(ce) is Distiller
    assert moma.distils
    assert (need_of("ce"), need_of("moma")) == ("nothing", "outputs")


def test_momas_own_weights_do_not_touch_another_method() -> None:
    teacher, views = TwoStageEncoder(), images()
    one, other = setup_for(teacher), setup_for(teacher)
    weights = {"contrastive_weight": 7.0, "distillation_weight": 7.0}
    other = replace(other, settings=other.settings.model_copy(update=weights))

    totals = []
    for setup in (one, other):
        torch.manual_seed(1)
        distiller = make_distiller("hint", TwoStageEncoder(), setup)
        totals.append(distiller(views, LABELS, answer_of(teacher, views)).losses.total)

    assert totals[0] == totals[1]


def test_a_method_of_ones_own_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_MAKERS", dict(registry._MAKERS))

    class Cosine(Baseline):
        def __init__(self, student: Encoder, context: DistillationContext) -> None:
            super().__init__(student, context, weight=2.0)

        def loss(self, features: Features, output: TeacherOutput) -> Tensor:
            return 1 - F.cosine_similarity(features.embedding, output.embedding).mean()

    register_method("cosine", Cosine)

    distiller = make_distiller("cosine", TwoStageEncoder(), setup_for(None))
    output = TeacherOutput(torch.ones(BATCH, 8), torch.ones(BATCH, 3))
    losses = distiller(images(), torch.zeros(BATCH).long(), output).losses
    assert 0 < losses.distillation.item() <= 4
    assert losses.total == losses.classification + losses.distillation
    with pytest.raises(ValueError, match="already"):
        register_method("cosine", Cosine)
    with pytest.raises(ConfigError, match="no method 'tangent'"):
        make_distiller("tangent", TwoStageEncoder(), setup_for(None))
