"""How good a student is on labelled patches, in the figures of the field."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moma_core.data.loader import evaluation_batches
from moma_core.data.patch import VALIDATION, Patch, PatchSource, WrappedSource
from moma_core.errors import StoppedError
from moma_core.evaluation.figures import RECALL, Evaluation, Figure, class_keys
from moma_core.evaluation.grouping import Grouping, grouping_of
from moma_core.evaluation.statistics import (
    FEWEST_GROUPS,
    Floats,
    Integers,
    Outputs,
    WeightedFigures,
    bootstrap,
    groups_of_class,
    percentile_interval,
    unanimous_interval,
    wilson_interval,
)
from moma_core.models.encoder import Encoder, Features
from moma_core.training.best import Measure

FEWEST_PATCHES = 5  # on fewer, a figure says nothing

INTERVAL_SEED = 0  # of the draws: the same outputs have the same intervals


def evaluate(
    student: Encoder,
    prepare: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    class_names: tuple[str, ...],
    *,
    is_ordered: bool = False,
) -> dict[str, float]:
    """Returns the figures of `student` over labelled patches, those that there are.

    `accuracy`, `macro_f1`, `kappa_unweighted`, or where classes are grades in their
    order `kappa_quadratic` (also as `kappa`), `auroc` (macro, one against the rest,
    over the classes that occur), `ece` (15 bins), `recall_<class>` for the classes
    that occur. Macro-F1 averages over the classes that occur or are predicted.

    Args:
        student: Its mode is restored afterwards.
        prepare: From uint8 views to what it takes, on its device.
        batches: Views (N, 3, H, W) uint8 and labels (N,).
        class_names: By logit.
        is_ordered: Whether the classes are grades, in this order.
    """
    logits, labels = _all_outputs(student, prepare, batches)
    return measure(
        logits, labels, class_names, is_ordered=is_ordered, has_intervals=False
    ).values()


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


def _all_outputs(
    network: Encoder,
    prepare: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor]:
    """Returns logits (N, C) float64 and labels (N,), both of nothing as (0, 0)."""
    outputs = [
        (features.logits.double().cpu(), labels)
        for features, labels in outputs_of(network, prepare, batches)
    ]
    if not outputs:
        return torch.zeros(0, 0), torch.zeros(0, dtype=torch.long)
    logits, labels = map(torch.cat, zip(*outputs, strict=True))
    return logits, labels


def measure(
    logits: Tensor,
    labels: Tensor,
    class_names: tuple[str, ...],
    *,
    is_ordered: bool = False,
    grouping: Grouping | None = None,
    has_intervals: bool = True,
) -> Evaluation:
    """Returns the figures that `evaluate` names, those without a value included.

    Args:
        logits: (N, C).
        labels: (N,).
        class_names: By logit.
        is_ordered: Whether the classes are grades, in this order.
        grouping: Of the patches; None: each is a group of its own.
        has_intervals: Whether intervals are made, which takes up to some seconds.
    """
    names = _names(is_ordered)
    group = grouping or Grouping(np.arange(len(labels)), "patches")
    keys = dict(zip(class_keys(class_names), class_names, strict=True))
    groups = len(np.unique(group.codes))
    if reason := _no_figures(logits, labels):
        absent = Figure(None, len(labels), groups, None, reason)
        figures = dict.fromkeys(names, absent)
        return Evaluation(figures, len(labels), groups, group.counted, keys)
    outputs = Outputs(logits.double().numpy(), labels.numpy(), group.codes, is_ordered)
    maker = _FigureMaker(outputs, has_intervals=has_intervals, counted=group.counted)
    figures = {key: maker.of_all(name, class_names) for key, name in names.items()}
    figures |= {f"{RECALL}{key}": each for key, each in maker.recall(keys).items()}
    precision = maker.precision(keys)
    return Evaluation(figures, len(labels), groups, group.counted, keys, precision)


def _names(is_ordered: bool) -> dict[str, str]:
    """Returns the name of the calculation by key of the figure."""
    kappas = ("kappa", "kappa_quadratic") if is_ordered else ("kappa_unweighted",)
    plain = ("accuracy", "macro_f1", "auroc", "ece")
    return {name: name for name in plain} | dict.fromkeys(kappas, "kappa")


def _no_figures(logits: Tensor, labels: Tensor) -> str:
    """Returns why nothing can be said at all; empty: something can."""
    if not len(labels):
        return "there is no labelled patch"
    if len(labels) < FEWEST_PATCHES:
        return f"{len(labels)} labelled patches, at least {FEWEST_PATCHES} are needed"
    wrong = int((~torch.isfinite(logits)).any(dim=1).sum())
    if wrong:
        return f"the outputs of {wrong} of {len(labels)} patches are not finite"
    return ""


class _FigureMaker:
    """Makes figures of a network's outputs, and their intervals.

    Args:
        outputs: Of some labelled patches, all finite.
        has_intervals: Whether intervals are made.
        counted: What a group of patches is.
    """

    def __init__(self, outputs: Outputs, *, has_intervals: bool, counted: str) -> None:
        weighted = WeightedFigures(outputs)
        once = np.ones((1, len(outputs.labels)))
        self._found = {name: array[0] for name, array in weighted.of(once).items()}
        self._draws = (
            bootstrap(weighted, outputs, seed=INTERVAL_SEED) if has_intervals else None
        )
        self._counted, self._patches = counted, len(outputs.labels)
        self._groups = len(np.unique(outputs.groups))
        self._outputs = outputs

    def of_all(self, name: str, class_names: tuple[str, ...]) -> Figure:
        """Returns a figure of all classes together, by the name of its calculation."""
        value, groups = float(self._found[name]), self._groups
        if np.isnan(value):
            (only,) = np.unique(self._outputs.labels)
            reason = f"one class alone: {class_names[only]}"
            return Figure(None, self._patches, groups, None, reason)
        draws = None if self._draws is None else self._draws[name]
        return self._figure(
            value, draws, self._patches, groups, is_share=name == "accuracy"
        )

    def recall(self, keys: Iterable[str]) -> dict[str, Figure]:
        """Returns the recall of each class that occurs, by its part of a key."""
        return self._of_classes("recall", self._outputs.labels, keys)

    def precision(self, keys: Iterable[str]) -> dict[str, Figure]:
        """Returns the precision of each class that was predicted, by its key."""
        predicted = self._outputs.logits.argmax(axis=1)
        return self._of_classes("precision", predicted, keys)

    def _of_classes(
        self, name: str, classes: Integers, keys: Iterable[str]
    ) -> dict[str, Figure]:
        """Returns a share of the patches of each class that stands in `classes`."""
        groups = groups_of_class(classes, self._outputs.groups)
        patches = np.bincount(classes)
        return {
            key: self._figure(
                float(self._found[name][label]),
                None if self._draws is None else self._draws[name][:, label],
                int(patches[label]),
                groups[label],
                is_share=True,
            )
            for label, key in enumerate(keys)
            if label in groups
        }

    def _figure(
        self,
        value: float,
        draws: Floats | None,
        patches: int,
        groups: int,
        *,
        is_share: bool,
    ) -> Figure:
        if draws is None:
            return Figure(value, patches, groups, None, "none was made")
        if groups < FEWEST_GROUPS:
            few = f"{self._counted}: {groups}, at least {FEWEST_GROUPS} are needed"
            return Figure(value, patches, groups, None, few)
        if is_share and value in (0.0, 1.0):
            return Figure(value, patches, groups, unanimous_interval(value, groups))
        interval = percentile_interval(draws)
        if interval is None and is_share:
            interval = wilson_interval(value, groups)
        reason = "" if interval else "the draws are all alike, or lack a class"
        return Figure(value, patches, groups, interval, reason)


@dataclass(frozen=True, slots=True, eq=False)
class Evaluator:
    """A network that is measured on splits.

    Args:
        network: On the device of `normalise`; its mode is restored.
        normalise: From uint8 views to what it takes.
        view_size_px: Side of the views.
        is_ordered: Whether the classes are grades, in the order of their names.
    """

    network: Encoder
    normalise: Callable[[Tensor], Tensor]
    view_size_px: int
    is_ordered: bool = False

    def measure(
        self, source: PatchSource, split: str, *, stopped: Callable[[], bool]
    ) -> Evaluation:
        """Returns the figures on a split's labelled patches; see `outputs`."""
        return self.outputs(source, split, stopped=stopped).measure()

    def outputs(
        self, source: PatchSource, split: str, *, stopped: Callable[[], bool]
    ) -> "SplitOutputs":
        """Returns what the network says of a split's labelled patches.

        Args:
            source: Of the patches.
            split: One of SPLITS.
            stopped: Whether the operator asked to stop; looked at before each batch.

        Raises:
            DataError: Patches cannot be read.
            StoppedError: The operator asked for it.
        """
        read = ReadRows(source)
        rows = source.index.rows(split, labelled=True)
        batches = evaluation_batches(read, rows, view_size_px=self.view_size_px)
        logits, labels = _all_outputs(
            self.network, self.normalise, until_stopped(batches, stopped)
        )
        found = np.array(read.rows, np.int64)
        grouping = grouping_of(source.index, found)
        return SplitOutputs(
            logits, labels, found, grouping, source.class_names, self.is_ordered
        )


