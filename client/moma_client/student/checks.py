"""What is said of a site's patches, task and plan before a patch is sent.

`doctor`, `plan` and the run say it, all from here: what is a problem ends a run before
it begins, what is a warning enters its log.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from moma_client.cache.views import batch_plan
from moma_client.config.site import SiteConfig
from moma_client.config.slips import look_at_slips
from moma_client.student.factory import scenario_of, trained_as
from moma_core.data.checks import pictures
from moma_core.data.checks.layout import look_at_files
from moma_core.data.checks.names import did_you_mean
from moma_core.data.checks.rules import look_at_set, look_at_views
from moma_core.data.patch import (
    TRAIN,
    UNKNOWN_PATIENT,
    UNKNOWN_SLIDE,
    UNSEEN,
    VALIDATION,
    Patch,
    PatchIndex,
    PatchSource,
)
from moma_core.data.resolution import is_other_mpp, look_at_mpp, stated_mpp
from moma_core.data.sources.factory import open_pictures
from moma_core.distillation.scenario import Scenario
from moma_core.errors import DataError
from moma_core.evaluation.figures import class_keys
from moma_core.federation.disclosure import figure_name
from moma_core.federation.schedule import FEWEST_STEPS, look_at_steps
from moma_core.runtime.finding import Finding, found_by
from moma_core.teacher.card.card import TeacherCard
from moma_core.training.plausible import look_at_distillation, look_at_training

_PICTURES_OF_A_RUN = 100
_PICTURES_OF_VIEWS = 20


def look_at_patches(
    config: SiteConfig, source: PatchSource, epochs: int | None = None
) -> Iterator[Finding]:
    """Yields what the set has, and whether it can be learned from and judged.

    Args:
        config: Settings of this site.
        source: Patches of this site.
        epochs: Of a whole run; None: not known yet.
    """
    yield from look_at_set(
        source,
        figures_of=_figures_wanted(config),
        max_unreadable=config.data.max_unreadable,
    )
    yield from _figures(config, source)
    yield from _patients(config, source.index)
    if len(source.index.rows(TRAIN, labelled=True)):
        yield from found_by("steps", lambda: _steps(config, source.index, epochs))
    patches = len(source.index.rows(TRAIN))
    yield from look_at_training(config.training, patches=patches)
    yield from look_at_distillation(config.distillation)
    yield from look_at_views(config.data.kind, config.views)
    yield from look_at_slips(config, patches=patches)


def _figures_wanted(config: SiteConfig) -> dict[str, str]:
    """Returns the splits of which figures are wanted, and what wants them."""
    names = [name for key in config.egress.metrics if (name := figure_name(key))]
    wanted = {name.split: "egress.metrics" for name in names}
    if (key := config.training.validates_by) is not None:
        wanted[VALIDATION] = key
    return wanted


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
    """Yields how files name patients, and what their pictures look like.

    Of the pictures a sample, or all of them.
    """
    files = open_pictures(config.data)
    if files is not None:
        yield from look_at_files(config.data, files)
    yield from pictures.look_at_pictures(
        source,
        files,
        view_size_px=config.view_size_px,
        max_unreadable=config.data.max_unreadable,
        are_stained=config.views != "geometry_only",
        sample=None if all_of_them else sample,
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
    yield from look_at_fallback(config, [scenario])
    yield from _resolution(source, card)
    yield from _view_size(config, source, card)
    if card.views and config.views != card.views:
        text = (
            f"views is {config.views}, and teacher {card.name} was trained on views "
            f"{card.views}, which keep a patch's colours: it has seen none that were "
            f"changed; set views: {card.views}"
        )
        yield Finding("views", "warning", text)


def look_at_fallback(
    config: SiteConfig, scenarios: Sequence[Scenario]
) -> Iterator[Finding]:
    """Yields that no teacher teaches, where all of a site's are irrelevant."""
    if trained_as("moma", config, scenarios) != "moma":
        yield Finding(
            "scenario",
            "warning",
            "where every teacher is irrelevant moma learns from the labels alone, as "
            "ce does, and asks about no patch of this site: students that an ImageNet "
            "teacher taught did worse than that (docs/results.md); write "
            "distillation.fallback: none to ask all the same",
        )


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
    most = config.coordinator.max_epochs_per_run
    if most * steps_per_epoch < FEWEST_STEPS:
        text = (
            f"coordinator.max_epochs_per_run is {most}: no run gets more than "
            f"{most * steps_per_epoch} steps here, and a student needs {FEWEST_STEPS}; "
            f"set it to {-(-FEWEST_STEPS // steps_per_epoch)} or more"
        )
        yield Finding("steps", "warning", text)


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
        yield from _kappa(key, name.figure, is_ordered=config.task.ordered)


def _kappa(key: str, figure: str, *, is_ordered: bool) -> Iterator[Finding]:
    """Yields whether a figure is the kappa of the other kind of classes."""
    measured = ("kappa_quadratic", "kappa") if is_ordered else ("kappa_unweighted",)
    if not figure.startswith("kappa") or figure in measured:
        return
    text = (
        f"egress.metrics has {key}, and task.ordered is {str(is_ordered).lower()}: "
        f"nothing will be disclosed under this name; write "
        f"{key.removesuffix(figure)}{measured[0]}"
    )
    if not is_ordered:
        text += ", or task.ordered: true if the classes are grades"
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


def _view_size(
    config: SiteConfig, source: PatchSource, card: TeacherCard
) -> Iterator[Finding]:
    """Yields whether the teacher sees as much of a patch as it could.

    A view that is smaller than what the teacher takes costs nothing where the patches
    are no larger themselves.
    """
    view, wanted = config.view_size_px, card.input_size_px
    sides = [min(patch.pixels.shape[:2]) for patch in _some_patches(source)]
    if view == wanted or not sides or (view < wanted and max(sides) <= view):
        return
    reached = wanted if view > wanted else min(wanted, max(sides))
    loses = (
        "each view is made smaller for it"
        if view > wanted
        else f"it gets less of a patch of {max(sides)} px than it could"
    )
    text = (
        f"view_size_px is {view}, teacher {card.name} takes {wanted} px: {loses}; "
        f"view_size_px: {reached} shows both the same pixels"
    )
    yield Finding("view size", "warning", text)


def _some_patches(source: PatchSource) -> Iterator[Patch]:
    """Yields a few patches; what is said of broken ones is said of the pictures."""
    with suppress(DataError):
        for row in source.index.rows(TRAIN)[:_PICTURES_OF_VIEWS]:
            yield source.read(int(row))


def _resolution(source: PatchSource, card: TeacherCard) -> Iterator[Finding]:
    if card.mpp is None:
        return
    if odd := list(look_at_mpp(f"the card of teacher {card.name} says", card.mpp)):
        yield from odd
        return
    own = stated_mpp(source)
    if own is None:
        text = (
            f"the teacher was trained on {card.mpp:g} microns a pixel, and the patches "
            f"state nothing: see that they were cut at it"
        )
        yield Finding("resolution", "ok", text)
    elif is_other_mpp(own, card.mpp):
        text = (
            f"patches have {own:g} microns a pixel, the teacher was trained on "
            f"{card.mpp:g}: it sees cells {own / card.mpp:.2g} times as small as it "
            f"knows them; cut patches at {card.mpp:g}"
        )
        yield Finding("resolution", "warning", text)
