"""What a lossy encoding does to a teacher's answers, asked of the teacher itself."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from moma_client.config.site import SiteConfig
from moma_client.config.teacher import RemoteTeacherSection
from moma_client.identity.revocations import look_once
from moma_client.teacher.connect import open_teacher
from moma_client.teacher.retry import FAIL_FAST
from moma_core.data.augment.views import plain_view
from moma_core.data.batch import Batch
from moma_core.data.patch import TRAIN, PatchSource
from moma_core.data.sources.factory import open_source
from moma_core.errors import ConfigError
from moma_core.teacher.pixel_encoding import RAW, PixelEncoding

MOST_PATCHES = 256
_BATCH = 32


@dataclass(frozen=True, slots=True)
class EncodingReport:
    """Cosines between a teacher's embeddings of the same patches.

    Args:
        encoding: Against the plain arrays.
        patches: Of the sample.
        mean_cosine: 1 where the encoding changes nothing.
        lowest_cosine: Of the sample.
        same_class: Share of patches whose largest logit is of the same class.
    """

    encoding: str
    patches: int
    mean_cosine: float
    lowest_cosine: float
    same_class: float

    def lines(self) -> Iterator[str]:
        """Yields the report as a person reads it."""
        yield (
            f"{self.encoding}: on {self.patches} patches the embeddings' cosine with "
            f"those of plain arrays is {self.mean_cosine:.5f} in the mean, "
            f"{self.lowest_cosine:.5f} at the lowest; {self.same_class:.1%} keep their "
            f"class"
        )


def charged_patches(config: SiteConfig, patches: int) -> int:
    """Returns how many patches a report charges at most: each is asked twice.

    Raises:
        ConfigError: There is no remote teacher, or its encoding loses nothing.
    """
    section = config.teacher
    if not isinstance(section, RemoteTeacherSection):
        raise ConfigError("the teacher is on this disk: no patch is encoded")
    if not PixelEncoding.parse(section.encoding).is_lossy:
        raise ConfigError(
            f"teacher.encoding {section.encoding} loses nothing: the teacher sees the "
            f"same pixels"
        )
    return 2 * min(patches, MOST_PATCHES)


def encoding_report(config: SiteConfig, patches: int) -> EncodingReport:
    """Asks the teacher about a sample, once plain and once as the config encodes it.

    The same sample again costs nothing while the teacher repeats its answers.

    Args:
        config: The site's.
        patches: Of the sample; more than MOST_PATCHES are cut to it.

    Raises:
        ConfigError: As `charged_patches` does, or there is no patch.
        DataError: Patches cannot be read.
        TeacherError: The teacher does not answer.
    """
    charged_patches(config, patches)
    section = config.teacher
    if not isinstance(section, RemoteTeacherSection):
        raise ConfigError("the teacher is on this disk: no patch is encoded")
    source = open_source(config.data)
    batches = list(_sample(config, source, min(patches, MOST_PATCHES)))
    if not batches:
        raise ConfigError("there is no patch to try the encoding on")
    look_once(config)
    plain = section.model_copy(update={"encoding": str(RAW)})
    true, true_logits = _outputs(config.model_copy(update={"teacher": plain}), batches)
    seen, seen_logits = _outputs(config, batches)
    cosines = F.cosine_similarity(true, seen)
    return EncodingReport(
        section.encoding,
        len(true),
        cosines.mean().item(),
        cosines.min().item(),
        (true_logits.argmax(1) == seen_logits.argmax(1)).float().mean().item(),
    )


def _sample(config: SiteConfig, source: PatchSource, count: int) -> Iterator[Batch]:
    rows = source.index.rows(TRAIN)
    chosen = np.random.default_rng(config.training.seed).permutation(rows)[:count]
    for step, start in enumerate(range(0, len(chosen), _BATCH)):
        part = torch.from_numpy(chosen[start : start + _BATCH])
        views = torch.stack(
            [
                plain_view(source.read(int(row)).pixels, config.view_size_px)
                for row in part
            ]
        )
        yield Batch(views, views, torch.full_like(part, -1), step, part, part * 0)


def _outputs(config: SiteConfig, batches: list[Batch]) -> tuple[Tensor, Tensor]:
    with open_teacher(config, retries=FAIL_FAST, ids_by_content=True) as remote:
        outputs = [output for _, output in remote.answer_batches(batches)]
    return (
        torch.cat([output.embedding for output in outputs]),
        torch.cat([output.logits for output in outputs]),
    )
