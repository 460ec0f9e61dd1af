"""A site's students on its own labelled patches, after or during a run."""

from pathlib import Path

from moma_client.config.site import SiteConfig
from moma_client.student.files import load_student
from moma_core.data.patch import UNSEEN, VALIDATION
from moma_core.data.sources.factory import open_source
from moma_core.errors import ConfigError
from moma_core.evaluation.metrics import evaluate_split
from moma_core.models.backbone import Normalise

Figures = dict[str, dict[str, float]]


def evaluate_students(
    config: SiteConfig, *, run: str | None, method: str | None, split: str | None
) -> Figures:
    """Returns figures by method, named `<split>_<figure>`.

    Args:
        config: Settings of this site.
        run: Name of the run; None for the newest.
        method: Name of the method; None for all.
        split: Name of the split; None for validation and unseen.

    Raises:
        ConfigError: There is no such run or student, or its classes differ.
        DataError: Patches cannot be read.
    """
    folder = run_folder(config, run)
    methods = [method] if method else ["moma", *config.baselines]
    splits = [split] if split else [VALIDATION, UNSEEN]
    return {name: _evaluate(config, folder / name, splits) for name in methods}


def _evaluate(config: SiteConfig, folder: Path, splits: list[str]) -> dict[str, float]:
    student, card = load_student(folder)
    source = open_source(config.data)
    if source.class_names != card.class_names:
        raise ConfigError(
            f"the student knows the classes {card.class_names}, the data have "
            f"{source.class_names}: evaluate it on data with its own classes"
        )
    normalise, size = Normalise(card.mean, card.std), card.view_size_px
    figures: dict[str, float] = {}
    for split in splits:
        figures |= evaluate_split(
            student, normalise, source, split, size, stopped=lambda: False
        )
    return figures


def run_folder(config: SiteConfig, run: str | None) -> Path:
    """Returns the folder of a run; None for the newest.

    Raises:
        ConfigError: There is none yet.
    """
    runs = config.state_dir / "runs"
    if run is not None:
        return runs / run
    found = sorted(runs.glob("*/"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise ConfigError(
            f"there is no run in {config.state_dir} yet: take part in one first"
        )
    return found[-1]
