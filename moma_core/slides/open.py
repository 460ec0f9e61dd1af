"""Which paths are slides, and opening them with the library that fits."""

import importlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from moma_core.errors import ConfigError, DataError
from moma_core.slides.slide import Slide

_ALWAYS = frozenset(
    {".svs", ".svslide", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".qptiff"}
)
_MAYBE = frozenset({".tif", ".tiff"})
_DICOM = frozenset({".dcm"})
_OME = (".ome.tif", ".ome.tiff")

_PATCH_SIDE_PX = 4096  # a picture that is larger is no patch
_TILE_WIDTH = 322  # the TIFF tag of a file in tiles


def require(*packages: str) -> None:
    """Refuses to begin without the packages of the extra.

    Args:
        packages: Names as they are imported.

    Raises:
        ConfigError: One is missing.
    """
    for name in packages:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(
                f"whole slides need {name} ({error}): pip install "
                f"'moma-service[slides]'"
            ) from None


def is_slide(path: Path) -> bool:
    """Tells whether a path is a whole slide; needs no package of the extra.

    A TIFF is one if it is in tiles, larger than a patch, or OME's; a folder, if it
    holds DICOM files.
    """
    suffix = path.suffix.lower()
    if path.is_dir():
        return any(entry.suffix.lower() in _DICOM for entry in path.iterdir())
    if suffix in _MAYBE:
        return path.name.lower().endswith(_OME) or _is_large_tiff(path)
    return suffix in _ALWAYS or suffix in _DICOM


def list_slides(folder: Path) -> Iterator[Path]:
    """Yields the slides below a folder, sorted; hidden ones are passed over."""
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in list(folders):
            if is_slide(Path(here) / name):  # a folder of DICOM is one slide
                folders.remove(name)
                yield Path(here) / name
        for name in sorted(files):
            path = Path(here) / name
            if not name.startswith(".") and is_slide(path):
                yield path


def slide_name(path: Path) -> str:
    """Returns what a slide is called: its file's name without its endings."""
    if path.is_dir():
        return path.name
    lower = path.name.lower()
    ending = next((end for end in _OME if lower.endswith(end)), path.suffix)
    return path.name[: len(path.name) - len(ending)]


def open_slide(path: Path, mpp: float | None = None) -> Slide:
    """Opens a slide with wsidicom, tifffile or OpenSlide, by what it is.

    Args:
        path: File, or folder of DICOM files.
        mpp: Microns a pixel of level 0, for a slide that states none.

    Raises:
        ConfigError: A package is missing.
        DataError: It cannot be opened; the message names it, for this site alone.
    """
    if not path.exists():
        raise DataError(f"there is no slide {path}")
    try:
        slide = _opened(path)
    except DataError as error:
        raise DataError(f"cannot open the slide {path}: {error}") from None
    slide.mpp = slide.mpp or mpp
    return slide


def _opened(path: Path) -> Slide:
    if path.is_dir() or path.suffix.lower() in _DICOM:
        require("wsidicom")
        from moma_core.slides.dicom_folder import DicomFolder

        return DicomFolder.open(path)
    if path.name.lower().endswith(_OME):
        return _opened_tiff(path)
    require("openslide")
    from moma_core.slides.openslide_file import OpenSlideFile

    try:
        return OpenSlideFile.open(path)
    except DataError:
        if path.suffix.lower() in _MAYBE:
            return _opened_tiff(path)
        raise


def _opened_tiff(path: Path) -> Slide:
    require("tifffile", "imagecodecs")
    from moma_core.slides.tiff_file import TiffFile

    return TiffFile.open(path)


def _is_large_tiff(path: Path) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damage
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=("TIFF",)) as picture:
                tags = getattr(picture, "tag_v2", {})
                return max(picture.size) > _PATCH_SIDE_PX or _TILE_WIDTH in tags
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        return True
    except Exception:  # noqa: BLE001  # Pillow raises what it likes
        return False  # whoever reads it as a picture says why it is none
