"""A remote teacher with a reference patch on its card, and one with other weights."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from moma_client.context import RunContext
from moma_client.teacher.onboarding import verify_remote
from moma_client.teacher.retry import RetryLimits
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.card.reference_patch import expect, synthetic_patch
from moma_core.teacher.query import Pixels
from tests.support.site.cached_site import CARD, CachedSite, Quarters

PATCH = synthetic_patch(0, 32)[np.newaxis]
GOLDEN_CARD = replace(
    CARD,
    golden=expect(
        *(part[0] for part in Quarters().predict(PATCH)), precision="float32"
    ),
)


class OtherQuarters(Quarters):
    """Other weights under the same digest."""

    def predict(
        self, pixels: Pixels
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        embedding, logits = super().predict(pixels)
        return embedding[:, ::-1], logits


def vet(
    site: CachedSite, card: TeacherCard, retries: RetryLimits | None = None
) -> None:
    """Has a site vet its teacher."""
    verify_remote(RunContext(site.config, site.stop, site.metrics), card, retries)
