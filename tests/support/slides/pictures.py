"""Slides that a test paints: pink tissue, violet tumour, and glass around."""

from collections.abc import Iterator
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEGBaseline8Bit,
    VLWholeSlideMicroscopyImageStorage,
    generate_uid,
)

GLASS, STROMA, TUMOUR = (244, 243, 246), (224, 150, 196), (122, 62, 150)

_FRAME_PX = 256

WIDTH_PX, HEIGHT_PX = 1600, 1200
STROMA_BOX = (100, 100, 800, 1000)  # left, top, right, bottom
TUMOUR_BOX = (800, 100, 1500, 1000)


def painted(
    width_px: int = WIDTH_PX, height_px: int = HEIGHT_PX, *, seed: int = 0
) -> NDArray[np.uint8]:
    """Returns a slide of half stroma and half tumour, with a little noise."""
    pixels = np.full((height_px, width_px, 3), GLASS, np.int16)
    for box, colour in ((STROMA_BOX, STROMA), (TUMOUR_BOX, TUMOUR)):
        left, top, right, bottom = box
        pixels[top:bottom, left:right] = colour
    noise = np.random.default_rng(seed).integers(-6, 7, (height_px, width_px, 1))
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def write_ome(path: Path, pixels: NDArray[np.uint8], mpp: float | None = 0.5) -> Path:
    """Writes an OME-TIFF of two levels; the second one is a quarter of the first."""
    size: dict[str, Any] = {"axes": "YXS"}
    if mpp is not None:
        size |= {"PhysicalSizeX": mpp, "PhysicalSizeXUnit": "µm"}
        size |= {"PhysicalSizeY": mpp, "PhysicalSizeYUnit": "µm"}
    tiles: dict[str, Any] = {"tile": (256, 256), "photometric": "rgb"}
    tiles |= {"compression": "deflate"}
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(pixels, subifds=1, metadata=size, **tiles)
        file.write(pixels[::4, ::4], subfiletype=1, **tiles)
    return path


def write_tiff(path: Path, pixels: NDArray[np.uint8], mpp: float | None = None) -> Path:
    """Writes a tiled TIFF pyramid that OpenSlide reads; it states an mpp, or none."""
    tiles: dict[str, Any] = {"tile": (256, 256), "photometric": "rgb"}
    tiles |= {"compression": "jpeg", "metadata": None}
    if mpp is not None:
        tiles |= {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as file:
        file.write(pixels, **tiles)
        file.write(pixels[::4, ::4], subfiletype=1, **tiles)
    return path


def damage_level(path: Path, level: int, parts: int | None = None) -> None:
    """Overwrites the pixels of one level of a file of `write_tiff`.

    Args:
        path: The file.
        level: Place of the level.
        parts: How many of its tiles, from the upper left; None: all.
    """
    with tifffile.TiffFile(path) as file:
        page = file.series[0].levels[level].pages[0]
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    with path.open("r+b") as raw:
        for offset, count in places[:parts]:
            raw.seek(offset)
            raw.write(b"\0" * count)


def write_dicom(
    path: Path, pixels: NDArray[np.uint8], mpp: float = 0.5, **values: Any
) -> Path:
    """Writes a slide of one level as DICOM (VL Whole Slide Microscopy), in JPEG.

    Args:
        path: The file.
        pixels: (H, W, 3) uint8.
        mpp: Microns a pixel.
        values: What else it says, or other than usual, by keyword.
    """
    frames = list(_frames(pixels))
    height, width = pixels.shape[:2]
    slide = Dataset()
    slide.file_meta = FileMetaDataset()
    slide.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    slide.SOPClassUID = VLWholeSlideMicroscopyImageStorage
    for key in ("SOPInstance", "StudyInstance", "SeriesInstance", "FrameOfReference"):
        setattr(slide, f"{key}UID", generate_uid())
    slide.Modality, slide.ImageType = "SM", ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    slide.Rows = slide.Columns = _FRAME_PX
    slide.TotalPixelMatrixColumns, slide.TotalPixelMatrixRows = width, height
    slide.NumberOfFrames = len(frames)
    slide.ImagedVolumeWidth = width * mpp / 1000
    slide.ImagedVolumeHeight = height * mpp / 1000
    slide.ImagedVolumeDepth = 0.01
    _state_pixel_format(slide)
    slide.DimensionOrganizationType = "TILED_FULL"
    slide.FocusMethod, slide.ExtendedDepthOfField = "AUTO", "NO"
    slide.TotalPixelMatrixFocalPlanes = slide.NumberOfOpticalPaths = 1
    slide.OpticalPathSequence = [_dataset(OpticalPathIdentifier="0")]
    measures = _dataset(PixelSpacing=[mpp / 1000] * 2, SliceThickness=0.01)
    slide.SharedFunctionalGroupsSequence = [_dataset(PixelMeasuresSequence=[measures])]
    for key, value in values.items():
        setattr(slide, key, value)
    slide.PixelData = encapsulate(frames)
    slide["PixelData"].VR = "OB"
    slide["PixelData"].is_undefined_length = True
    slide.save_as(path, enforce_file_format=True)
    return path


def _state_pixel_format(slide: Dataset) -> None:
    slide.SamplesPerPixel, slide.PhotometricInterpretation = 3, "YBR_FULL_422"
    slide.PlanarConfiguration, slide.PixelRepresentation = 0, 0
    slide.BitsAllocated = slide.BitsStored = 8
    slide.HighBit, slide.LossyImageCompression = 7, "01"


def _frames(pixels: NDArray[np.uint8]) -> Iterator[bytes]:
    height, width = pixels.shape[:2]
    for top, left in product(range(0, height, _FRAME_PX), range(0, width, _FRAME_PX)):
        tile = np.full((_FRAME_PX, _FRAME_PX, 3), 255, np.uint8)
        part = pixels[top : top + _FRAME_PX, left : left + _FRAME_PX]
        tile[: part.shape[0], : part.shape[1]] = part
        encoded = BytesIO()
        Image.fromarray(tile).save(encoded, "JPEG", quality=95, subsampling=0)
        yield encoded.getvalue()


def _dataset(**values: Any) -> Dataset:
    dataset = Dataset()
    for key, value in values.items():
        setattr(dataset, key, value)
    return dataset
