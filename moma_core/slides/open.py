"""Which paths are slides, and opening them with the library that fits."""

import importlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from moma_core.errors import ConfigError, DataError
from moma_core.runtime.folders import entries_of, is_special
from moma_core.slides.dicom_series import (
    SUFFIX,
    DicomFiles,
    dicom_files,
    is_dicom,
)
from moma_core.slides.slide import Slide

_ALWAYS = frozenset(
    {".svs", ".svslide", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".qptiff"}
)
_MAYBE = frozenset({".tif", ".tiff"})
_OME = (".ome.tif", ".ome.tiff")

_PATCH_SIDE_PX = 4096  # a picture that is larger is no patch
# some programs write patches in tiles, too, of up to what networks take; a slide in
# tiles is larger: this is half a millimetre of tissue at 0.5 microns a pixel
_TILED_PATCH_SIDE_PX = 1024
_MOST_DEPTH = 100  # of folders in one another
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

    A TIFF is one if it is larger than a patch, in tiles or not, or OME's; a folder, if
    it holds DICOM files.

    Raises:
        DataError: The folder cannot be listed.
    """
    if path.is_dir():
        return any(is_dicom(entry) for entry in entries_of(path).files)
    return is_dicom(path) or _is_slide_file(path)


def list_slides(folder: Path) -> list[Path]:
    """Returns the slides below a folder, sorted.

    Hidden ones are passed over, and what operating systems put there.

    The DICOM files of a series are one slide, and its first file stands for it. A
    folder that holds one series and no other slide stands for it itself.

    Raises:
        ConfigError: There are DICOM files, and the package that reads them is missing.
        DataError: A folder cannot be listed, or lies too deep.
    """
    return _slides_of(folder, is_link=False, depth=0)


def _slides_of(folder: Path, *, is_link: bool, depth: int) -> list[Path]:
    """Returns the slides of a folder; in a linked one, DICOM that it holds itself."""
    if depth > _MOST_DEPTH:
        raise DataError(
            f"the folder {folder} lies more than {_MOST_DEPTH} folders deep: move its "
            f"slides, or take it out of the data"
        )
    files, folders = entries_of(folder)
    dicom = {path for path in files if is_dicom(path)}
    own: list[Path] = []
    whole: list[Path] = []  # folders that are a slide
    rest: list[Path] = []
    if not is_link:
        own = [path for path in files if path not in dicom and _is_slide_file(path)]
        for each in folders:
            below = _slides_of(each, is_link=each.is_symlink(), depth=depth + 1)
            (whole if below == [each] else rest).extend(below)
    if not dicom:
        return [*whole, *own, *rest]
    require("pydicom")
    found = dicom_files(dicom)
    if not (own or whole or rest) and _is_one_slide(found, dicom):
        return [folder]
    own += [*(slide[0] for slide in found.slides), *found.unknown]
    return [*whole, *sorted(own), *rest]


def _is_one_slide(found: DicomFiles, dicom: set[Path]) -> bool:
    """Whether a folder is a slide, or was meant as one: to open it says what lacks."""
    if found.slides:
        return len(found.slides) == 1
    return any(path.suffix.lower() == SUFFIX for path in dicom)


def _is_slide_file(path: Path) -> bool:
    suffix = path.suffix.lower()
    if suffix in _MAYBE:
        is_ome = path.name.lower().endswith(_OME)
        return is_ome or (path.is_file() and _is_large_tiff(path))
    return suffix in _ALWAYS


def slide_name(path: Path) -> str:
    """Returns what a slide is called: its file's name without its endings.

    It is the name of a folder, and never one that leads out of where that is made.
    """
    if path.is_dir() or path.suffix[1:].isdecimal():  # the last part of a UID
        return Path(os.path.abspath(path)).name  # noqa: PTH100 - `..` is no name
    lower = path.name.lower()
    ending = next((end for end in _OME if lower.endswith(end)), path.suffix)
    name = path.name[: len(path.name) - len(ending)]
    return name if name.strip(".") else path.name


def open_slide(
    path: Path, mpp: float | None = None, files: Sequence[Path] = ()
) -> Slide:
    """Opens a slide with wsidicom, tifffile or OpenSlide, by what it is.

    Args:
        path: File, or folder of DICOM files.
        mpp: Microns a pixel of level 0, for a slide that states none.
        files: All of a slide in DICOM, where they are known: its folder may be large.

    Raises:
        ConfigError: A package is missing.
        DataError: It cannot be opened; the message names it, for this site alone.
    """
    if not path.exists():
        raise DataError(f"there is no slide {path}")
    try:
        if is_special(path):
            raise DataError("it is a pipe or a device, and no file")
        slide = _opened(path, files)
    except DataError as error:
        raise DataError(f"cannot open the slide {path}: {error}") from None
    slide.mpp = slide.mpp or mpp
    return slide


def _opened(path: Path, files: Sequence[Path]) -> Slide:
    if path.is_dir() or is_dicom(path):
        require("wsidicom")
        from moma_core.slides.dicom_folder import DicomFolder

        return DicomFolder.open(path, files)
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
                is_tiled = _TILE_WIDTH in tags
                largest = _TILED_PATCH_SIDE_PX if is_tiled else _PATCH_SIDE_PX
                return max(picture.size) > largest
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        return True
    except Exception:  # noqa: BLE001  # Pillow raises what it likes
        return False  # whoever reads it as a picture says why it is none
