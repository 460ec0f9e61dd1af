"""`moma-client predict`: what an exported student says to patches and slides."""

import csv
import logging
import sys
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from torch import Tensor

from moma_client.student.files import StudentCard
from moma_client.student.inputs import Picture, SlideInput, inputs_of
from moma_client.student.predictor import BATCH, Predictor
from moma_client.student.slides.predict import SlideOptions, Watch, predict_slide
from moma_core.data.inventory import printable
from moma_core.end_to_end.signatures import VerifyingKey
from moma_core.errors import ConfigError, DataError
from moma_core.runtime.csv_text import plain_cell
from moma_core.slides.open import require, slide_name

_logger = logging.getLogger(__name__)

_GLASS, _GLASS_PERCENT = 220, 5  # all but 5 % of the pixels are as light, or lighter
_OTHER_SIZE = 2


class Predicted(NamedTuple):
    """How many pictures there were.

    Args:
        written: That have probabilities in the file.
        failed: That have a reason instead.
    """

    written: int
    failed: int


class _Line(NamedTuple):
    """A line of the output: the probability of each class, or why there is none."""

    name: str
    shares: Sequence[float]
    error: str = ""


def predict(
    student: Path,
    data: Path,
    out: Path,
    key: VerifyingKey | None,
    *,
    overwrites: bool = False,
) -> Predicted:
    """Writes one line a picture: each class's probability, or why it has none.

    Args:
        student: Folder that an export wrote.
        data: Folder of pictures, a CSV manifest, or one picture; each is one patch.
        out: The CSV file; its names of files stay on this machine with it.
        key: Key of the site that must have signed the student; None: nobody must.
        overwrites: Whether a file that exists is replaced.

    Raises:
        ConfigError: The student was changed, or a folder or file does not serve.
        CertificateError: The key did not sign it.
        DataError: There is no picture, or the manifest cannot be read.
    """
    _check_out(out, data, overwrites=overwrites)
    predictor = Predictor.load(student, key)
    slides, pictures = inputs_of([data])
    if slides:
        raise ConfigError(
            f"{printable(str(slides[0].path))} is a whole slide: name it without "
            f"--data, and a folder as --out"
        )
    lines = _lines(predictor, pictures)
    written = _write(out, lines, predictor.card.class_names)
    return Predicted(written, len(pictures) - written)


def predict_into(
    student: Path,
    paths: Sequence[Path],
    out: Path,
    key: VerifyingKey | None,
    options: SlideOptions,
) -> Iterator[str]:
    """Writes a folder a slide, and `patches.csv` for pictures; yields what it did.

    A slide that was interrupted is gone on with, and one that is done is left alone.

    Args:
        student: Folder that an export wrote.
        paths: Slides, folders, manifests and pictures.
        out: Folder to write to.
        key: Key of the site that must have signed the student; None: nobody must.
        options: How slides are looked at.

    Raises:
        ConfigError: As `predict`; or slides need a package or a resolution.
        CertificateError: The key did not sign the student.
        DataError: A path holds nothing; or, at the end, something cannot be read.
    """
    _check_folder(out)
    slides, pictures = inputs_of(paths)
    table = out / "patches.csv"
    if pictures:
        _check_out(table, paths[0], overwrites=options.overwrites)
    predictor = Predictor.load(student, key)
    out.mkdir(parents=True, exist_ok=True)
    failed = yield from _slides(slides, out, predictor, options)
    if pictures:
        lines = _lines(predictor, pictures)
        written = _write(table, lines, predictor.card.class_names)
        yield f"wrote {table}: {written} patches"
        if len(pictures) > written:
            failed.append(f"{len(pictures) - written} of {len(pictures)} pictures")
    if failed:
        raise DataError(f"there is no prediction of {', '.join(failed)}")


def _slides(
    slides: Sequence[SlideInput],
    out: Path,
    predictor: Predictor,
    options: SlideOptions,
) -> Generator[str, None, list[str]]:
    """Yields what it wrote of each slide; returns those that cannot be read."""
    failed = []
    if slides:
        require("matplotlib", "h5py")
        options.shown_classes(predictor)  # before hours of work, not after
        _advise(predictor.card)
    for number, slide in enumerate(slides):
        name = printable(slide_name(slide.path))
        try:
            with _progress(f"{name} ({number + 1} of {len(slides)})") as watch:
                said = predict_slide(
                    slide.path, out, predictor, options, watch, slide.mpp
                )
        except DataError as error:
            failed.append(name)
            yield f"{name}: {error}"
            continue
        yield f"wrote {out / name}: {said['patches']} patches{_unread(said)}"
    return failed


