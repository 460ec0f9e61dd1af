"""What is said of a site's patches, task and plan before a patch is sent.

`doctor`, `plan` and the run say it, all from here: what is a problem ends a run before
it begins, what is a warning enters its log.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from moma_client.cache.views import batch_plan
from moma_client.config.site import SiteConfig
from moma_client.student.factory import scenario_of, trained_as
from moma_core.data.checks import pictures
from moma_core.data.checks.names import did_you_mean
from moma_core.data.checks.rules import look_at_set
from moma_core.data.patch import (
    TRAIN,
    UNKNOWN_PATIENT,
    UNKNOWN_SLIDE,
    UNSEEN,
    VALIDATION,
    PatchIndex,
    PatchSource,
)
from moma_core.data.sources.factory import open_pictures
from moma_core.errors import DataError
from moma_core.evaluation.figures import class_keys
from moma_core.federation.disclosure import figure_name
from moma_core.federation.schedule import look_at_steps
from moma_core.runtime.finding import Finding, found_by
from moma_core.teacher.card.card import TeacherCard

_PICTURES_OF_A_RUN = 100
_PICTURES_WITH_MPP = 20
_OTHER_MPP = 1.25  # magnifications differ by two; half of that is no rounding


def look_at_patches(
    config: SiteConfig, source: PatchSource, epochs: int | None = None
) -> Iterator[Finding]:
    """Yields what the set has, and whether it can be learned from and judged.

    Args:
        config: Settings of this site.
        source: Patches of this site.
        epochs: Of a whole run; None: not known yet.
    """
    figures = [name for key in config.egress.metrics if (name := figure_name(key))]
    yield from look_at_set(
        source,
        figures_of={name.split: "egress.metrics" for name in figures},
        max_unreadable=config.data.max_unreadable,
    )
    yield from _figures(config, source)
    yield from _patients(config, source.index)
    if len(source.index.rows(TRAIN, labelled=True)):
        yield from found_by("steps", lambda: _steps(config, source.index, epochs))


def look_at_data(
    config: SiteConfig, source: PatchSource, epochs: int | None = None
) -> Iterator[Finding]:
    """Yields what is to be said of the patches and of a sample of their pictures."""
    yield from look_at_patches(config, source, epochs)
    yield from look_at_pictures(config, source)


def look_at_pictures(
    config: SiteConfig,
    source: PatchSource,
    *,
    all_of_them: bool = False,
    sample: int = _PICTURES_OF_A_RUN,
) -> Iterator[Finding]:
    """Yields what a sample of the pictures looks like, or all of them."""
    yield from pictures.look_at_pictures(
        source,
        open_pictures(config.data),
        view_size_px=config.view_size_px,
        max_unreadable=config.data.max_unreadable,
        all_of_them=all_of_them,
        sample=sample,
    )


def look_at_task(
    config: SiteConfig, source: PatchSource, card: TeacherCard
) -> Iterator[Finding]:
    """Yields which losses apply, and whether the patches are of the teacher's kind.

    Raises:
        ConfigError: The scenario that the config wants does not apply.
    """
    scenario = scenario_of(config, card, source.class_names)
    yield from scenario.findings()
    if trained_as("moma", config, [scenario]) != "moma":
        yield Finding(
            "scenario",
            "ok",
            "distillation.fallback is auto: with this teacher alone moma learns from "
            "the labels, as ce does",
        )
    yield from _resolution(source, card)


def _steps(
    config: SiteConfig, index: PatchIndex, epochs: int | None
) -> Iterator[Finding]:
    """Yields whether a run of so many epochs trains a student.

    Raises:
        DataError: There are too few patches for one batch.
    """
    try:
        steps_per_epoch = batch_plan(config, index).steps_per_epoch
    except DataError as error:
        text = f"{error}: add patches, or set a smaller training.batch_size"
        raise DataError(text) from None
    yield from look_at_steps(steps_per_epoch, epochs)


def _figures(config: SiteConfig, source: PatchSource) -> Iterator[Finding]:
    """Yields figures in `egress.metrics` that no student of this site will have."""
    known = class_keys(source.class_names)
    for key in config.egress.metrics:
        name = figure_name(key)
        if name is None:
            continue
        method = key.removesuffix(f"{name.split}_{name.figure}").removesuffix("_")
        if method and method not in config.baselines:
            text = (
                f"egress.metrics has {key}, and baselines has no {method}: nothing "
                f"will be disclosed under this name"
            )
            yield Finding("egress", "warning", text)
        if name.of_class is not None and name.of_class not in known:
            text = (
                f"egress.metrics has {key}, and no class of the data is of this name"
                f"{did_you_mean(name.of_class, known)}"
            )
            yield Finding("egress", "warning", text)


def _patients(config: SiteConfig, index: PatchIndex) -> Iterator[Finding]:
    """Yields splits of so few patients that no figure on them leaves."""
    least = config.egress.min_patients
    asked = {name.split for key in config.egress.metrics if (name := figure_name(key))}
    for split in (VALIDATION, UNSEEN):
        rows = index.rows(split, labelled=True)
        people = _people(config, index, rows)
        if split not in asked or not len(rows) or people >= least:
            continue
        text = (
            f"the {split} split counts as {people} "
            f"{'patient' if people == 1 else 'patients'}, egress.min_patients is "
            f"{least}: no figure on it will leave this site, the coordinator sees none"
        )
        if (index.patients[rows] == UNKNOWN_PATIENT).any():
            text += "; name the patients (patient_id, or data.patient_pattern)"
        yield Finding("egress", "warning", text)


def _people(config: SiteConfig, index: PatchIndex, rows: NDArray[np.int64]) -> int:
    """Counts as the figures do: a slide stands for its patient that is unknown."""
    patients = index.patients[rows]
    known = patients != UNKNOWN_PATIENT
    people = len(np.unique(patients[known]))
    rest = rows[~known]
    if index.slides is not None:
        slides = index.slides[rest]
        people += len(np.unique(slides[slides != UNKNOWN_SLIDE]))
        rest = rest[slides == UNKNOWN_SLIDE]
    each = config.egress.counted_as(config.data) == "each"
    return people + (len(rest) if each else min(1, len(rest)))


def _resolution(source: PatchSource, card: TeacherCard) -> Iterator[Finding]:
    if card.mpp is None:
        return
    rows = source.index.rows(TRAIN)[:_PICTURES_WITH_MPP]
    found = [source.read(int(row)).resolution_mpp for row in rows]
    known = [mpp for mpp in found if mpp is not None]
    if not known:
        return
    own = float(np.median(known))
    if max(own / card.mpp, card.mpp / own) >= _OTHER_MPP:
        text = (
            f"patches have {own:g} microns a pixel, the teacher was trained on "
            f"{card.mpp:g}: it sees cells {own / card.mpp:.2g} times as small as it "
            f"knows them; cut patches at {card.mpp:g}"
        )
        yield Finding("resolution", "warning", text)
