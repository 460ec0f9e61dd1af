"""A slide's outputs as files: CSV, QuPath's GeoJSON, and HDF5 in TRIDENT's layout."""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moma_client.student.slides.colours import class_colours
from moma_core.data.inventory import printable
from moma_core.runtime.csv_text import plain_cell
from moma_core.slides.coordinates import write_coordinates
from moma_core.slides.grid import PatchGrid
from moma_core.slides.slide import Pixels, Slide

_SHORT_DIGEST = 12


@dataclass(frozen=True, slots=True)
class StudentIdentity:
    """Which student looked at a slide.

    Args:
        name: Of its run; of its folder where it was never exported.
        digest: SHA-256 of its weights, hex.
        temperature: What its logits were divided by; None: 1.
    """

    name: str
    digest: str
    temperature: float | None

    def __str__(self) -> str:
        return f"student {self.name}, SHA-256 {self.digest[:_SHORT_DIGEST]}"


@dataclass(frozen=True, slots=True)
class SlideOutputs:
    """What a student said to the patches of one slide.

    Args:
        name: Of the slide.
        student: That looked at it.
        class_names: Name of each class.
        is_ordered: Whether the classes are grades, in this order.
        grid: The N patches.
        shares: (N, C) float32, probability of each class; NaN where there is none.
        errors: Why a patch has no probabilities; empty: it has. N texts.
        thumbnail: Of the slide, (H, W, 3) uint8.
        damaged: What of the thumbnail cannot be read, (H, W).
        width_px: Of the slide, at level 0.
        mpp: Microns a pixel of level 0.
    """

    name: str
    student: StudentIdentity
    class_names: tuple[str, ...]
    is_ordered: bool
    grid: PatchGrid
    shares: NDArray[np.float32]
    errors: list[str]
    thumbnail: Pixels
    damaged: NDArray[np.bool_]
    width_px: int
    mpp: float

    @property
    def has_shares(self) -> NDArray[np.bool_]:
        """Which patches have probabilities, (N,)."""
        return np.asarray(np.isfinite(self.shares).all(axis=1))

    @property
    def classes(self) -> NDArray[np.int64]:
        """The likeliest class of each patch, (N,); -1 where there is none."""
        likeliest = np.where(np.isnan(self.shares), -1, self.shares).argmax(axis=1)
        found: NDArray[np.int64] = np.where(self.has_shares, likeliest, -1)
        return found

    def summary(self) -> dict[str, Any]:
        """Returns how much of the slide is of which class."""
        read = int(self.has_shares.sum())
        area_mm2 = (self.grid.side_px * self.mpp / 1000) ** 2
        counts = np.bincount(self.classes[self.has_shares], minlength=len(self.names))
        means = self.shares[self.has_shares].mean(axis=0) if read else counts * 0.0
        each = zip(self.names, counts.tolist(), means.tolist(), strict=True)
        return {
            "slide": printable(self.name),
            "student": {
                "name": self.student.name,
                "weights_sha256": self.student.digest,
                "temperature": self.student.temperature,
                "patch_size_px": self.grid.size_px,
                "patch_mpp": round(self.grid.side_px / self.grid.size_px * self.mpp, 6),
            },
            "patches": read,
            "unread_patches": len(self.grid) - read,
            "unread_share": round(1 - read / len(self.grid), 4),
            "damaged_share": round(float(self.damaged.mean()), 4),
            "patch_area_mm2": round(area_mm2, 6),
            "classes": {
                name: {
                    "patches": count,
                    "share": round(count / read, 4) if read else None,
                    "mean_probability": round(mean, 4),
                }
                for name, count, mean in each
            },
        }

    @property
    def names(self) -> list[str]:
        """The class names as a file can hold them."""
        return [printable(name) for name in self.class_names]


def write_csv(path: Path, outputs: SlideOutputs) -> None:
    """Writes a line a patch: where it lies, its class, and each probability."""
    draft = path.with_name(f".{path.name}.partial")
    with draft.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        place = ("x_px", "y_px", "side_px")
        names = map(plain_cell, outputs.names)
        writer.writerow((*place, "class", *names, "error"))
        for number, likeliest in enumerate(outputs.classes.tolist()):
            corner = outputs.grid.corners[number].tolist()
            writer.writerow(
                (*corner, outputs.grid.side_px, *_cells(outputs, number, likeliest))
            )
    draft.replace(path)


def _cells(outputs: SlideOutputs, number: int, likeliest: int) -> list[str]:
    if likeliest < 0:
        return ["", *("" for _ in outputs.names), plain_cell(outputs.errors[number])]
    shares = (f"{share:.4f}" for share in outputs.shares[number].tolist())
    return [plain_cell(outputs.names[likeliest]), *shares, ""]


def write_geojson(path: Path, outputs: SlideOutputs) -> None:
    """Writes a tile a patch, as QuPath imports it: class, colour, probabilities."""
    draft = path.with_name(f".{path.name}.partial")
    with draft.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        for number, feature in enumerate(_features(outputs)):
            file.write(",\n" if number else "\n")
            json.dump(feature, file)
        file.write("\n]}\n")
    draft.replace(path)


def _features(outputs: SlideOutputs) -> Iterator[dict[str, Any]]:
    colours = class_colours(len(outputs.names), is_ordered=outputs.is_ordered)
    side = outputs.grid.side_px
    for number, likeliest in enumerate(outputs.classes.tolist()):
        if likeliest < 0:
            continue
        left, top = outputs.grid.corners[number].tolist()
        right, bottom = left + side, top + side
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        shares = (round(share, 4) for share in outputs.shares[number].tolist())
        yield {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {
                "objectType": "tile",
                "classification": {
                    "name": outputs.names[likeliest],
                    "color": list(colours[likeliest]),
                },
                "measurements": {
                    f"probability {name}": share
                    for name, share in zip(outputs.names, shares, strict=True)
                },
            },
        }


def write_hdf5(
    path: Path,
    outputs: SlideOutputs,
    slide: Slide,
    embeddings: Iterator[NDArray[np.float32]] | None,
    encoder: str,
) -> None:
    """Writes `coords`, `probabilities` and, where asked for, `features`.

    Args:
        path: File to write.
        outputs: Of the slide.
        slide: Whose patches they are.
        embeddings: In blocks of rows; None: nobody asked for them.
        encoder: Name of the student's architecture.
    """
    data: dict[str, Iterator[NDArray[Any]]] = {
        "probabilities": iter([outputs.shares]),
    }
    if embeddings is not None:
        data["features"] = embeddings
    more: dict[str, str | Sequence[str]] = {
        "class_names": outputs.names,
        "encoder": encoder,
        "student": str(outputs.student),
    }
    write_coordinates(path, outputs.grid, slide, outputs.name, data, more)