class SplitOutputs(NamedTuple):
    """What a network said of a split's labelled patches.

    Args:
        logits: (N, C) float64.
        labels: (N,) class indices.
        rows: (N,) of the source.
        grouping: Of the patches, by patient.
        class_names: By logit.
        is_ordered: Whether the classes are grades, in this order.
    """

    logits: Tensor
    labels: Tensor
    rows: NDArray[np.int64]
    grouping: Grouping
    class_names: tuple[str, ...]
    is_ordered: bool

    def measure(self) -> Evaluation:
        """Returns the figures, with intervals by patient."""
        return measure(
            self.logits,
            self.labels,
            self.class_names,
            is_ordered=self.is_ordered,
            grouping=self.grouping,
        )

    def softened(self, temperature: float) -> "SplitOutputs":
        """Returns the same with logits over a temperature."""
        return self._replace(logits=self.logits / temperature)


def validation_measure(
    normalise: Callable[[Tensor], Tensor],
    source: PatchSource,
    view_size_px: int,
    name: str,
    *,
    stopped: Callable[[], bool],
) -> Measure:
    """Returns what gives one figure of a network on the validation split.

    Without intervals: a run asks after every epoch.

    Args:
        normalise: From uint8 views to what a network takes, on its device.
        source: Of the patches.
        view_size_px: Side of the views.
        name: Of the figure, such as `macro_f1`.
        stopped: Whether the operator asked to stop; looked at before each batch.
    """
    rows = source.index.rows(VALIDATION, labelled=True)

    def measured(network: Encoder) -> float | None:
        batches = evaluation_batches(source, rows, view_size_px=view_size_px)
        asked = until_stopped(batches, stopped)
        return evaluate(network, normalise, asked, source.class_names).get(name)

    return measured


class ReadRows(WrappedSource):
    """Notes which rows were read, in order, but for those that another stands for."""

    def __init__(self, source: PatchSource) -> None:
        super().__init__(source)
        self.rows: list[int] = []

    def read(self, row: int) -> Patch:
        """Decodes one patch, and notes it."""
        patch = self._source.read(row)
        if not patch.is_stand_in:
            self.rows.append(row)
        return patch


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
