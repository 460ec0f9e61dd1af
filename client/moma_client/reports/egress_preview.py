"""What a run would send, from the config and the present data; nothing is sent.

The patches on which figures are measured are read, to see whose they are.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import NamedTuple

from moma_client.config.site import SiteConfig
from moma_client.egress.disclosed import DisclosureFile, disclosure_path
from moma_client.reports.plan import plan_queries
from moma_client.reports.plan_text import size_text
from moma_client.reports.query_plan import QueryPlan
from moma_core.data.patch import TRAIN, UNSEEN, VALIDATION, PatchSource
from moma_core.data.sources.factory import open_source
from moma_core.evaluation.cohort import CountedSource
from moma_core.federation.disclosure import (
    Cohort,
    figure_name,
    figure_rule,
    rounded_patch_count,
)

NEVER = (
    "names and pseudonyms of patients, names of slides, files and folders",
    "files, and what stands in them beside pixels: EXIF, colour profiles, coordinates",
    "labels, and which patch is of which slide",
    "texts of errors, logs and local metrics",
    "keys",
)


@dataclass(frozen=True, slots=True)
class FigurePreview:
    """A figure on the allow-list.

    Args:
        key: Name under which it is disclosed.
        low: Lowest value that leaves.
        high: Highest value that leaves.
        decimals: Decimals to which it is rounded.
        counted: On how many patients it is measured.
        rule: Rule that suppresses it on the present data; None: it leaves.
    """

    key: str
    low: float
    high: float
    decimals: int
    counted: str
    rule: str | None


@dataclass(frozen=True, slots=True)
class EgressPreview:
    """What a run would send.

    Args:
        figures: What the coordinator gets each round; of the unseen split at the end.
        patches_told: Count of patches that the coordinator gets each round.
        weights_to_coordinator: Whether the coordinator is sent weights without masks.
        masked_partners: With how many sites weights are masked for the coordinator; 0:
            they do not leave masked.
        weights_to_teacher: Whether the teacher is sent the student's weights.
        encoding: Encoding of patches for the teacher; empty: none leaves.
        plan: How many patches the teacher gets; sizes are those of plain arrays, of
            which no encoding takes more.
        never: What leaves in no case.
        others: What goes to each further teacher, where the site has several.
    """

    figures: tuple[FigurePreview, ...]
    patches_told: int
    weights_to_coordinator: bool
    masked_partners: int
    weights_to_teacher: bool
    encoding: str
    plan: QueryPlan
    never: tuple[str, ...] = NEVER
    others: tuple["ToTeacher", ...] = ()

    def as_json(self) -> dict[str, object]:
        """Returns every value by name."""
        others = [
            {"encoding": each.encoding, "plan": each.plan.as_json()}
            for each in self.others
        ]
        return {**asdict(self), "plan": self.plan.as_json(), "others": others}


class ToTeacher(NamedTuple):
    """What one of several teachers gets.

    Args:
        encoding: Encoding of patches; empty: none leaves.
        plan: How many it gets.
    """

    encoding: str
    plan: QueryPlan


def preview(config: SiteConfig) -> EgressPreview:
    """Returns what a run would send.

    Raises:
        DataError: Patches cannot be read, or are too few.
        ConfigError: What was disclosed so far, or the teacher cache, cannot be read.
    """
    source = open_source(config.data)
    first, *others = map(_to_teacher, config.each_teacher)
    section = config.each_teacher[0].teacher
    masked = config.coordinator.masked_weights
    return EgressPreview(
        figures=tuple(_figures(config, source)),
        patches_told=rounded_patch_count(
            len(source.index.rows(TRAIN)), config.egress.max_patches_told
        ),
        weights_to_coordinator=config.coordinator.weights_may_leave,
        masked_partners=0 if masked is None else len(masked.partners),
        weights_to_teacher=section.is_remote and section.is_updated,
        encoding=first.encoding,
        plan=first.plan,
        others=tuple(others),
    )


def _to_teacher(config: SiteConfig) -> ToTeacher:
    section = config.teacher
    plan = plan_queries(
        config, epochs=None, patches_per_second=None, request_terms=False
    )
    return ToTeacher(section.encoding if section.is_remote else "", plan)


def preview_lines(found: EgressPreview) -> Iterator[str]:
    """Yields a preview as an officer reads it."""
    yield "to the coordinator, each round"
    for figure in found.figures:
        fate = f"stays here: {figure.rule}" if figure.rule else "leaves"
        yield (
            f"  {figure.key}  {figure.low:g} to {figure.high:g}, {figure.decimals} "
            f"decimals, on {figure.counted}: {fate}"
        )
    yield f"  patches trained on: reported as {found.patches_told}"
    weights = _yes(found.weights_to_coordinator)
    if found.masked_partners:
        weights = f"leave for a sum, masked with {found.masked_partners} sites"
    yield f"  the student's weights: {weights}"
    yield "  the name of the run and the round, a digest of architecture and classes"
    if found.encoding or any(each.encoding for each in found.others):
        yield "  the newest signed state of the teacher's log that the site was shown"
    for each in (ToTeacher(found.encoding, found.plan), *found.others):
        name = each.plan.teacher or "on this disk"
        yield f"to the teacher {name}" if found.others else "to the teacher"
        yield from _to_teacher_lines(each, weights=found.weights_to_teacher)
    yield "never"
    for item in found.never:
        yield f"  {item}"


def _to_teacher_lines(found: ToTeacher, *, weights: bool) -> Iterator[str]:
    if not found.encoding:
        yield "  nothing: it lies on this disk"
        return
    size = f"at most {size_text(found.plan.sent_bytes)}"
    if found.plan.sent_bytes is None:
        size = "as many bytes as moma-client plan says, which asks for the card"
    yield f"  {found.plan.queries} patches as {found.encoding}, {size}, shuffled"
    yield f"  the student's weights: {_yes(weights)}"


def _figures(config: SiteConfig, source: PatchSource) -> Iterator[FigurePreview]:
    policy = config.egress.figure_policy()
    disclosed = DisclosureFile(disclosure_path(config.state_dir)).read()
    cohorts = {split: _cohort(config, source, split) for split in (VALIDATION, UNSEEN)}
    for key in config.egress.metrics:
        name = figure_name(key)
        if name is None:  # the config lets none in
            continue
        (low, high), cohort = name.range, cohorts[name.split]
        before = disclosed.cohort(name.split)
        rule = figure_rule(key, high, cohort, before, policy)
        yield FigurePreview(key, low, high, policy.decimals, cohort.counted, rule)


def _cohort(config: SiteConfig, source: PatchSource, split: str) -> Cohort:
    counted = CountedSource(source, config.egress.counted_as(config.data))
    for row in source.index.rows(split, labelled=True):
        counted.read(int(row))
    return counted.cohort()


def _yes(may_leave: bool) -> str:
    return "leave" if may_leave else "stay here"
