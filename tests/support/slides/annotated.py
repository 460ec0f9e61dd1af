"""Slides of a hospital: patches by TRIDENT, classes by polygons of QuPath."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from moma_core.data.sources.demo_tissue import CLASS_NAMES
from tests.support.slides.pictures import STROMA_BOX, TUMOUR_BOX, painted, write_ome

SLIDES = {"one": "train", "two": "train", "three": "validation", "four": "test"}


def annotated_slides(folder: Path) -> dict[str, Any]:
    """Writes four slides and what was said of them, and returns the `data` section.

    Args:
        folder: Of the config; 70 patches of a slide lie on polygons of two classes.
    """
    for name in ("slides", "trident/patches", "qupath"):
        (folder / name).mkdir(parents=True)
    lines = ["path,patient_id,split,centre"]
    for seed, (name, split) in enumerate(SLIDES.items()):
        pixels = painted(seed=seed)  # else patches of two splits would be copies
        write_ome(folder / "slides" / f"{name}.ome.tif", pixels, 0.5)
        lines.append(f"{name}.ome.tif,patient {name},{split},clinic {seed % 2}")
        write_trident(folder / f"trident/patches/{name}_patches.h5", name)
        features = [
            _feature(CLASS_NAMES[0], STROMA_BOX),
            _feature(CLASS_NAMES[1], TUMOUR_BOX),
        ]
        text = json.dumps({"type": "FeatureCollection", "features": features})
        (folder / "qupath" / f"{name}.geojson").write_text(text)
    (folder / "slides" / "slides.csv").write_text("\n".join(lines) + "\n")
    return {
        "kind": "slides",
        "manifest": "slides/slides.csv",
        "coordinates": "trident",
        "annotations": {"geojson": "qupath"},
        "class_names": list(CLASS_NAMES),
    }


def write_trident(path: Path, name: str, shift_px: int = 0) -> None:
    """Writes the coordinates of a slide as TRIDENT does: 64 px patches at 1.0 mpp."""
    x, y = np.meshgrid(np.arange(128, 1400, 128), np.arange(128, 900, 128))
    corners = np.stack([x.ravel(), y.ravel()], axis=1) + shift_px
    with h5py.File(path, "w") as file:
        coords = file.create_dataset("coords", data=corners)
        coords.attrs.update(patch_size=64, patch_size_level0=128, overlap=0, name=name)


def _feature(label: str, box: tuple[int, int, int, int]) -> dict[str, Any]:
    left, top, right, bottom = box
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"classification": {"name": label}},
    }
