"""The patches that a student gets most wrong, as pictures: for the site alone."""

import base64
import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from moma_client.config.site import SiteConfig
from moma_core.data.inventory import printable
from moma_core.data.patch import Patch, PatchSource
from moma_core.data.sources.factory import open_pictures
from moma_core.data.sources.image_files import FilePatches
from moma_core.evaluation.calibration import probabilities
from moma_core.evaluation.metrics import SplitOutputs

MOST = 24
_SIDE_PX = 224


class HardPatch(NamedTuple):
    """A patch that the student gets wrong.

    Args:
        picture: A `data:` address of its pixels.
        label: What the label says.
        said: What the student says.
        sure: How sure it is, in [0, 1].
        share_of_label: What it gives the label's class, in [0, 1].
        place: File, or square of the slide, where the patch is one; else its row.
        slide: The site's name of the slide; empty: not known.
        patient: The site's pseudonym; empty: not known.
    """

    picture: str
    label: str
    said: str
    sure: float
    share_of_label: float
    place: str
    slide: str
    patient: str


def hardest_patches(
    config: SiteConfig,
    source: PatchSource,
    outputs: SplitOutputs,
    temperature: float | None,
) -> list[HardPatch]:
    """Returns the patches that are wrong, the surest first.

    Raises:
        DataError: Patches cannot be read.
    """
    shares = probabilities(outputs.logits, temperature).numpy()
    labels = outputs.labels.numpy()
    said = shares.argmax(axis=1)
    own = shares[np.arange(len(labels)), labels]
    wrong = np.flatnonzero(said != labels)
    order = wrong[np.argsort(own[wrong], kind="stable")][:MOST]
    files = open_pictures(config.data)
    found = []
    for place in order:
        row = int(outputs.rows[place])
        patch = source.read(row)
        found.append(
            HardPatch(
                picture=_picture(patch.pixels),
                label=outputs.class_names[labels[place]],
                said=outputs.class_names[said[place]],
                sure=float(shares[place].max()),
                share_of_label=float(own[place]),
                place=_place(row, patch, files),
                slide=printable(patch.slide or ""),
                patient=printable(patch.patient or ""),
            )
        )
    return found


def _place(row: int, patch: Patch, files: FilePatches | None) -> str:
    if patch.square is not None:
        x_px, y_px, side_px = patch.square
        return f"x {x_px}, y {y_px}, side {side_px} px of level 0"
    return f"row {row}" if files is None else files.path_of(row)


def _picture(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> str:
    picture = Image.fromarray(pixels)
    picture.thumbnail((_SIDE_PX, _SIDE_PX))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
