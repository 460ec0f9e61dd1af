"""The published steps with the teacher at another institution, over the real service.

What travels is pixels, and the golden inputs are vectors: a patch of S x S x 3 float
pixels in [0, 1] carries one, p = x / (2 R) + 1/2, and the card's mean (1/2) and
deviation (1 / 2R) bring the teacher's own normalisation back to x.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from moma_client.teacher.momentum import MomentumPlan, RemoteMomentumTeacher
from moma_core.data.batch import Batch
from moma_core.models.ema import MomentumTerms
from moma_core.models.encoder import Features
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.protocol import Teacher
from tests.golden.published_steps import (
    MODULES,
    TinyEncoder,
    distiller_of,
    tensors_of,
)
from tests.support.federation.pki import Pki
from tests.support.site.remote_teacher import Site, running
from tests.support.teacher.moving_teacher import FREELY, KeptCopies

Golden = Callable[[str], dict[str, Tensor]]
Vectors = dict[str, Tensor]

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
ARCHITECTURE = "golden"


class PixelEncoder(TinyEncoder):
    """Reads the vector that pixels carry; its weights have the same names."""

    def forward(self, images: Tensor) -> Features:
        return super().forward(images.flatten(1)[:, : self.body.in_features])


def _in_float32(vectors: Vectors) -> Vectors:
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in vectors.items()
    }


def _images(vectors: Vectors) -> list[Tensor]:
    count = sum(name.startswith("images_") for name in vectors)
    return [vectors[f"images_{step}"] for step in range(count)]


def _teacher(vectors: Vectors, reach: float) -> KeptCopies:
    weights = tensors_of(vectors, "before", "teacher")
    length, image_length = weights["body.weight"].shape
    encoder = PixelEncoder(image_length, length, len(weights["fc.weight"]))
    encoder.load_state_dict(weights)
    card = TeacherCard(
        name="teacher-a",
        digest="0" * 64,
        architecture=ARCHITECTURE,
        embedding_length=length,
        organ="colon",
        task="golden",
        class_names=tuple(map(str, range(encoder.fc.out_features))),
        input_size_px=math.ceil(math.sqrt(image_length / 3)),
        mean=(0.5, 0.5, 0.5),
        std=(1 / (2 * reach),) * 3,
        precision="float32",
    )
    return KeptCopies(encoder, card)


def _batches(vectors: Vectors, side: int, reach: float) -> Iterator[Batch]:
    for step, images in enumerate(_images(vectors)):
        pixels = torch.full((len(images), 3 * side * side), 0.5)
        pixels[:, : images.shape[1]] = images / (2 * reach) + 0.5
        rows = torch.arange(len(images))
        labels = vectors[f"labels_{step}"]
        views = pixels.view(-1, 3, side, side)
        yield Batch(views, images, labels, step, rows, 0 * rows)


def _train(
    teacher: Teacher, distiller: torch.nn.Module, batches: Iterator[Batch]
) -> Iterator[tuple[int, Tensor]]:
    """Takes the published steps, and yields each one's loss once it is taken."""
    learns = [weight for weight in distiller.parameters() if weight.requires_grad]
    optimiser = torch.optim.SGD(learns, lr=0.05, momentum=0.9, weight_decay=1e-4)
    for batch, answer in teacher.answer_batches(batches):
        output = distiller(batch.images, batch.labels, answer)
        optimiser.zero_grad()
        output.losses.total.backward()
        optimiser.step()
        distiller.update_memory(output.new_keys)
        yield batch.step, output.losses.total.detach()


def test_the_published_steps_over_the_wire_equal_the_published_ones(
    golden: Golden, tmp_path: Path
) -> None:
    vectors = golden("training_steps")
    reach = max(float(images.abs().max()) for images in _images(vectors))
    distiller = distiller_of(vectors).float()
    distiller.student.architecture = ARCHITECTURE
    vectors, pki = _in_float32(vectors), Pki()
    backend = _teacher(vectors, reach)
    side = backend.card.input_size_px
    order = tuple(distiller.class_order.tolist())
    plan = MomentumPlan(MomentumTerms(0.9, class_order=order), "published", 1, 10.0)

    steps = 0
    with (
        running(tmp_path / "teacher", pki, backend, momentum=FREELY) as served,
        Site(tmp_path / "site", pki, served.port).teacher() as remote,
    ):
        teacher = RemoteMomentumTeacher(remote, distiller.student, plan)
        batches = _batches(vectors, side, reach)
        for steps, loss in _train(teacher, distiller, batches):
            expected = vectors[f"total_loss_{steps}"]
            torch.testing.assert_close(loss, expected, **CLOSE)
            keys = vectors[f"queue_after_{steps}"]
            torch.testing.assert_close(distiller.bank.keys, keys, **CLOSE)
            for theirs, ours in MODULES.items():
                weights = dict(distiller.get_submodule(ours).state_dict())
                golden_weights = tensors_of(vectors, f"after_{steps}", theirs)
                torch.testing.assert_close(weights, golden_weights, **CLOSE)
            stands = dict(backend.copies[0].encoder.state_dict())
            golden_weights = tensors_of(vectors, f"after_{steps}", "teacher")
            torch.testing.assert_close(stands, golden_weights, **CLOSE)

    assert steps + 1 == len(_images(vectors))
    assert len(backend.copies) == 1