def _advise(card: StudentCard) -> None:
    if card.patch_size_px is None:
        _logger.warning(
            "the student's card does not state at how many pixels its patches were "
            "read: slides are read at %d, the side of its views, where training may "
            "have shrunk larger patches",
            card.view_size_px,
        )


def _unread(summary: Mapping[str, Any]) -> str:
    number = summary["unread_patches"]
    return f", {number} could not be read" if number else ""


@contextmanager
def _progress(text: str) -> Iterator[Watch]:
    """Yields what shows the progress: a bar on a terminal, a line now and then else."""
    console = Console(file=sys.stderr)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeRemainingColumn(), console=console) as bars:
            bar = bars.add_task(text, total=None)
            yield lambda done, total: bars.update(bar, completed=done, total=total)
        return
    yield lambda done, total: _logger.info("%s: %d of %d patches", text, done, total)


def _write(out: Path, lines: Iterable[_Line], class_names: Sequence[str]) -> int:
    """Writes the whole file or none; returns how many pictures have a prediction."""
    draft = out.with_name(f".{out.name}.partial")
    written = 0
    try:
        with draft.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            names = map(_cell, class_names)
            writer.writerow(("path", "class", *names, "error"))
            for line in lines:
                written += not line.error
                writer.writerow(_cells(line, class_names))
        draft.replace(out)
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error}") from error
    finally:
        draft.unlink(missing_ok=True)
    return written


def _check_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file: name a folder to write")
    if out.suffix.lower() == ".csv" and not out.exists():
        raise ConfigError(
            f"{out} would be a folder: name one without .csv, or, for patches alone, "
            f"name them with --data, and --out is the CSV file"
        )


def _check_out(out: Path, data: Path, *, overwrites: bool) -> None:
    if out.is_dir():
        raise ConfigError(f"{out} is a folder: name a file to write")
    if not out.exists():
        return
    if data.exists() and out.samefile(data):
        raise ConfigError(f"{out} is the data: name another file to write")
    if not overwrites:
        raise ConfigError(f"{out} exists: name another file, or add --force")


def _cells(line: _Line, class_names: Sequence[str]) -> list[str]:
    name = _cell(line.name)
    if line.error:
        return [name, "", *("" for _ in class_names), _cell(line.error)]
    best = class_names[int(np.argmax(line.shares))]
    return [name, _cell(best), *(f"{share:.4f}" for share in line.shares), ""]


def _cell(text: str) -> str:
    return plain_cell(printable(text))


def _lines(predictor: Predictor, pictures: Sequence[Picture]) -> Iterator[_Line]:
    """Yields a line for each picture, in order; then logs what looks unlike a patch."""
    unlike = Counter[str]()
    for start in range(0, len(pictures), BATCH):
        batch = pictures[start : start + BATCH]
        views = [_view(predictor, each, unlike) for each in batch]
        readable = [view for view in views if isinstance(view, Tensor)]
        shares = iter(predictor.outputs(readable).shares.tolist() if readable else [])
        for each, view in zip(batch, views, strict=True):
            if isinstance(view, str):
                yield _Line(each.name, (), view)
                continue
            found = next(shares)
            wrong = "" if np.isfinite(found).all() else "the outputs are not finite"
            yield _Line(each.name, found, wrong)
    for what, count in unlike.items():
        _logger.warning("%d of %d pictures %s", count, len(pictures), what)


def _unlike_a_patch(pixels: NDArray[np.uint8], trained_px: int | None) -> Iterator[str]:
    """Yields what makes a picture unlike the student's patches, to end a sentence.

    Args:
        pixels: (H, W, 3) of the picture.
        trained_px: Side of the patches of the training; None: the card states none.
    """
    if np.percentile(pixels.min(axis=2), _GLASS_PERCENT) >= _GLASS:
        yield "show hardly any tissue; the student names a class for them, too"
    if trained_px is None:
        return
    side = min(pixels.shape[:2])
    if max(side, trained_px) >= _OTHER_SIZE * min(side, trained_px):
        yield (
            f"have at least twice the side of the patches of the training, "
            f"{trained_px} px, or at most half: cut them as those were cut"
        )


def _view(predictor: Predictor, picture: Picture, unlike: Counter[str]) -> Tensor | str:
    """Returns a picture's view, (3, H, W) uint8, or why there is none.

    Args:
        predictor: The student.
        picture: One patch.
        unlike: Counts what makes pictures unlike patches.
    """
    try:
        pixels = picture.read()
        unlike.update(_unlike_a_patch(pixels, predictor.card.patch_size_px))
        return predictor.view(pixels)
    except DataError as error:
        _logger.debug("%s: %s", printable(picture.name), error)
        return str(error)
