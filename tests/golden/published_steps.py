"""The published steps' small network and method, as the golden file starts them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moma_core.distillation.settings import DistillationSettings
from moma_core.distillation.step import MomaDistiller, TeacherShape
from moma_core.models.encoder import Encoder, Features

Vectors = dict[str, Tensor]

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


def tensors_of(vectors: Vectors, moment: str, module: str) -> dict[str, Tensor]:
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


def tiny_encoder(vectors: Vectors, module: str) -> TinyEncoder:
    weights = tensors_of(vectors, "before", module)
    length, image_length = weights["body.weight"].shape
    encoder = TinyEncoder(image_length, length, len(weights["fc.weight"])).double()
    encoder.load_state_dict(weights)
    return encoder


def distiller_of(vectors: Vectors) -> MomaDistiller:
    student = tiny_encoder(vectors, "student")
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
        part.load_state_dict(tensors_of(vectors, "before", theirs))
    distiller.bank.keys.copy_(vectors["before/queue"])
    return distiller
