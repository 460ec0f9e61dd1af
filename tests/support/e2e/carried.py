"""What a site's run carries to its teacher and back, as bytes to be looked for."""

from collections.abc import Iterator
from contextlib import closing

import numpy as np

from moma_client.cache.folder import CacheFolder
from moma_client.cache.views import required_views, view_settings
from moma_client.config.site import SiteConfig
from moma_core.data.batch import Batch
from moma_core.data.loader import view_batches
from moma_core.data.sources.factory import open_source
from moma_core.teacher.card.card import TeacherCard
from tests.support.machine.traces import Named, answer_traces, patch_traces


class Carried:
    """Every view that a run asks about, and what the site has been answered so far.

    Args:
        config: The site's; it keeps views, as float32.
        card: The teacher's, whose patches are as large as the site's views.
        epochs: Of the run.
    """

    def __init__(self, config: SiteConfig, card: TeacherCard, *, epochs: int) -> None:
        self.card = card
        self._folder = CacheFolder(config)
        source = open_source(config.data)
        self._rows = len(source.index)
        groups = [
            np.stack([rows, np.full_like(rows, number)], axis=1)
            for number, rows in enumerate(required_views(config, source.index, epochs))
            if len(rows)
        ]
        settings = view_settings(config)
        self._batches: list[Batch] = list(view_batches(source, groups, settings))

    def patches(self) -> Iterator[Named]:
        """Yields a piece of each patch in each of its forms."""
        for batch in self._batches:
            patches = batch.views.permute(0, 2, 3, 1).contiguous().numpy()
            yield from patch_traces(patches, self.card.mean, self.card.std)

    def answers(self) -> Iterator[Named]:
        """Yields a piece of each answer that is in the teacher cache by now."""
        if not any(self._folder.path.glob("*.cache")):
            return
        with closing(self._folder.open(self.card, self._rows)) as cache:
            for batch in self._batches:
                read = cache.read(batch)
                held = np.setdiff1d(np.arange(len(batch.rows)), read.missing.numpy())
                embeddings = read.output.embedding.numpy()[held]
                yield from answer_traces(embeddings, read.output.logits.numpy()[held])

    def first_patch(self) -> bytes:
        """Returns a patch as the site sends it, but for its sealing."""
        patch = self._batches[0].views[0].permute(1, 2, 0)
        return patch.contiguous().numpy().tobytes()
