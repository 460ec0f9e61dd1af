"""Patches in a MedMNIST archive: `{train,val,test}_{images,labels}` in one `.npz`.

Source: Yang et al., MedMNIST v2, Sci Data 10:41 (2023).
"""

import math
import os
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moma_core.data.images import check_size
from moma_core.data.inventory import Inventory, PassedOver, printable
from moma_core.data.patch import (
    SPLITS,
    UNKNOWN_PATIENT,
    Patch,
    PatchIndex,
    check_class_names,
)
from moma_core.errors import DataError
from moma_core.runtime.array_faults import ARRAY_FAULTS

KNOWN_CLASS_NAMES = {
    "pathmnist": ("ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM"),
}
"""Names that the archives leave out, by the name of the set."""

DEFAULT_MEMORY_LIMIT_BYTES = 2 * 1024**3

_SPLIT_KEYS = ("train", "val", "test")  # in the order of SPLITS
_WHAT = ("images", "labels")


class MedmnistSource:
    """The patches of an archive; `test` is the unseen split, nobody names patients.

    Without a `cache_dir` the pixels are held in memory, up to a limit. With one they
    are unpacked once into plain arrays, which are mapped and cost no memory. A copy
    sent to another process opens the archive again instead of carrying the pixels.

    Args:
        path: The `.npz`.
        class_names: By class index; None takes "0", "1", ...
        cache_dir: Where to unpack; may be shared by runs.
        memory_limit_bytes: What the pixels may take without a `cache_dir`.

    Raises:
        DataError: The archive is missing, damaged, too large, or breaks the layout.
    """

    def __init__(
        self,
        path: Path,
        *,
        class_names: Sequence[str] | None = None,
        cache_dir: Path | None = None,
        memory_limit_bytes: int = DEFAULT_MEMORY_LIMIT_BYTES,
    ) -> None:
        self._arguments = {
            "class_names": class_names,
            "cache_dir": cache_dir,
            "memory_limit_bytes": memory_limit_bytes,
        }
        self._path = path
        try:
            with zipfile.ZipFile(path) as archive:
                members = _Members(archive, memory_limit_bytes, cache_dir)
                parts = [members.split(key) for key in _SPLIT_KEYS]
                passed_over = members.passed_over()
        except OSError as error:
            raise DataError(f"cannot read {path}: {error}") from error
        except ARRAY_FAULTS as error:
            raise DataError(
                f"cannot read {path}: it is damaged, or no archive of numpy arrays "
                f"({type(error).__name__}); fetch it again"
            ) from error
        if not any(len(images) for images, _ in parts):
            raise DataError(f"{path} holds no patches: fetch it again")
        self._images = [images for images, _ in parts]
        self._ends = np.cumsum([len(images) for images in self._images])
        self.index = _index([labels for _, labels in parts], passed_over)
        self.class_names = _names(class_names, int(self.index.labels.max()))

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self._path, self._arguments)

    def read(self, row: int) -> Patch:
        """Returns one patch; grey images become RGB."""
        split = int(np.searchsorted(self._ends, row, side="right"))
        images = self._images[split]
        pixels = images[row - (self._ends[split] - len(images))]
        if pixels.ndim == 2:
            pixels = np.repeat(pixels[..., np.newaxis], 3, axis=2)
        return Patch(
            pixels=np.array(pixels),
            label=int(self.index.labels[row]),
            patient=None,
            slide=None,
            resolution_mpp=None,
        )


def _reopen(path: Path, arguments: dict[str, Any]) -> MedmnistSource:
    return MedmnistSource(path, **arguments)


def _index(
    labels: list[NDArray[np.int16]], passed_over: tuple[PassedOver, ...]
) -> PatchIndex:
    counts = [len(part) for part in labels]
    return PatchIndex(
        labels=np.concatenate(labels),
        splits=np.repeat(np.arange(len(SPLITS), dtype=np.uint8), counts),
        patients=np.full(sum(counts), UNKNOWN_PATIENT, dtype=np.int32),
        passed_over=passed_over,
    )


