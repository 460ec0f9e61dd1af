"""`moma-client predict`: what an exported student says to a folder of patches."""

import csv
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from moma_client.student.files import StudentCard, load_student
from moma_core.data.augment.views import plain_view
from moma_core.data.images import decode_rgb
from moma_core.data.listing import list_images
from moma_core.end_to_end.signatures import VerifyingKey
from moma_core.errors import ConfigError, DataError
from moma_core.models.backbone import Normalise
from moma_core.models.encoder import Encoder

_logger = logging.getLogger(__name__)

_BATCH = 64


def predict(student: Path, data: Path, out: Path, key: VerifyingKey | None) -> int:
    """Writes one line a patch, with each class's probability; returns how many.

    Args:
        student: Folder that an export wrote.
        data: Folder of pictures, each one patch.
        out: The CSV file; its names of files stay on this machine with it.
        key: Key of the site that must have signed the student; None: nobody must.

    Raises:
        ConfigError: The student was changed, or a folder or file does not serve.
        CertificateError: The key did not sign it.
        DataError: No picture can be read.
    """
    network, card = load_student(student, key)
    names = list(list_images(data)) if data.is_dir() else []
    if not names:
        raise DataError(f"{data} holds no picture")
    views = _views(data, names, card.view_size_px)
    written = 0
    try:
        with out.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("path", "class", *card.class_names))
            for name, shares in _shares(network.eval(), card, views):
                best = card.class_names[shares.index(max(shares))]
                writer.writerow((name, best, *(f"{share:.4f}" for share in shares)))
                written += 1
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error}") from error
    if not written:
        raise DataError(f"none of the {len(names)} pictures in {data} can be read")
    if written < len(names):
        _logger.warning("%d pictures cannot be read", len(names) - written)
    return written


def _shares(
    network: Encoder, card: StudentCard, views: Iterator[tuple[list[str], Tensor]]
) -> Iterator[tuple[str, list[float]]]:
    """Yields each picture's name and the probability of each class."""
    normalise = Normalise(card.mean, card.std)
    for names, pixels in views:
        with torch.inference_mode():
            shares = network(normalise(pixels)).logits.softmax(dim=1)
        yield from zip(names, shares.tolist(), strict=True)


def _views(
    folder: Path, names: Sequence[str], side_px: int
) -> Iterator[tuple[list[str], Tensor]]:
    """Yields pictures that can be read, and their views, (N, 3, H, W) uint8."""
    for start in range(0, len(names), _BATCH):
        read, views = [], []
        for name in names[start : start + _BATCH]:
            try:
                views.append(plain_view(decode_rgb(folder / name), side_px))
            except DataError as error:
                _logger.debug("%s: %s", name, error)
                continue
            read.append(name)
        if views:
            yield read, torch.stack(views)
