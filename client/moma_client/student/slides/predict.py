"""One whole slide: its tissue, a student's outputs over it, and the files of both."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from moma_client.student.predictor import BATCH, Predictor
from moma_client.student.slides.chunks import CHUNK, ChunkFolder, ChunkOutputs
from moma_client.student.slides.outputs import (
    SlideOutputs,
    StudentIdentity,
    write_csv,
    write_geojson,
    write_hdf5,
)
from moma_core.data.inventory import printable
from moma_core.errors import ConfigError, DataError
from moma_core.runtime.canonical_json import parsed_json
from moma_core.runtime.files import write_private
from moma_core.slides.grid import (
    THUMBNAIL_PX,
    PatchGrid,
    PatchGridSection,
    lay_grid,
    needed_mpp,
)
from moma_core.slides.open import open_slide, slide_name
from moma_core.slides.slide import Overview, Slide

_READERS = 4  # threads; a library decodes without Python's lock
_SUMMARY = "summary.json"
_DAMAGED = "the slide is damaged here, and nobody knows whether it shows tissue"
_MOST_PANELS = 12

Watch = Callable[[int, int], None]
"""Is called with the patches that are done, and all of the slide."""


@dataclass(frozen=True, slots=True)
class SlideOptions:
    """How slides are looked at.

    Args:
        mpp: Microns a pixel of patches, as they are cut; None: as the card says.
        slide_mpp: Of level 0, for slides that state none.
        min_tissue: Share of a patch that must be tissue.
        overlap: Share of a patch's side that neighbours have in common.
        heat_class: Class of the heat map; None: all of them.
        embeddings: Whether they are written as well.
        overwrites: Whether slides that are done are done again.
    """

    mpp: float | None = None
    slide_mpp: float | None = None
    min_tissue: float = 0.25
    overlap: float = 0.0
    heat_class: str | None = None
    embeddings: bool = False
    overwrites: bool = False

    def grid_section(self, predictor: Predictor) -> PatchGridSection:
        """Returns how a slide is cut.

        Raises:
            ConfigError: Nobody knows the resolution, or a number is out of range.
        """
        card = predictor.card
        # as in training the patch is read first, and becomes a view after its stain
        size, mpp = card.patch_size_px or card.view_size_px, self.mpp
        if mpp is None and card.resolution_mpp is not None:  # which is of the views
            mpp = card.resolution_mpp * card.view_size_px / size
        if mpp is None:
            raise ConfigError(
                "the student's card does not state at which microns a pixel it was "
                "trained: add --mpp"
            )
        return PatchGridSection(
            mpp=mpp,
            patch_size_px=size,
            overlap_px=round(size * self.overlap),
            min_tissue=self.min_tissue,
            edge="pad",
        )

    def shown_classes(self, predictor: Predictor) -> list[int]:
        """Returns the classes of the heat map, by their place.

        Of two classes the second one says it all.

        Raises:
            ConfigError: There is no such class.
        """
        names = predictor.card.class_names
        if self.heat_class is None:
            return (
                [1] if len(names) == 2 else list(range(len(names)))[: _MOST_PANELS - 1]
            )
        if self.heat_class not in names:
            raise ConfigError(
                f"--class {self.heat_class}: the student has {', '.join(names)}"
            )
        return [names.index(self.heat_class)]


def predict_slide(
    path: Path,
    out: Path,
    predictor: Predictor,
    options: SlideOptions,
    watch: Watch,
    mpp: float | None = None,
) -> dict[str, Any]:
    """Writes a slide's files into `out/<slide>/`, where it is not done; its summary.

    Args:
        path: File or folder of the slide.
        out: Folder to write to.
        predictor: The student.
        options: How slides are looked at.
        watch: Sees the progress.
        mpp: Microns a pixel of this slide, where it states none.

    Raises:
        ConfigError: A package or a resolution is missing, or the folder holds outputs
            of another student or other options.
        DataError: The slide cannot be read, or shows no tissue.
    """
    folder = out / slide_name(path)
    section = options.grid_section(predictor)
    with open_slide(path, mpp or options.slide_mpp) as slide:
        fingerprint = _fingerprint(slide, predictor, options, section)
        done = _finished(folder, fingerprint, overwrites=options.overwrites)
        if done is not None:
            return done
        chunks = ChunkFolder(folder / ".partial", fingerprint)
        grid, overview = _grid(slide, chunks, section)
        _fill(slide, grid, chunks, predictor, options, watch)
        outputs = _joined(slide, grid, overview, chunks, predictor)
        _write(folder, outputs, slide, chunks, predictor, options)
    summary = outputs.summary()
    stored = json.dumps({"fingerprint": fingerprint, **summary}, indent=2)
    write_private(folder / _SUMMARY, f"{stored}\n".encode(), "the summary of a slide")
    chunks.remove()
    return summary


def _fingerprint(
    slide: Slide, predictor: Predictor, options: SlideOptions, section: PatchGridSection
) -> str:
    """Of all that a slide's outputs depend on."""
    stat = slide.path.stat()
    on = [
        [os.fspath(slide.path.resolve()), stat.st_size, stat.st_mtime_ns, slide.mpp],
        predictor.card.behaviour,
        [section.model_dump(mode="json"), options.embeddings, options.heat_class],
    ]
    return hashlib.sha256(json.dumps(on).encode()).hexdigest()