def _names(given: Sequence[str] | None, highest_label: int) -> tuple[str, ...]:
    names = tuple(given or map(str, range(highest_label + 1)))
    check_class_names(names)
    if highest_label >= len(names):
        raise DataError(f"label {highest_label} has no name among {len(names)}")
    return names


class _Members:
    """The arrays of an open archive, checked by their headers before being read."""

    def __init__(
        self, archive: zipfile.ZipFile, limit_bytes: int, cache_dir: Path | None
    ) -> None:
        self._archive = archive
        self._left_bytes = limit_bytes
        self._cache_dir = cache_dir

    def split(self, key: str) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
        """Returns images, (N, H, W, 3) or (N, H, W) uint8, and labels, (N,)."""
        names = self._archive.namelist()
        if key != "train" and not {f"{key}_images.npy", f"{key}_labels.npy"} & {*names}:
            return np.zeros((0, 8, 8, 3), np.uint8), np.zeros(0, np.int16)
        images = self._images(f"{key}_images.npy")
        labels = self._read(f"{key}_labels.npy")
        if labels.shape not in {(len(images),), (len(images), 1)}:
            raise DataError(f"{key}_labels has shape {labels.shape}, expected one each")
        if labels.dtype.kind not in "iu" or not _fit_int16(labels):
            raise DataError(f"{key}_labels are no class indices")
        return images, labels.reshape(-1).astype(np.int16)

    def passed_over(self) -> tuple[PassedOver, ...]:
        """Returns the members that are no split's images or labels."""
        inventory = Inventory()
        ours = {f"{key}_{what}.npy" for key in _SPLIT_KEYS for what in _WHAT}
        for name in sorted(set(self._archive.namelist()) - ours):
            inventory.note("member", name)
        return inventory.passed_over()

    def _images(self, name: str) -> NDArray[np.uint8]:
        shape, dtype = self._header(name)
        is_rgb, is_grey = len(shape) == 4 and shape[3] == 3, len(shape) == 3
        if dtype != np.uint8 or not (is_rgb or is_grey):
            raise DataError(f"{name} is {dtype} of shape {shape}, expected 8-bit RGB")
        check_size(shape[1], shape[2])
        if self._cache_dir is not None:
            return _mapped(self._unpacked(name, self._cache_dir))
        return self._read(name)

    def _read(self, name: str) -> NDArray[Any]:
        shape, dtype = self._header(name)
        self._left_bytes -= math.prod(shape) * dtype.itemsize
        if self._left_bytes < 0:
            raise DataError(
                f"{name} does not fit the memory limit: set cache_dir, so that the "
                "archive is unpacked once and mapped"
            )
        with self._archive.open(name) as member:
            return np.lib.format.read_array(member, allow_pickle=False)

    def _header(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        try:
            with self._archive.open(name) as member:
                version = np.lib.format.read_magic(member)
                if version != (1, 0):
                    raise DataError(f"{name} has npy version {version}, expected 1.0")
                shape, _, dtype = np.lib.format.read_array_header_1_0(member)
        except KeyError:
            held = ", ".join(sorted(self._archive.namelist())[:10]) or "nothing"
            raise DataError(
                f"the archive has no {name}, only {printable(held)}"
            ) from None
        if dtype.hasobject:
            raise DataError(f"{name} holds Python objects (pickles), which stay shut")
        return shape, dtype

    def _unpacked(self, name: str, cache_dir: Path) -> Path:
        """Returns the plain array, unpacked now or by an earlier run."""
        info = self._archive.getinfo(name)
        target = cache_dir / f"{info.CRC:08x}-{info.file_size}-{name}"
        if not target.exists():
            cache_dir.mkdir(parents=True, exist_ok=True)
            partial = target.with_suffix(f".{os.getpid()}.partial")
            with self._archive.open(name) as member, partial.open("wb") as file:
                shutil.copyfileobj(member, file, 1024 * 1024)
            partial.replace(target)
        return target


def _mapped(path: Path) -> NDArray[np.uint8]:
    images: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    return images


def _fit_int16(labels: NDArray[Any]) -> bool:
    return not labels.size or (labels.min() >= 0 and labels.max() < 2**15)
