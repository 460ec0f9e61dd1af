"""Pictures, archives, manifests and masks of a site or a teacher's owner."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from moma_core.data.images import decode_rgb
from moma_core.data.sources.csv_manifest import list_csv_manifest
from moma_core.data.sources.medmnist import MedmnistSource
from tests.unit.bad_input.table import BadInput, written


def _picture(form: str, mode: str = "RGB", side: int = 16, **settings: Any) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (side, side)).save(file, form, **settings)
    return file.getvalue()


def _image(name: str, content: bytes, says: str) -> BadInput:
    return BadInput(name, written(decode_rgb, "patch", content), says)


def _archive(name: str, says: str, **arrays: Any) -> BadInput:
    whole: dict[str, Any] = {
        "train_images": np.zeros((2, 8, 8, 3), np.uint8),
        "train_labels": np.zeros((2, 1), np.uint8),
    }
    file = io.BytesIO()
    np.savez(file, **{k: v for k, v in (whole | arrays).items() if v is not None})
    return BadInput(name, written(MedmnistSource, "set.npz", file.getvalue()), says)


def _manifest(name: str, content: str | bytes, says: str) -> BadInput:
    def read(path: Path) -> object:
        return list_csv_manifest(path).patches()

    return BadInput(name, written(read, "m.csv", content), says)


def _missing(read: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: read(folder / "none")


_TWO_PAGES = _picture("TIFF", save_all=True, append_images=[Image.new("RGB", (16, 16))])
_SIXTEEN = _picture("PNG", "I;16")

PICTURES = (
    _image("an empty picture", b"", ""),
    _image("text in the place of a picture", b"no picture", ""),
    _image("half a picture", _picture("PNG")[:60], ""),
    _image("a picture of 16 bits", _SIXTEEN, ""),
    _image("a picture of another format", _picture("GIF"), ""),
    _image("a picture of many pages", _TWO_PAGES, ""),
    _image("a picture that is too small", _picture("PNG", side=4), ""),
    _image("a picture that is too large", _picture("PNG", side=5000), ""),
    _image("a picture that unpacks to far more", _picture("PNG", "1", side=12000), ""),
    BadInput("a picture that is not there", _missing(decode_rgb), ""),
    BadInput("a folder in the place of a picture", decode_rgb, ""),
)

ARCHIVES = (
    _archive("an archive of pickles", "", train_labels=np.array([[{}], [{}]])),
    _archive("an archive without labels", "", train_labels=None),
    _archive("an archive of other labels", "", train_labels=np.array([[0.5], [1.5]])),
    _archive("an archive of too few labels", "", train_labels=np.zeros(1, np.uint8)),
    _archive("an archive of floats", "", train_images=np.zeros((2, 8, 8, 3))),
    BadInput(
        "an archive that is none", written(MedmnistSource, "set.npz", b"PK\3\4"), ""
    ),
    BadInput("an archive that is not there", _missing(MedmnistSource), ""),
)

MANIFESTS = (
    _manifest("an Excel file", b"PK\x03\x04sheet", ""),
    _manifest("a manifest of another code page", "path,label\na.png,Müller\n".encode("latin-1"), ""),
    _manifest("a manifest without paths", "file,label\na.png,x\n", ""),
    _manifest("a manifest of nothing", "path,label\n", ""),
    _manifest("a row with a cell too many", "path,label\na.png,x,y\n", ""),
    _manifest("a path that leads out", "path\n../a.png\n", ""),
    _manifest("an absolute path", "path\n/etc/passwd\n", ""),
    _manifest("a missing label that another program wrote", "path,label\na.png,NaN\n", ""),
    _manifest("a resolution that is none", "path,mpp\na.png,40x\n", ""),
    _manifest("an unknown split", "path,split\na.png,holdout\n", ""),
    _manifest("a cell that is never closed", 'path,label\n"a.png,x\n', ""),
)
