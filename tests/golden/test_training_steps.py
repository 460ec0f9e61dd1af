"""Whole steps of the method against numbers of the published implementation."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moma_core.data.batch import Batch
from moma_core.distill.settings import DistillationSettings
from moma_core.distill.step import MomaDistiller, TeacherShape
from moma_core.models.encoder import Encoder, Features
from moma_core.models.momentum import MomentumTerms
from moma_core.teacher.local import MomentumTeacher

Golden = Callable[[str], dict[str, Tensor]]
EXACT = {"rtol": 1e-9, "atol": 1e-12}

# Their Sequential counts its layers, ours have names.
HEAD = {"1": "hidden", "3": "output"}
MODULES = {
    "student": "student",
    "student_head": "query_head",
    "teacher_head": "key_head",
    "query_attention": "query_attention",
    "key_attention": "key_attention",
    "queue_attention": "queue_attention",
}


class TinyEncoder(Encoder):
    """`gelu(layernorm(x @ body))`, then a linear classifier."""

    def __init__(self, image_length: int, length: int, classes: int) -> None:
        super().__init__()
        self.body = nn.Linear(image_length, length)
        self.norm = nn.LayerNorm(length)
        self.fc = nn.Linear(length, classes)

    @property
    def embedding_length(self) -> int:
        return self.fc.in_features

    @property
    def classifier(self) -> nn.Module:
        return self.fc

    def forward(self, images: Tensor) -> Features:
        embedding = F.gelu(self.norm(self.body(images)))
        return Features(embedding, self.fc(embedding))


def _tensors(vectors: dict[str, Tensor], moment: str, module: str) -> dict[str, Tensor]:
    prefix = f"{moment}/{module}/"
    found = {
        name.removeprefix(prefix): tensor
        for name, tensor in vectors.items()
        if name.startswith(prefix)
    }
    if module.endswith("_head"):
        return {
            f"{HEAD[name.split('.')[0]]}.{name.split('.')[1]}": tensor
            for name, tensor in found.items()
        }
    return found


def _tiny(vectors: dict[str, Tensor], module: str) -> TinyEncoder:
    weights = _tensors(vectors, "before", module)
    length, image_length = weights["body.weight"].shape
    encoder = TinyEncoder(image_length, length, len(weights["fc.weight"])).double()
    encoder.load_state_dict(weights)
    return encoder


def _distiller(vectors: dict[str, Tensor]) -> MomaDistiller:
    student = _tiny(vectors, "student")
    size, length = vectors["before/queue"].shape
    settings = DistillationSettings.published().model_copy(
        update={"feature_length": length, "bank_size": size, "momentum": 0.9}
    )
    classes = torch.arange(student.fc.out_features)
    teacher = TeacherShape(student.embedding_length, len(classes))
    distiller = MomaDistiller(student, settings, teacher, classes)
    distiller = distiller.double()
    for theirs, ours in MODULES.items():
        part = distiller.get_submodule(ours)
        part.load_state_dict(_tensors(vectors, "before", theirs))
    distiller.bank.keys.copy_(vectors["before/queue"])
    return distiller


def test_six_steps_of_the_whole_method_equal_the_published_ones(
    golden: Golden,
) -> None:
    vectors = golden("training_steps")
    distiller = _distiller(vectors)
    teacher = MomentumTeacher(
        _tiny(vectors, "teacher"),
        distiller.student,
        lambda views: views,
        MomentumTerms(0.9, class_order=tuple(distiller.class_order.tolist())),
        schedule="published",
    )
    learns = [weight for weight in distiller.parameters() if weight.requires_grad]
    optimiser = torch.optim.SGD(learns, lr=0.05, momentum=0.9, weight_decay=1e-4)
    steps = sum(name.startswith("images_") for name in vectors)
    rows = torch.arange(len(vectors["labels_0"]))
    batches = (
        Batch(*2 * [vectors[f"images_{i}"]], vectors[f"labels_{i}"], i, rows, 0 * rows)
        for i in range(steps)
    )

    for batch, answer in teacher.follow(batches):
        output = distiller(batch.images, batch.labels, answer)
        optimiser.zero_grad()
        output.losses.total.backward()
        optimiser.step()
        distiller.absorb(output.new_keys)

        moment = f"after_{batch.step}"
        torch.testing.assert_close(
            output.losses.total, vectors[f"total_loss_{batch.step}"], **EXACT
        )
        torch.testing.assert_close(
            distiller.bank.keys, vectors[f"queue_{moment}"], **EXACT
        )
        assert distiller.bank.cursor == vectors[f"pointer_{moment}"]
        for theirs, ours in MODULES.items():
            weights = distiller.get_submodule(ours).state_dict()
            torch.testing.assert_close(
                dict(weights), _tensors(vectors, moment, theirs), **EXACT
            )
        torch.testing.assert_close(
            dict(teacher.encoder.state_dict()),
            _tensors(vectors, moment, "teacher"),
            **EXACT,
        )
    assert steps > 0
