"""Which views a site needs of its teacher, and which it has; no pixel is read."""

import numpy as np
from numpy.typing import NDArray

from moma_client.config.site import SiteConfig
from moma_core.data.augment.recipe import recipe_named
from moma_core.data.patch import TRAIN, PatchIndex
from moma_core.data.sampler import BatchPlan, BatchSettings
from moma_core.data.view_mask import ViewMask
from moma_core.teacher.cache.store import TeacherCache

Rows = NDArray[np.int64]


def view_settings(config: SiteConfig) -> BatchSettings:
    """Returns how the site's batches are made, all ranks together."""
    training, section = config.training, config.teacher
    return BatchSettings(
        batch_size=training.batch_size,
        labelled_share=training.labelled_share,
        seed=training.seed,
        recipe=recipe_named(config.views),
        view_size_px=config.view_size_px,
        views=section.views if section.caches else 0,
        workers=training.workers,
        world_size=training.devices,
    )


def batch_plan(config: SiteConfig, index: PatchIndex) -> BatchPlan:
    """Returns the rows of every step of a run on all patches.

    Raises:
        DataError: There are too few for one batch.
    """
    return BatchPlan(
        labelled_rows=index.rows(TRAIN, labelled=True),
        unlabelled_rows=index.rows(TRAIN, labelled=False),
        settings=view_settings(config),
    )


def wanted_views(
    config: SiteConfig, index: PatchIndex, epochs: int | None
) -> list[Rows]:
    """Returns the rows of which a run shows view 0, view 1, and so on.

    Labelled rows stand first: where a budget ends, they are the last to lose a view.

    Args:
        config: The site's; keeps views.
        index: Of its source.
        epochs: Of the run so far; None for every view.

    Raises:
        DataError: There are too few patches for one batch.
    """
    views = view_settings(config).views
    labelled = index.rows(TRAIN, labelled=True)
    unlabelled = index.rows(TRAIN, labelled=False)
    often = (views, views)
    if epochs is not None:
        plan = batch_plan(config, index)
        often = plan.passes(epochs * plan.steps_per_epoch)
    return [
        np.concatenate(
            [
                labelled if number < max(1, often[0]) else labelled[:0],
                unlabelled if number < max(1, often[1]) else unlabelled[:0],
            ]
        )
        for number in range(views)
    ]


def cached_views(cache: TeacherCache, index: PatchIndex, views: int) -> ViewMask:
    """Returns the views of the training split that the cache holds whole, by place."""
    masks = np.zeros(len(index), np.uint64)
    rows = index.rows(TRAIN)
    for number in range(views):
        held = cache.present(cache.slots(rows, number))
        masks[rows] |= held.astype(np.uint64) << np.uint64(number)
    return ViewMask(masks)
