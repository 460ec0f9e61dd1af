"""Whole steps of the method against numbers of the published implementation."""

from collections.abc import Callable

import torch
from torch import Tensor

from moma_core.data.batch import Batch
from moma_core.models.ema import MomentumTerms
from moma_core.teacher.local import MomentumTeacher
from tests.golden.published_steps import (
    MODULES,
    distiller_of,
    tensors_of,
    tiny_encoder,
)

Golden = Callable[[str], dict[str, Tensor]]
EXACT = {"rtol": 1e-9, "atol": 1e-12}


def test_six_steps_of_the_whole_method_equal_the_published_ones(
    golden: Golden,
) -> None:
    vectors = golden("training_steps")
    distiller = distiller_of(vectors)
    teacher = MomentumTeacher(
        tiny_encoder(vectors, "teacher"),
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

    for batch, answer in teacher.answer_batches(batches):
        output = distiller(batch.images, batch.labels, answer)
        optimiser.zero_grad()
        output.losses.total.backward()
        optimiser.step()
        distiller.update_memory(output.new_keys)

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
                dict(weights), tensors_of(vectors, moment, theirs), **EXACT
            )
        torch.testing.assert_close(
            dict(teacher.encoder.state_dict()),
            tensors_of(vectors, moment, "teacher"),
            **EXACT,
        )
    assert steps > 0
