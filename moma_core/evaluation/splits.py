"""A network's figures on one split of a source."""

from moma_core.data.batches import evaluation_batches
from moma_core.data.patch import PatchSource
from moma_core.evaluation.metrics import evaluate
from moma_core.models.backbone import Backbone, Normalise

_BATCH = 64


def evaluate_split(
    network: Backbone,
    normalise: Normalise,
    source: PatchSource,
    split: str,
    view_size_px: int,
) -> dict[str, float]:
    """Returns the figures on the split's labelled patches, named `<split>_<figure>`.

    Args:
        network: On the device of `normalise`.
        normalise: From uint8 views to what it takes.
        source: Of the patches.
        split: One of SPLITS.
        view_size_px: Side of the views.

    Raises:
        DataError: Patches cannot be read.
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
        batches,
        source.class_names,
    )
    return {f"{split}_{name}": value for name, value in figures.items()}
