"""`moma-client predict`: what an exported student says to patches of any folder."""

import csv
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moma_client.student.files import StudentCard, load_student
from moma_core.data.augment.views import plain_view
from moma_core.data.images import decode_rgb
from moma_core.data.inventory import printable
from moma_core.data.listing import IMAGE_SUFFIXES, list_images
from moma_core.data.sources.csv_manifest import list_csv_manifest
from moma_core.end_to_end.signatures import VerifyingKey
from moma_core.errors import ConfigError, DataError
from moma_core.evaluation.calibration import probabilities
from moma_core.models.backbone import Normalise
from moma_core.models.encoder import Encoder

_logger = logging.getLogger(__name__)

_BATCH = 64


class Predicted(NamedTuple):
    """How many pictures there were.

    Args:
        written: That have probabilities in the file.
        failed: That have a reason instead.
    """

    written: int
    failed: int


class _Picture(NamedTuple):
    """A picture by its name in the output, and how to read its pixels."""

    name: str
    read: Callable[[], NDArray[np.uint8]]


class _Line(NamedTuple):
    """A line of the output: the probability of each class, or why there is none."""

    name: str
    shares: Sequence[float]
    error: str = ""


def predict(
    student: Path,
    data: Path,
    out: Path,
    key: VerifyingKey | None,
    *,
    overwrites: bool = False,
) -> Predicted:
    """Writes one line a picture: each class's probability, or why it has none.

    Args:
        student: Folder that an export wrote.
        data: Folder of pictures, a CSV manifest, or one picture; each is one patch.
        out: The CSV file; its names of files stay on this machine with it.
        key: Key of the site that must have signed the student; None: nobody must.
        overwrites: Whether a file that exists is replaced.

    Raises:
        ConfigError: The student was changed, or a folder or file does not serve.
        CertificateError: The key did not sign it.
        DataError: There is no picture, or the manifest cannot be read.
    """
    _check_out(out, data, overwrites=overwrites)
    network, card = load_student(student, key)
    pictures = _pictures(data)
    written = _write(out, _lines(network.eval(), card, pictures), card.class_names)
    return Predicted(written, len(pictures) - written)


def _write(out: Path, lines: Iterable[_Line], class_names: Sequence[str]) -> int:
    """Writes the whole file or none; returns how many pictures have a prediction."""
    draft = out.with_name(f".{out.name}.partial")
    written = 0
    try:
        with draft.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("path", "class", *map(printable, class_names), "error"))
            for line in lines:
                written += not line.error
                writer.writerow(_cells(line, class_names))
        draft.replace(out)
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error}") from error
    finally:
        draft.unlink(missing_ok=True)
    return written


def _check_out(out: Path, data: Path, *, overwrites: bool) -> None:
    if out.is_dir():
        raise ConfigError(f"{out} is a folder: name a file to write")
    if not out.exists():
        return
    if data.exists() and out.samefile(data):
        raise ConfigError(f"{out} is the data: name another file to write")
    if not overwrites:
        raise ConfigError(f"{out} exists: name another file, or add --force")


def _pictures(data: Path) -> list[_Picture]:
    """Returns the pictures that a path names.

    Raises:
        DataError: There is none.
    """
    if data.is_dir():
        found = [_picture(data / name, name) for name in list_images(data)]
    elif not data.exists():
        raise DataError(f"there is no {printable(str(data))}")
    elif data.suffix.lower() == ".csv":
        found = _listed(data)
    elif data.suffix.lower() in IMAGE_SUFFIXES:
        found = [_picture(data, data.name)]
    else:
        known = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(
            f"{printable(str(data))} is no folder, no .csv manifest and no picture "
            f"({known})"
        )
    if not found:
        raise DataError(f"{printable(str(data))} holds no picture")
    return found


def _picture(path: Path, name: str) -> _Picture:
    return _Picture(name, lambda: decode_rgb(path))


def _listed(manifest: Path) -> list[_Picture]:
    patches = list_csv_manifest(manifest).patches()

    def picture(row: int) -> _Picture:
        return _Picture(patches.path_of(row), lambda: patches.read(row).pixels)

    return [picture(row) for row in range(len(patches.index))]


def _cells(line: _Line, class_names: Sequence[str]) -> list[str]:
    name = printable(line.name)
    if line.error:
        return [name, "", *("" for _ in class_names), line.error]
    best = class_names[int(np.argmax(line.shares))]
    return [name, printable(best), *(f"{share:.4f}" for share in line.shares), ""]


def _lines(
    network: Encoder, card: StudentCard, pictures: Sequence[_Picture]
) -> Iterator[_Line]:
    """Yields a line for each picture, in order."""
    normalise = Normalise(card.mean, card.std)
    for start in range(0, len(pictures), _BATCH):
        batch = pictures[start : start + _BATCH]
        views = [_view(each, card.view_size_px) for each in batch]
        readable = [view for view in views if isinstance(view, Tensor)]
        shares = iter(_shares(network, normalise, readable, card.temperature))
        for each, view in zip(batch, views, strict=True):
            if isinstance(view, str):
                yield _Line(each.name, (), view)
                continue
            found = next(shares)
            wrong = "" if np.isfinite(found).all() else "the outputs are not finite"
            yield _Line(each.name, found, wrong)


def _view(picture: _Picture, side_px: int) -> Tensor | str:
    """Returns a picture's view, (3, H, W) uint8, or why there is none."""
    try:
        return plain_view(picture.read(), side_px)
    except DataError as error:
        _logger.debug("%s: %s", printable(picture.name), error)
        return str(error)


@torch.inference_mode()
def _shares(
    network: Encoder,
    normalise: Normalise,
    views: Sequence[Tensor],
    temperature: float | None,
) -> list[list[float]]:
    if not views:
        return []
    logits = network(normalise(torch.stack(list(views)))).logits
    shares: list[list[float]] = probabilities(logits, temperature).tolist()
    return shares
