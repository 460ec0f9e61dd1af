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
    _image("an empty picture", b"", "a file is no image of a known format"),
    _image(
        "text in the place of a picture",
        b"no picture",
        "a file is no image of a known format",
    ),
    _image(
        "half a picture",
        _picture("JPEG", side=99)[:300],
        "an image is damaged: OSError",
    ),
    _image(
        "a picture of 16 bits",
        _SIXTEEN,
        "an image has 16 bits a channel, expected 8-bit RGB: convert it, with "
        "white at 255",
    ),
    _image(
        "a picture of another format",
        _picture("GIF"),
        "a file is no image of a known format",
    ),
    _image(
        "a picture of many pages",
        _TWO_PAGES,
        "an image has 2 pages or frames, a patch is one: export the one that is meant",
    ),
    _image(
        "a picture that is too small",
        _picture("PNG", side=4),
        "a patch is 4x4 px, expected 8 to 4096 px a side",
    ),
    _image(
        "a picture that is too large",
        _picture("PNG", side=5000),
        "a patch is 5000x5000 px, expected 8 to 4096 px a side",
    ),
    _image(
        "a picture that unpacks to far more",
        _picture("PNG", "1", side=12000),
        "an image has far more pixels than a patch",
    ),
    BadInput(
        "a picture that is not there", _missing(decode_rgb), "there is no such file"
    ),
    BadInput(
        "a folder in the place of a picture",
        decode_rgb,
        "an image is damaged: IsADirectoryError",
    ),
)

ARCHIVES = (
    _archive(
        "an archive of pickles",
        "train_labels.npy holds Python objects (pickles), which stay shut",
        train_labels=np.array([[{}], [{}]]),
    ),
    _archive(
        "an archive without labels",
        "the archive has no train_labels.npy, only train_images.npy",
        train_labels=None,
    ),
    _archive(
        "an archive of other labels",
        "train_labels are no class indices",
        train_labels=np.array([[0.5], [1.5]]),
    ),
    _archive(
        "an archive of too few labels",
        "train_labels has shape (1,), expected one each",
        train_labels=np.zeros(1, np.uint8),
    ),
    _archive(
        "an archive of floats",
        "train_images.npy is float64 of shape (2, 8, 8, 3), expected 8-bit RGB",
        train_images=np.zeros((2, 8, 8, 3)),
    ),
    BadInput(
        "an archive that is none",
        written(MedmnistSource, "set.npz", b"PK\3\4"),
        "cannot read ./set.npz: it is damaged, or no archive of numpy arrays "
        "(BadZipFile); fetch it again",
    ),
    BadInput(
        "an archive that is not there",
        _missing(MedmnistSource),
        "cannot read ./none: [Errno 2] No such file or directory: './none'",
    ),
)

MANIFESTS = (
    _manifest(
        "an Excel file",
        b"PK\x03\x04sheet",
        "./m.csv is an Excel or zip file, not CSV: save it as CSV in UTF-8 (in "
        "Excel: CSV UTF-8)",
    ),
    _manifest(
        "a manifest of another code page",
        "path,label\na.png,Müller\n".encode("latin-1"),
        "./m.csv: line 2 is not UTF-8 (byte 0xfc, as Windows-1252 has it): save"
        " it as CSV in UTF-8 (in Excel: CSV UTF-8)",
    ),
    _manifest(
        "a manifest without paths",
        "file,label\na.png,x\n",
        "./m.csv: the header has a column 'file': call it `path` if it is that,"
        " and otherwise something else; known: path, label, patient_id, "
        "slide_id, split, mpp, centre",
    ),
    _manifest(
        "a manifest of nothing",
        "path,label\n",
        ". holds no patches: m.csv lists none below its header",
    ),
    _manifest(
        "a row with a cell too many",
        "path,label\na.png,x,y\n",
        "./m.csv line 2: the row has not as many cells as the header, 3 for 2: "
        "separate them as the header does, and put a cell that holds the "
        "separator into double quotes",
    ),
    _manifest(
        "a path that leads out",
        "path\n../a.png\n",
        "./m.csv line 2: the path '../a.png' is empty, absolute or leads out of"
        " .: paths start at that folder",
    ),
    _manifest(
        "an absolute path",
        "path\n/etc/passwd\n",
        "./m.csv line 2: the path '/etc/passwd' is absolute: set data.root to "
        "the folder of the pictures, or write paths that start at the "
        "manifest's folder",
    ),
    _manifest(
        "a missing label that another program wrote",
        "path,label\na.png,NaN\n",
        "./m.csv line 2: label 'NaN' looks like a missing value: leave the cell"
        " empty, or give it another name",
    ),
    _manifest(
        "a resolution that is none",
        "path,mpp\na.png,40x\n",
        "./m.csv line 2: mpp '40x' is not a number of microns a pixel, such as "
        "0.5 or 0.25",
    ),
    _manifest(
        "an unknown split",
        "path,split\na.png,later\n",
        "./m.csv line 2: split 'later' is unknown, expected one of train, "
        "training, validation, valid, val, dev, unseen, test, testing, holdout",
    ),
    _manifest(
        "a cell that is never closed",
        'path,label\n"a.png,x\n',
        "./m.csv line 2: a row begins here whose quotes do not match (unexpected end "
        "of data): close each double quote in its line, write one inside a cell twice, "
        "or take it out",
    ),
)
