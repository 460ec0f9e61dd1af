"""An exported student that looks at patches: their views, and its outputs for them."""

from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moma_client.student.files import StudentCard, load_student
from moma_core.data.augment.views import plain_view
from moma_core.data.inventory import printable
from moma_core.data.stain_normalisation import StainNormaliser
from moma_core.end_to_end.signatures import VerifyingKey
from moma_core.evaluation.calibration import probabilities
from moma_core.models.backbone import Normalise
from moma_core.models.encoder import Encoder

BATCH = 64


class StudentOutputs(NamedTuple):
    """What a student says to N patches.

    Args:
        shares: (N, C) float64, probability of each class.
        embeddings: (N, D) float32.
    """

    shares: NDArray[np.float64]
    embeddings: NDArray[np.float32]


class Predictor:
    """A student with its weights, on a GPU where there is one.

    Args:
        network: The student.
        card: Its card.
        name: Of its run, or of its folder; can be printed.

    Attributes:
        card: The student's card.
        name: What files call it.
        device: Where it computes.
        embedding_length: D, of one embedding.
    """

    def __init__(self, network: Encoder, card: StudentCard, name: str) -> None:
        self.card, self.name = card, name
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.embedding_length = network.embedding_length
        self._network = network.eval().to(self.device)
        self._normalise = Normalise(card.mean, card.std).to(self.device)
        stain = card.stain_normalisation
        self._normaliser = None if stain is None else StainNormaliser(stain)

    @classmethod
    def load(cls, student: Path, key: VerifyingKey | None) -> Self:
        """Loads a student; arguments and errors as of `load_student`."""
        network, card = load_student(student, key)
        run = card.provenance.run if card.provenance else ""
        return cls(network, card, printable(run or student.resolve().name))

    def view(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Returns a patch as the student is shown it, (3, S, S) uint8.

        Args:
            pixels: (H, W, 3) uint8, RGB.
        """
        if self._normaliser is not None:
            pixels = self._normaliser(pixels)
        return plain_view(pixels, self.card.view_size_px)

    @torch.inference_mode()
    def outputs(self, views: list[Tensor]) -> StudentOutputs:
        """Returns what the student says to views; there is at least one."""
        batch = torch.stack(views).to(self.device)
        found = self._network(self._normalise(batch))
        return StudentOutputs(
            probabilities(found.logits, self.card.temperature).cpu().numpy(),
            found.embedding.float().cpu().numpy(),
        )