def _finished(
    folder: Path, fingerprint: str, *, overwrites: bool
) -> dict[str, Any] | None:
    """Returns the summary of a slide that is done; None: it is not."""
    path = folder / _SUMMARY
    try:
        if overwrites or not path.is_file():
            path.unlink(missing_ok=True)
            return None
        found: dict[str, Any] = dict(parsed_json(path.read_bytes()))
    except (TypeError, ValueError):
        found = {}
    except OSError as error:
        raise ConfigError(f"cannot use {path}: {error}") from error
    if found.pop("fingerprint", "") == fingerprint:
        return found
    raise ConfigError(
        f"{folder} holds outputs of another student, slide or other options: name "
        f"another folder, or add --force"
    )


def _grid(
    slide: Slide, chunks: ChunkFolder, section: PatchGridSection
) -> tuple[PatchGrid, Overview]:
    kept = chunks.grid()
    if kept is not None:
        return kept
    if slide.mpp is None:
        raise DataError(
            f"the slide {printable(str(slide.path))} states no microns a pixel: add "
            f"--slide-mpp, or name it in a manifest with mpp"
        )
    overview = slide.overview(THUMBNAIL_PX)
    grid = lay_grid(slide, overview.pixels, section, overview.damaged)
    if not len(grid):
        raise DataError(
            f"the slide {printable(str(slide.path))} shows no tissue: --min-tissue "
            f"{section.min_tissue:g} may be too much"
        )
    chunks.keep_grid(grid, overview)
    return grid, overview


def _fill(
    slide: Slide,
    grid: PatchGrid,
    chunks: ChunkFolder,
    predictor: Predictor,
    options: SlideOptions,
    watch: Watch,
) -> None:
    """Computes the chunks that are not done."""
    with ThreadPoolExecutor(_READERS) as readers:
        for number, start in enumerate(range(0, len(grid), CHUNK)):
            rows = range(start, min(start + CHUNK, len(grid)))
            if not chunks.is_done(number, _nothing(len(rows), predictor, options)):
                batches = _views(slide, grid, rows, predictor, readers)
                found = [_outputs(views, predictor, options) for views in batches]
                chunks.write(number, _stacked(found))
            watch(rows.stop, len(grid))


