"""A new user's site: a folder of pictures that is in order, and a teacher for it."""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from moma_core.data.sources.demo_tissue import CLASS_NAMES
from tests.support.federation.pki import Pki
from tests.support.machine.pictures import noise
from tests.support.site.tiny_site import write_teacher

SPLITS = ("train", "validation", "unseen")
SIDE_PX = 32


class FirstDay:
    """What a mistake is made in: the pictures, and the values of the config.

    Args:
        folder: Its own.
        pki: The federation.
    """

    def __init__(self, folder: Path, pki: Pki) -> None:
        self.folder, self.root = folder, folder / "patches"
        self.path = folder / "config.yaml"
        self.card = write_teacher(folder / "teacher")
        for place, split in enumerate(SPLITS):
            for label in CLASS_NAMES:
                self.add(split, label, 12, first=100 * place)
        files = pki.write(folder / "keys", pki.site("site-a"))
        self.values: dict[str, Any] = {
            "site": "site-a",
            "federation": pki.federation,
            "state_dir": str(folder / "state"),
            "identity": {
                "certificate": str(files.certificate),
                "key": str(files.key),
                "authority": str(files.ca),
                "node_key": str(files.key),
                "signing_key": str(files.signing_key),
            },
            "coordinator": {"address": "localhost:1"},
            "teacher": {
                "mode": "local",
                "card": "teacher/card.json",
                "weights_file": "teacher/weights.safetensors",
            },
            "task": {"organ": "colon", "task": "stain"},
            "data": {
                "kind": "image_folder",
                "root": str(self.root),
                "patient_pattern": r"(p\d+)",
            },
            "view_size_px": SIDE_PX,
            "student": {
                "architecture": "test_efficientnet",
                "weights_file": "teacher/weights.safetensors",
            },
            "training": {"batch_size": 16, "threads": 1, "accelerator": "cpu"},
        }

    def add(self, split: str, label: str, count: int, *, first: int = 0) -> None:
        """Writes pictures, each of a patient of its own, by its number."""
        place = self.root / split / label
        place.mkdir(parents=True, exist_ok=True)
        for number in range(first, first + count):
            seed = zlib.crc32(f"{split}/{label}/{number}".encode())
            picture(place / f"p{number}.png", seed)

    def set(self, section: str, **keys: Any) -> None:
        """Changes keys of a section."""
        self.values[section] = {**self.values.get(section, {}), **keys}

    def rename(self, label: str, name: str) -> None:
        """Renames a class in every split."""
        for split in SPLITS:
            (self.root / split / label).rename(self.root / split / name)

    def pictures(self, split: str = "", label: str = "") -> list[Path]:
        """Returns pictures, of all splits and classes unless named."""
        return sorted(self.root.glob(f"{split or '*'}/{label or '*'}/*.png"))

    def manifest(self, rows: Mapping[Path, Mapping[str, str]] | None = None) -> Path:
        """Lists the pictures in a manifest, with what `rows` changes, and uses it."""
        lines = ["path,label,patient_id,slide_id,split,mpp"]
        for path in self.pictures():
            split, label = path.parts[-3:-1]
            cells = dict.fromkeys(("slide_id", "mpp"), "")
            cells |= {"label": label, "split": split, "patient_id": path.stem}
            cells |= (rows or {}).get(path, {})
            order = (cells[key] for key in lines[0].split(",")[1:])
            lines.append(",".join([str(path.relative_to(self.root)), *order]))
        manifest = self.root / "manifest.csv"
        manifest.write_text("\n".join(lines) + "\n")
        self.values["data"] = {"kind": "csv_manifest", "path": str(manifest)}
        return manifest

    def write(self) -> Path:
        """Writes the config and returns its path."""
        self.path.write_text(yaml.safe_dump(self.values))
        return self.path


def picture(path: Path, seed: int, *, height: int = SIDE_PX, width: int = 0) -> None:
    """Writes a picture of noise."""
    Image.fromarray(noise(seed, height, width or height)).save(path)


def plain(path: Path, value: int) -> None:
    """Writes a picture of one colour."""
    Image.fromarray(np.full((SIDE_PX, SIDE_PX, 3), value, np.uint8)).save(path)


def grey(path: Path, seed: int) -> None:
    """Writes a picture whose channels are equal."""
    Image.fromarray(noise(seed, SIDE_PX, SIDE_PX)[:, :, 0]).save(path)
