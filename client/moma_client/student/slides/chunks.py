"""What is done of a slide, on the disk: a program that was killed goes on from it."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moma_core.errors import ConfigError
from moma_core.runtime.array_faults import ARRAY_FAULTS
from moma_core.runtime.folders import is_special
from moma_core.slides.grid import PatchGrid
from moma_core.slides.slide import Overview

CHUNK = 512
"""Patches in one file: so many are done again after a kill, at most."""


class ChunkOutputs(NamedTuple):
    """What came of a chunk's patches.

    Args:
        shares: (n, C) float32, probability of each class; NaN where there is none.
        embeddings: (n, D) float32; (n, 0) where nobody asked for them.
        errors: Why a patch has no probabilities, n texts; empty: it has.
    """

    shares: NDArray[np.float32]
    embeddings: NDArray[np.float32]
    errors: list[str]


class ChunkFolder:
    """The hidden folder beside a slide's outputs; each file in it is whole.

    What is damaged counts as not done.

    Args:
        folder: Emptied where it is of other settings.
        fingerprint: Of all that the outputs depend on.

    Raises:
        ConfigError: It cannot be made, or something else lies there.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder = folder
        plan = folder / "plan.json"
        text = json.dumps({"fingerprint": fingerprint}).encode()
        try:
            if folder.is_dir() and not (plan.is_file() and plan.read_bytes() == text):
                shutil.rmtree(folder)
            folder.mkdir(parents=True, exist_ok=True)
            plan.write_bytes(text)
        except OSError as error:
            raise ConfigError(f"cannot write {folder}: {error}") from error

    def keep_grid(self, grid: PatchGrid, overview: Overview) -> None:
        """Writes where the patches lie, and the slide's picture."""
        is_damaged = np.zeros(len(grid), np.bool_)
        self._save(
            "grid",
            corners=grid.corners,
            sizes=np.array([grid.side_px, grid.size_px, grid.overlap_px]),
            is_damaged=is_damaged if grid.damaged is None else grid.damaged,
            thumbnail=overview.pixels,
            damaged=overview.damaged,
        )

    def grid(self) -> tuple[PatchGrid, Overview] | None:
        """Returns what was kept, if anything was."""
        try:
            with _opened(self._folder / "grid.npz") as found:
                side_px, size_px, overlap_px = found["sizes"].tolist()
                grid = PatchGrid(
                    found["corners"], side_px, size_px, overlap_px, found["is_damaged"]
                )
                return grid, Overview(found["thumbnail"], found["damaged"])
        except (OSError, *ARRAY_FAULTS):
            return None

    def is_done(self, number: int, like: ChunkOutputs) -> bool:
        """Whether a chunk is there, of the shapes that an empty one has."""
        try:
            found = self._read(number)
        except (OSError, *ARRAY_FAULTS):
            return False
        return (
            found.shares.shape == like.shares.shape
            and found.embeddings.shape == like.embeddings.shape
            and len(found.errors) == len(like.errors)
        )

    def write(self, number: int, outputs: ChunkOutputs) -> None:
        """Writes a chunk, whole or not at all."""
        errors = np.array(outputs.errors, dtype=np.str_)
        self._save(
            self._path(number).stem,
            shares=outputs.shares,
            embeddings=outputs.embeddings,
            errors=errors,
        )

    def read(self, chunks: int) -> Iterator[ChunkOutputs]:
        """Yields the outputs of so many chunks, in order."""
        yield from map(self._read, range(chunks))

    def _read(self, number: int) -> ChunkOutputs:
        with _opened(self._path(number)) as found:
            errors = [str(error) for error in found["errors"].tolist()]
            return ChunkOutputs(found["shares"], found["embeddings"], errors)

    def remove(self) -> None:
        """Deletes all of it, once the outputs are written."""
        shutil.rmtree(self._folder)

    def _path(self, number: int) -> Path:
        return self._folder / f"chunk-{number:06d}.npz"

    def _save(self, name: str, **arrays: NDArray[np.generic]) -> None:
        draft = self._folder / f".{name}.partial.npz"
        try:
            np.savez(draft, **arrays)  # type: ignore[arg-type]  # one key is a flag's
            draft.replace(self._folder / f"{name}.npz")
        except OSError as error:
            raise ConfigError(f"cannot write {self._folder}: {error}") from error


@contextmanager
def _opened(path: Path) -> Iterator[Mapping[str, NDArray[Any]]]:
    """Yields the arrays of a file, which numpy leaves open where it is damaged."""
    if is_special(path):
        raise ValueError("a pipe or a device holds no arrays")
    with path.open("rb") as file, np.load(file) as found:
        yield found
