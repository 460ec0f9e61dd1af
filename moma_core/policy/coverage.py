"""How much of a teacher's embedding space a site has seen.

Random planes, each cut through the median of the teacher's own patches, divide the
space into buckets. Of the buckets in which those patches lie, a site has covered the
share in which its outputs lie. An honest task stays in few of them; who copies the
whole teacher must visit most.

Source: Dubinski et al., Bucks for Buckets, section 4.1
(https://arxiv.org/abs/2310.08571); medians instead of zero, since pooled embeddings
lie in one corner of the space.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from moma_core.errors import ConfigError
from moma_core.runtime.files import write_private

PLANES = 10
FEWEST_REFERENCE_PATCHES = 50

_TENSORS = ("planes", "medians", "occupied")


@dataclass(frozen=True, slots=True)
class CoverageMap:
    """The buckets of one teacher.

    Args:
        teacher_digest: SHA-256 of the weights that it belongs to, hex.
        planes: (P, D) float32, unit normals.
        medians: (P,) float32, of the reference patches along each normal.
        occupied: (2^P,) bool, the buckets in which a reference patch lies.
    """

    teacher_digest: str
    planes: NDArray[np.float32]
    medians: NDArray[np.float32]
    occupied: NDArray[np.bool_]

    @classmethod
    def of_reference(
        cls, embedding: NDArray[np.float32], teacher_digest: str, *, seed: int
    ) -> Self:
        """Makes the map of a teacher from its own patches.

        Args:
            embedding: (N, D), of N >= 50 patches that stand for what it knows.
            teacher_digest: Of its weights.
            seed: Of the planes.

        Raises:
            ConfigError: There are too few patches.
        """
        if len(embedding) < FEWEST_REFERENCE_PATCHES:
            raise ConfigError(
                f"coverage needs {FEWEST_REFERENCE_PATCHES} reference patches, "
                f"got {len(embedding)}"
            )
        normals = np.random.default_rng(seed).normal(size=(PLANES, embedding.shape[1]))
        planes = normals / np.linalg.norm(normals, axis=1, keepdims=True)
        along = embedding @ planes.T
        medians = np.median(along, axis=0)
        occupied = np.zeros(2**PLANES, np.bool_)
        occupied[_buckets(along, medians)] = True
        return cls(
            teacher_digest,
            planes.astype(np.float32),
            medians.astype(np.float32),
            occupied,
        )

    def touched(self, embedding: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Returns (2^P,): the occupied buckets in which outputs (N, D) lie."""
        touched = np.zeros_like(self.occupied)
        touched[_buckets(embedding @ self.planes.T, self.medians)] = True
        return touched & self.occupied

    def ratio(self, touched: NDArray[np.bool_]) -> float:
        """Returns the covered share, in [0, 1], of the occupied buckets."""
        return float(touched.sum() / self.occupied.sum())

    def save(self, path: Path) -> None:
        """Writes the map as safetensors.

        Raises:
            DiskError: The disk does not take it.
        """
        tensors = {
            "planes": self.planes,
            "medians": self.medians,
            "occupied": self.occupied,
        }
        content = save(tensors, {"teacher_digest": self.teacher_digest})
        write_private(path, content, "the coverage map")

    @classmethod
    def load(cls, path: Path, teacher_digest: str) -> Self:
        """Reads the map of a teacher.

        Raises:
            ConfigError: The file is missing, no map, or another teacher's.
        """
        try:
            with safe_open(path, "numpy") as file:
                metadata = file.metadata() or {}
                planes, medians, occupied = (file.get_tensor(key) for key in _TENSORS)
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"cannot read the coverage map {path}: {error}") from None
        digest = metadata.get("teacher_digest", "")
        if digest != teacher_digest:
            raise ConfigError(
                f"the coverage map {path} is of teacher {digest[:12] or 'nobody'}, "
                f"not of {teacher_digest[:12]}"
            )
        shapes = (medians.shape, occupied.shape, planes.ndim)
        if shapes != ((PLANES,), (2**PLANES,), 2) or not occupied.any():
            raise ConfigError(f"{path} is no coverage map")
        return cls(digest, planes, medians, occupied.astype(np.bool_))


def pack(touched: NDArray[np.bool_]) -> bytes:
    """Returns buckets as bits, for a database."""
    return np.packbits(touched).tobytes()


def unpack(bits: bytes) -> NDArray[np.bool_]:
    """Reads what `pack` wrote; nothing is as good as no bucket."""
    if not bits:
        return np.zeros(2**PLANES, np.bool_)
    return np.unpackbits(np.frombuffer(bits, np.uint8)).astype(np.bool_)


def _buckets(
    along: NDArray[np.floating], medians: NDArray[np.floating]
) -> NDArray[np.int64]:
    """Returns (N,): on which sides of the planes each row lies, as a number."""
    powers = 2 ** np.arange(along.shape[1])
    numbers: NDArray[np.int64] = (along > medians) @ powers
    return numbers
