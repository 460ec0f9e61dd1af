"""How good a student is on labelled patches, in the figures of the field."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassCalibrationError,
    MulticlassCohenKappa,
    MulticlassF1Score,
    MulticlassRecall,
)

from moma_core.data.loader import evaluation_batches
from moma_core.data.patch import PatchSource
from moma_core.errors import StoppedError
from moma_core.models.encoder import Encoder, Features

_BINS = 15


def evaluate(
    student: Encoder,
    prepare: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    class_names: tuple[str, ...],
) -> dict[str, float]:
    """Returns the figures of `student` over labelled patches.

    `accuracy`, `macro_f1`, `kappa` (quadratic weights; means something only where the
    classes are grades in order), `auroc` (macro, one against the rest, over the
    classes that occur), `ece` (15 bins), `recall_<class>` for the classes that
    occur. Macro-F1 averages over the classes that occur or are predicted.

    Args:
        student: Its mode is restored afterwards.
        prepare: From uint8 views to what it takes, on its device.
        batches: Views (N, 3, H, W) uint8 and labels (N,).
        class_names: By logit.
    """
    outputs = [
        (features.logits.float().cpu(), labels)
        for features, labels in outputs_of(student, prepare, batches)
    ]
    if not outputs:
        return {}
    logits, labels = map(torch.cat, zip(*outputs, strict=True))
    return figures(logits, labels, class_names)


@torch.inference_mode()
def outputs_of(
    network: Encoder,
    prepare: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
) -> Iterator[tuple[Features, Tensor]]:
    """Yields what a network makes of each batch, in evaluation mode, and the labels.

    Args:
        network: Its mode is restored afterwards.
        prepare: From uint8 views to what it takes, on its device.
        batches: Views (N, 3, H, W) uint8 and labels (N,).
    """
    training = network.training
    network.eval()
    for views, labels in batches:
        yield network(prepare(views)), labels
    network.train(training)


def figures(
    logits: Tensor, labels: Tensor, class_names: tuple[str, ...]
) -> dict[str, float]:
    """Returns what `evaluate` promises, for (N, C) logits and (N,) labels."""
    classes = len(class_names)
    probabilities = logits.softmax(dim=1)
    named: dict[str, Metric] = {
        "accuracy": MulticlassAccuracy(classes, average="micro"),
        "macro_f1": MulticlassF1Score(classes, average="macro"),
        "kappa": MulticlassCohenKappa(classes, weights="quadratic"),
        "ece": MulticlassCalibrationError(classes, n_bins=_BINS),
    }
    found = {
        name: _number(metric(probabilities, labels)) for name, metric in named.items()
    }
    present = sorted(set(labels.tolist()))
    found["auroc"] = _auroc(probabilities, labels, present)
    recalls = MulticlassRecall(classes, average=None)(probabilities, labels)
    found |= {
        f"recall_{class_key(class_names[label])}": _number(recalls[label])
        for label in present
    }
    return found


def class_key(class_name: str) -> str:
    """Returns a class's name as a part of a figure's: lower case, underscores."""
    return re.sub(r"[^a-z0-9]+", "_", class_name.lower()).strip("_")


def _auroc(probabilities: Tensor, labels: Tensor, present: list[int]) -> float:
    """Macro over the classes that occur; torchmetrics would count the rest as 0."""
    if len(present) < 2:
        return float("nan")
    ranks = [
        MulticlassAUROC(2)(
            torch.stack([1 - probabilities[:, label], probabilities[:, label]], dim=1),
            (labels == label).long(),
        )
        for label in present
    ]
    return _number(torch.stack(ranks).mean())


def _number(value: Any) -> float:  # noqa: ANN401 - torchmetrics' own type
    return float(value)


def evaluate_split(
    network: Encoder,
    normalise: Callable[[Tensor], Tensor],
    source: PatchSource,
    split: str,
    view_size_px: int,
    *,
    stopped: Callable[[], bool],
) -> dict[str, float]:
    """Returns the figures on the split's labelled patches, named `<split>_<figure>`.

    Args:
        network: On the device of `normalise`.
        normalise: From uint8 views to what it takes.
        source: Of the patches.
        split: One of SPLITS.
        view_size_px: Side of the views.
        stopped: Whether the operator asked to stop; looked at before each batch.

    Raises:
        DataError: Patches cannot be read.
        StoppedError: The operator asked for it.
    """
    rows = source.index.rows(split, labelled=True)
    batches = evaluation_batches(source, rows, view_size_px=view_size_px)
    found = evaluate(
        network, normalise, until_stopped(batches, stopped), source.class_names
    )
    return {f"{split}_{name}": value for name, value in found.items()}


def until_stopped(
    batches: Iterable[tuple[Tensor, Tensor]], stopped: Callable[[], bool]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields batches.

    Raises:
        StoppedError: The operator asked to stop before the next one.
    """
    for batch in batches:
        if stopped():
            raise StoppedError("stopped while evaluating")
        yield batch
