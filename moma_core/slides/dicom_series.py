"""Which DICOM files are one slide, found by a short look at the header of each."""

from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from moma_core.runtime.folders import entries_of

SUFFIX = ".dcm"

_PREAMBLE_BYTES, _MARK = 128, b"DICM"
_HEADER_BYTES = 1 << 17  # what is looked for stands within the first few thousand
_MOST_HEADERS = 1 << 16  # kept, so that a folder is not read anew for each slide in it


class DicomFiles(NamedTuple):
    """What the DICOM files of one folder are; labels and overviews are left out.

    Args:
        slides: Files of each slide, sorted by name.
        unknown: Files `*.dcm` whose header cannot be read.
    """

    slides: list[list[Path]]
    unknown: list[Path]


class _Header(NamedTuple):
    """Of a DICOM file.

    Args:
        slide: Equal for the files of one slide; None: this holds none of its pixels.
    """

    slide: tuple[str, str] | None


def is_dicom(path: Path) -> bool:
    """Tells whether a file is DICOM by its name, or else by its first bytes.

    Those are looked at where the name ends in nothing or in a number, as a UID does.
    """
    suffix = path.suffix.lower()
    if suffix == SUFFIX:
        return True
    if not (suffix in ("", ".") or suffix[1:].isdecimal()):
        return False
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(_PREAMBLE_BYTES + len(_MARK))[_PREAMBLE_BYTES:] == _MARK
    except OSError:
        return False


def dicom_files(files: Iterable[Path]) -> DicomFiles:
    """Tells which files of one folder are which slide.

    A slide is what one series has of one container or, where none is named, of one
    frame of reference.

    Args:
        files: Those that `is_dicom` takes.
    """
    slides: defaultdict[tuple[str, str], list[Path]] = defaultdict(list)
    unknown = []
    for path in sorted(files):
        header = _header_of(path)
        if header is not None and header.slide is not None:
            slides[header.slide].append(path)
        elif header is None and path.suffix.lower() == SUFFIX:
            unknown.append(path)
    return DicomFiles(list(slides.values()), unknown)


def dicom_files_in(folder: Path) -> DicomFiles:
    """Tells which files directly in a folder are which slide; not the hidden ones.

    Raises:
        DataError: The folder cannot be listed.
    """
    return dicom_files(filter(is_dicom, entries_of(folder).files))


def files_of_slides(paths: Iterable[Path]) -> dict[Path, list[Path]]:
    """Returns the files of each slide in DICOM among paths, equal where two are one.

    Each folder is looked into once.

    Args:
        paths: Of slides of any kind: a file, or the folder of one slide.

    Raises:
        DataError: A folder cannot be listed.
    """
    found: dict[Path, list[Path]] = {}
    looked_at: dict[Path, dict[Path, list[Path]]] = {}
    for path in paths:
        is_folder = path.is_dir()
        if not is_folder and not (path.is_file() and is_dicom(path)):
            continue
        folder = path if is_folder else path.parent
        if folder not in looked_at:
            slides = dicom_files_in(folder).slides
            looked_at[folder] = {file: files for files in slides for file in files}
            if len(slides) == 1:
                looked_at[folder][folder] = slides[0]
        if path in looked_at[folder]:
            found[path] = looked_at[folder][path]
    return found


def _header_of(path: Path) -> _Header | None:
    """Returns what a file's header says; None: it cannot be read."""
    try:
        stat = path.stat()
        return _read_header(path, stat.st_size, stat.st_mtime_ns)
    except Exception:  # noqa: BLE001  # pydicom raises what it likes
        return None


@lru_cache(_MOST_HEADERS)
def _read_header(path: Path, _size_bytes: int, _modified: int) -> _Header:
    """Reads a header once, as long as the file is neither longer nor newer."""
    from pydicom.filereader import read_partial  # of the extra
    from pydicom.tag import Tag
    from pydicom.uid import (
        DeflatedExplicitVRLittleEndian,
        VLWholeSlideMicroscopyImageStorage,
    )

    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    if DeflatedExplicitVRLittleEndian.encode() in head:
        raise ValueError("pydicom would unpack it, however long it becomes")
    names = ("ImageType", "SeriesInstanceUID", "FrameOfReferenceUID")
    wanted = [Tag(name) for name in (*names, "ContainerIdentifier")]
    read = read_partial(
        BytesIO(head),
        stop_when=lambda tag, _vr, _length: tag > max(wanted),
        specific_tags=[*wanted],
    )
    kind = read.file_meta.get("MediaStorageSOPClassUID")
    if kind != VLWholeSlideMicroscopyImageStorage or "VOLUME" not in read.ImageType:
        return _Header(None)
    place = read.get("ContainerIdentifier") or read.get("FrameOfReferenceUID")
    return _Header((str(read.SeriesInstanceUID), str(place or "")))
