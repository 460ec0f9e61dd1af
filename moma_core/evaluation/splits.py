"""A network's figures on one split of a source."""

from collections.abc import Callable, Iterator

from torch import Tensor

from moma_core.data.loader import evaluation_batches
from moma_core.data.patch import PatchSource
from moma_core.errors import StoppedError
from moma_core.evaluation.metrics import evaluate
from moma_core.models.backbone import Normalise
from moma_core.models.encoder import Encoder

_BATCH = 64


def evaluate_split(
    network: Encoder,
    normalise: Normalise,
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
    device = normalise.scale.device
    batches = evaluation_batches(
        source,
        source.index.rows(split, labelled=True),
        view_size_px=view_size_px,
        batch_size=_BATCH,
    )
    figures = evaluate(
        network,
        lambda views: normalise(views.to(device)),
        _until_stopped(batches, stopped),
        source.class_names,
    )
    return {f"{split}_{name}": value for name, value in figures.items()}


def _until_stopped(
    batches: Iterator[tuple[Tensor, Tensor]], stopped: Callable[[], bool]
) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in batches:
        if stopped():
            raise StoppedError("stopped while evaluating")
        yield batch
