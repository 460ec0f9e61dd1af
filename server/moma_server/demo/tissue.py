"""The demo's patches: cut into one folder an institution, as each would have its own.

Two sets: the embedded tissue picture, which every machine has, and PathMNIST, where its
file is given. Either becomes PNG files and a CSV manifest, so that the demo's sites
read what a hospital would.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moma_core.data.augment.recipe import RecipeName
from moma_core.data.patch import (
    NO_LABEL,
    SPLITS,
    TRAIN,
    UNSEEN,
    VALIDATION,
    PatchIndex,
    PatchSource,
)
from moma_core.data.sources.demo_tissue import CLASS_NAMES, EmbeddedSource
from moma_core.data.sources.medmnist import KNOWN_CLASS_NAMES, MedmnistSource
from moma_core.data.splits import hide_labels
from moma_core.errors import DataError

TEACHER = "teacher"
SITES = ("site-a", "site-b")

_TEACHER_PATCHES, _TEACHER_VALIDATION = 280, 40
_SITE_PATCHES, _SITE_VALIDATION, _MOST_UNSEEN = 240, 100, 1000
_NEEDED = _TEACHER_PATCHES + _TEACHER_VALIDATION + len(SITES) * _SITE_PATCHES
_LABELS_PER_CLASS = 5
_SEED = 1

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Tissue:
    """What the demo runs on.

    Args:
        name: Name of the data set in the output.
        claim: One sentence on what its figures are worth.
        organ: Organ that the patches show.
        task: Task of teacher and sites alike.
        class_names: Names of the classes, in the order of their labels.
        views: Recipe of the views; `geometry_only` where labels are colour.
        shares: Patches of each institution.
    """

    name: str
    claim: str
    organ: str
    task: str
    class_names: tuple[str, ...]
    views: RecipeName
    shares: dict[str, "Share"]


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """One institution's patches: rows of a source, some without a label.

    Args:
        source: Where the pixels are.
        index: Labels and splits as this institution has them.
        rows: Rows of the source that are its own.
    """

    source: PatchSource
    index: PatchIndex
    rows: NDArray[np.int64]


def embedded_tissue() -> Tissue:
    """Returns the set that every machine has.

    Raises:
        ConfigError: The extra `demo` is not installed.
    """
    shares = {}
    for part in (TEACHER, *SITES):
        source = EmbeddedSource(part)
        rows = {split: source.index.rows(split) for split in SPLITS}
        shares[part] = _share(part, source, rows)
    return Tissue(
        name="embedded: scikit-image's colonic glands, four classes of stain",
        claim="a smoke test without a claim: one picture, labels computed from colour",
        organ="colon",
        task="stain positivity",
        class_names=CLASS_NAMES,
        views="geometry_only",
        shares=shares,
    )


def pathmnist_tissue(path: Path) -> Tissue:
    """Returns shares of PathMNIST: nine tissue classes, another centre unseen.

    Args:
        path: `pathmnist.npz` of MedMNIST, or a subset of the same layout.

    Raises:
        DataError: The file is no such set, or too small.
    """
    names = KNOWN_CLASS_NAMES["pathmnist"]
    source = MedmnistSource(path, class_names=names)
    pools = {
        split: np.random.default_rng(_SEED).permutation(source.index.rows(split))
        for split in SPLITS
    }
    if len(pools[TRAIN]) < _NEEDED or len(pools[VALIDATION]) < len(SITES):
        raise DataError(f"{path} is too small: the demo trains on {_NEEDED} patches")
    return Tissue(
        name=f"PathMNIST ({path.name}): nine colon tissue classes",
        claim="28 px images: for a quick run, not for claims about diagnosis",
        organ="colon",
        task="tissue types",
        class_names=names,
        views="tissue",
        shares={
            part: _share(part, source, rows) for part, rows in _divided(pools).items()
        },
    )


def _divided(pools: dict[str, Rows]) -> dict[str, dict[str, Rows]]:
    """Returns the rows of each institution, by split; only the unseen are shared."""
    unseen = np.sort(pools[UNSEEN][:_MOST_UNSEEN])
    # The teacher validates on patches of its own: it sees none of the sites'.
    taught, held_out, rest = np.split(
        pools[TRAIN][:_NEEDED],
        [_TEACHER_PATCHES, _TEACHER_PATCHES + _TEACHER_VALIDATION],
    )
    own = {TEACHER: {TRAIN: taught, VALIDATION: held_out, UNSEEN: unseen}}
    watched = pools[VALIDATION][: len(SITES) * _SITE_VALIDATION]
    for site, train, validation in zip(
        SITES,
        np.split(rest, len(SITES)),
        np.array_split(watched, len(SITES)),
        strict=True,
    ):
        own[site] = {TRAIN: train, VALIDATION: validation, UNSEEN: unseen}
    return own


def write_share(share: Share, folder: Path) -> Path:
    """Writes PNG files and returns their manifest; what is written is all there is.

    Raises:
        DataError: A patch cannot be read.
    """
    folder.mkdir(parents=True)
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "split"))
        for place, row in enumerate(share.rows):
            name = f"{place:05d}.png"
            Image.fromarray(share.source.read(int(row)).pixels).save(folder / name)
            label = int(share.index.labels[place])
            writer.writerow(
                (
                    name,
                    "" if label == NO_LABEL else share.source.class_names[label],
                    SPLITS[share.index.splits[place]],
                )
            )
    return manifest


def _share(part: str, source: PatchSource, rows: dict[str, Rows]) -> Share:
    """The teacher knows all its labels, a site a few of each class."""
    whole = np.concatenate([rows[split] for split in SPLITS])
    counts = [len(rows[split]) for split in SPLITS]
    index = PatchIndex(
        labels=source.index.labels[whole],
        splits=np.repeat(np.arange(len(SPLITS), dtype=np.uint8), counts),
        patients=source.index.patients[whole],
    )
    if part != TEACHER:
        few = _LABELS_PER_CLASS * len(source.class_names)
        index = hide_labels(index, keep_labelled=few, seed=_SEED)
    return Share(source, index, whole)