def _views(
    slide: Slide,
    grid: PatchGrid,
    rows: range,
    predictor: Predictor,
    readers: ThreadPoolExecutor,
) -> Iterator[list[Tensor | str]]:
    """Yields batches of views; the next one is read while one is computed."""

    def view(row: int) -> Tensor | str:
        if grid.damaged is not None and grid.damaged[row]:
            return _DAMAGED
        left, top = grid.corners[row].tolist()
        try:
            pixels = slide.read_square(left, top, grid.side_px, grid.size_px)
        except DataError as error:
            return str(error)
        return predictor.view(pixels)

    batches = [rows[n : n + BATCH] for n in range(0, len(rows), BATCH)]
    ahead = readers.map(view, batches[0])
    for upcoming in (*batches[1:], range(0)):
        current, ahead = ahead, readers.map(view, upcoming)
        yield list(current)


def _outputs(
    views: list[Tensor | str], predictor: Predictor, options: SlideOptions
) -> ChunkOutputs:
    shares, embeddings, _ = _nothing(len(views), predictor, options)
    errors = [view if isinstance(view, str) else "" for view in views]
    readable = [number for number, view in enumerate(views) if isinstance(view, Tensor)]
    if not readable:
        return ChunkOutputs(shares, embeddings, errors)
    found = predictor.outputs([view for view in views if isinstance(view, Tensor)])
    shares[readable] = found.shares
    if options.embeddings:
        embeddings[readable] = found.embeddings
    for number in readable:
        if not np.isfinite(shares[number]).all():
            errors[number] = "the outputs are not finite"
            shares[number] = np.nan
    return ChunkOutputs(shares, embeddings, errors)


def _nothing(patches: int, predictor: Predictor, options: SlideOptions) -> ChunkOutputs:
    """Returns the outputs of so many patches before anything is known of them."""
    length = predictor.embedding_length if options.embeddings else 0
    classes = len(predictor.card.class_names)
    return ChunkOutputs(
        np.full((patches, classes), np.nan, np.float32),
        np.full((patches, length), np.nan, np.float32),
        [""] * patches,
    )


def _stacked(found: list[ChunkOutputs]) -> ChunkOutputs:
    return ChunkOutputs(
        np.concatenate([each.shares for each in found]),
        np.concatenate([each.embeddings for each in found]),
        [error for each in found for error in each.errors],
    )


def _joined(
    slide: Slide,
    grid: PatchGrid,
    overview: Overview,
    chunks: ChunkFolder,
    predictor: Predictor,
) -> SlideOutputs:
    number = -(-len(grid) // CHUNK)
    found = [(each.shares, each.errors) for each in chunks.read(number)]
    errors = [error for _, some in found for error in some]
    if all(errors):
        raise DataError(
            f"no patch of the slide {printable(str(slide.path))} can be read: "
            f"{errors[0]}"
        )
    card = predictor.card
    return SlideOutputs(
        name=slide_name(slide.path),
        student=StudentIdentity(predictor.name, card.digest, card.temperature),
        class_names=card.class_names,
        is_ordered=card.ordered,
        grid=grid,
        shares=np.concatenate([shares for shares, _ in found]),
        errors=errors,
        thumbnail=overview.pixels,
        damaged=overview.damaged,
        width_px=slide.width_px,
        mpp=needed_mpp(slide),
    )


def _write(
    folder: Path,
    outputs: SlideOutputs,
    slide: Slide,
    chunks: ChunkFolder,
    predictor: Predictor,
    options: SlideOptions,
) -> None:
    from moma_client.student.slides.pictures import write_class_map, write_heat_map

    number = -(-len(outputs.grid) // CHUNK)
    embeddings = (each.embeddings for each in chunks.read(number))
    try:
        write_csv(folder / "patches.csv", outputs)
        write_geojson(folder / "patches.geojson", outputs)
        write_hdf5(
            folder / f"{outputs.name}.h5",
            outputs,
            slide,
            embeddings if options.embeddings else None,
            predictor.card.architecture,
        )
        write_heat_map(
            folder / "heatmap.png", outputs, options.shown_classes(predictor)
        )
        write_class_map(folder / "classmap.png", outputs)
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error}") from error
