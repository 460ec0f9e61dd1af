"""A student as ONNX, for programs without PyTorch."""

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from moma_client.student.files import StudentCard
from moma_core.errors import ConfigError
from moma_core.models.backbone import Normalise
from moma_core.models.encoder import Encoder

_PACKAGES = ("onnx", "onnxscript")


class _Logits(nn.Module):
    """From uint8 pixels to logits, normalisation included."""

    def __init__(self, student: Encoder, normalise: Normalise) -> None:
        super().__init__()
        self.student, self.normalise = student, normalise

    def forward(self, pixels: Tensor) -> Tensor:
        """Returns (N, C) logits of (N, 3, H, W) uint8 pixels."""
        logits: Tensor = self.student(self.normalise(pixels)).logits
        return logits


def check_onnx() -> None:
    """Refuses to begin what would fail at its end.

    Raises:
        ConfigError: A package is missing.
    """
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"ONNX needs {' and '.join(missing)}: pip install 'moma-service[onnx]'; "
            f"--format safetensors needs nothing"
        )


def write_onnx(student: Encoder, card: StudentCard, folder: Path) -> Path:
    """Writes `student.onnx`: `pixels` (N, 3, H, W) uint8 to `logits` (N, C).

    Args:
        student: Its weights.
        card: Its card.
        folder: Where to.
    """
    path = folder / "student.onnx"
    network = _Logits(student, Normalise(card.mean, card.std)).eval()
    side = card.view_size_px
    torch.onnx.export(
        network,
        (torch.zeros(2, 3, side, side, dtype=torch.uint8),),
        path,
        input_names=["pixels"],
        output_names=["logits"],
        dynamic_shapes={"pixels": {0: torch.export.Dim("patches")}},
        external_data=False,
        verbose=False,
    )
    return path
