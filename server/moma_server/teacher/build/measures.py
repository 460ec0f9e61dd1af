"""What is measured of a teacher on patches: figures, membership audit, coverage map."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moma_core.data.patch import UNSEEN, VALIDATION, PatchSource
from moma_core.evaluation.figures import Evaluation
from moma_core.evaluation.membership_inference import membership_advantage
from moma_core.evaluation.metrics import Evaluator
from moma_core.evaluation.reference_embeddings import reference_embedding
from moma_core.models.encoder import Encoder, Features
from moma_core.policy.coverage import FEWEST_REFERENCE_PATCHES, CoverageMap
from moma_core.teacher.card.card import TeacherCard
from moma_server.teacher.inference.backend import TeacherBackend

_logger = logging.getLogger(__name__)

FIGURES, COVERAGE = "figures.json", "coverage.safetensors"

Stopped = Callable[[], bool]


class TeacherMeasures:
    """A teacher's network, and what is measured of it on patches of its owner.

    Args:
        network: The network.
        prepare: From (N, 3, H, W) uint8 views to what it takes.
        source: The patches.
        view_size_px: Side of the views.
        seed: Of the choices that are made by chance.
        is_ordered: Whether the classes are grades, in their order.
    """

    def __init__(
        self,
        network: Encoder,
        prepare: Callable[[Tensor], Tensor],
        source: PatchSource,
        view_size_px: int,
        *,
        seed: int,
        is_ordered: bool,
    ) -> None:
        self._on = (network, prepare, source)
        self._size, self._seed, self._is_ordered = view_size_px, seed, is_ordered

    def evaluations(self, stopped: Stopped) -> dict[str, Evaluation]:
        """Returns what is measured on the labelled patches of validation and unseen."""
        network, prepare, source = self._on
        evaluator = Evaluator(network, prepare, self._size, self._is_ordered)
        return {
            split: evaluator.measure(source, split, stopped=stopped)
            for split in (VALIDATION, UNSEEN)
        }

    def membership_advantage(self, stopped: Stopped) -> float | None:
        """Returns it with four digits; None: there are too few patches."""
        found = membership_advantage(
            *self._on, self._size, seed=self._seed, stopped=stopped
        )
        return None if found is None else round(found, 4)

    def save_coverage_map(
        self, folder: Path, digest: str, *, labelled: bool | None = True
    ) -> bool:
        """Writes `coverage.safetensors` where there are enough patches for a map.

        Args:
            folder: Where it goes.
            digest: The teacher's.
            labelled: As `reference_embedding`.
        """
        embedding = reference_embedding(
            *self._on, self._size, seed=self._seed, labelled=labelled
        )
        if len(embedding) < FEWEST_REFERENCE_PATCHES:
            _logger.warning(
                "no coverage map: it needs %d patches, there are %d",
                FEWEST_REFERENCE_PATCHES,
                len(embedding),
            )
            return False
        coverage = CoverageMap.of_reference(embedding, digest, seed=self._seed)
        coverage.save(folder / COVERAGE)
        return True


def figures_as_json(evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
    """Returns figures by key, null where one has no value, and `details` by split."""
    figures = {
        key: value
        for split, found in evaluations.items()
        for key, value in found.all_values(f"{split}_").items()
    }
    details = {split: found.as_json() for split, found in evaluations.items()}
    return {**figures, "details": details}


def save_figures(evaluations: Mapping[str, Evaluation], folder: Path) -> None:
    """Writes `figures.json`."""
    text = json.dumps(figures_as_json(evaluations), indent=2)
    (folder / FIGURES).write_text(f"{text}\n", "utf-8")


class BackendEncoder(Encoder):
    """A backend as an encoder of uint8 views, for what measures networks.

    Args:
        backend: Gives the outputs.
    """

    def __init__(self, backend: TeacherBackend) -> None:
        super().__init__()
        self._backend = backend

    @property
    def embedding_length(self) -> int:
        """D, as the card says."""
        return self._backend.card.embedding_length

    @property
    def classifier(self) -> nn.Module:
        """Nothing: it is the backend's own."""
        return nn.Identity()

    def forward(self, images: Tensor) -> Features:
        """Returns embedding and logits of (N, 3, H, W) uint8 views."""
        found = self._backend.predict(images.permute(0, 2, 3, 1).contiguous().numpy())
        return Features(torch.from_numpy(found[0]), torch.from_numpy(found[1]))


def measured(
    card: TeacherCard,
    backend: TeacherBackend,
    source: PatchSource,
    folder: Path,
    *,
    seed: int,
    is_ordered: bool,
) -> TeacherCard:
    """Writes figures and coverage map, and returns the card with its audit.

    Figures and audit need labels of the teacher's own classes; the map takes any patch.

    Args:
        card: The teacher's.
        backend: Gives its outputs.
        source: Patches of its owner.
        folder: Where the files go.
        seed: Of the choices that are made by chance.
        is_ordered: Whether the classes are grades, in their order.

    Raises:
        DataError: Patches cannot be read.
    """
    measures = TeacherMeasures(
        BackendEncoder(backend),
        _as_it_is,
        source,
        card.input_size_px,
        seed=seed,
        is_ordered=is_ordered,
    )
    measures.save_coverage_map(folder, card.digest, labelled=None)
    if not card.class_names or source.class_names != card.class_names:
        return card
    save_figures(measures.evaluations(_never), folder)
    return replace(card, membership_advantage=measures.membership_advantage(_never))


def _as_it_is(views: Tensor) -> Tensor:
    return views


def _never() -> bool:
    return False
