"""What a report says beside its conclusions, in words for who was not there."""

from collections.abc import Iterator

from moma_client.reports.student_report.conclusions import interval_of_share
from moma_client.reports.student_report.facts import ReportFacts
from moma_client.reports.student_report.trust import FEWEST_PATCHES
from moma_core.data.patch import TRAIN, VALIDATION
from moma_core.evaluation.embedding_map import Leak
from moma_core.evaluation.figures import of_groups
from moma_core.evaluation.statistics import FEWEST_GROUPS
from moma_core.report_page.page import percent
from moma_core.runtime.cli import counted

_NAMED = ("patients", "slides")


def trained(facts: ReportFacts) -> Iterator[str]:
    """Yields what was trained from whom."""
    config, card, census = facts.config, facts.student.card, facts.census
    whole = census.count(TRAIN, None)
    labelled = sum(census.patches(TRAIN).values())
    patients = of_groups(whole.patients, "patients") if whole.patients else ""
    yield (
        f"Site {config.site} trained a small network ({card.architecture}) to tell "
        f"{len(card.class_names)} classes of patches apart: organ {config.task.organ}, "
        f"task {config.task.task}. It has {whole.patches} training patches{patients}, "
        f"{labelled} of them with a label."
    )
    if card.teacher:
        yield _teacher(facts)
    elif card.scenario:
        yield (
            f"The student {card.method} learned from these labels alone, as ce does: "
            f"the scenario was {card.scenario}, and such a teacher is asked about no "
            f"patch of the site (distillation.fallback)."
        )
    alone = [name for name, each in facts.students.items() if not each.card.teacher]
    if alone and card.teacher:
        yield (
            f"Beside it {', '.join(alone)} learned from the labels alone, from the "
            f"same beginning and in as many steps: what the teacher is worth is the "
            f"difference."
        )
    if not facts.run.is_over:
        yield (
            f"The run is not finished: the students stand after "
            f"{counted(facts.run.rounds, 'round', 'rounds')}, and will change."
        )


def _teacher(facts: ReportFacts) -> str:
    config, card, queries = facts.config, facts.student.card, facts.queries
    if any(each.teacher.is_remote for each in config.each_teacher):
        where = (
            "which belongs to another institution. Weights and patches of a teacher "
            "did not come here; patches of this site went there, sealed, without "
            "names, labels or places"
        )
        if queries:
            asked = sum(each.asked for each in queries.values())
            where += f", and {asked} outputs for them came back in this run"
    else:
        where = "whose weights lie on this site's own disk; nothing was sent"
    return (
        f"The student {card.method} learned from these labels and from the teacher "
        f"{card.teacher}, {where}. The scenario was: {card.scenario}."
    )


def cautions(facts: ReportFacts) -> Iterator[str]:
    """Yields what a reader must know before believing any of it."""
    yield (
        "This is a research model. It was not validated for diagnosis, whatever its "
        "figures are."
    )
    if facts.split == VALIDATION:
        yield (
            "There are no unseen patches: all conclusions are from the validation "
            "patches, by which the training was watched, and are too kind."
        )
    yield from _unnamed(facts.measured.counted)
    if not facts.run.is_over:
        yield "The run is not finished; these are figures of students in training."


def _unnamed(counted: str) -> Iterator[str]:
    """Yields what follows where patches do not name their patients."""
    if counted == "patients":
        return
    if counted == "patches":
        yield (
            "The data name no patient, so each patch counts as one: patches of one "
            "patient are alike, and the intervals are narrower than they should be."
        )
    elif counted == "slides":
        yield "The data name slides and no patient: intervals are by slides."
    else:
        yield f"Not every patch names its patient: intervals are by {counted}."
    yield (
        "One patient may then be in both the training and the unseen patches, and the "
        "figures are too kind where that is so."
    )


def splits_differ(counted: str) -> str:
    """Returns what the words train, validation and unseen mean.

    Args:
        counted: What a group of patches is, as in an `Evaluation`.
    """
    whose = f"Patches of different {counted}" if counted in _NAMED else "Patches"
    named = (
        ""
        if counted == "patients"
        else " Where the data name no patient, one may be in several of them."
    )
    return (
        f"{whose}: to learn from, to watch the training by, and to judge by at the "
        f"end.{named}"
    )


def interval_means(counted: str) -> str:
    """Returns what a 95 % interval is.

    Args:
        counted: What a group of patches is, as in an `Evaluation`.
    """
    whole = "" if counted == "patches" else ", with all their patches"
    return (
        f"{counted.capitalize()} are drawn anew a thousand times{whole}; 95 of 100 "
        f"figures lie in it. Few {counted}, wide interval."
    )


def rule(facts: ReportFacts) -> str:
    """Returns by which thresholds a class is judged."""
    least = percent(facts.options.least)
    of = of_groups(FEWEST_GROUPS, facts.measured.counted)
    return (
        f"A class may be relied on where both what the student finds of it (recall) "
        f"and what it says rightly (precision) are at {least} or above with all of "
        f"their 95 % interval, on at least {FEWEST_PATCHES} patches{of}. It "
        f"is not to be relied on where one of them stays below {least} with all of its "
        f"interval. Between the two, these patches cannot say."
    )


BY_SPLIT = "whether a patch is of the validation or of the unseen part"
BY_CENTRE = "its centre"


def origin(leak: Leak, asked: str = BY_SPLIT) -> str:
    """Returns how well it can be told where a patch is from.

    Args:
        leak: As it was measured.
        asked: What was told of a patch.
    """
    if leak.value is None:
        return (
            f"Whether the student sees where a patch is from cannot be said, asked "
            f"{asked}: {leak.reason}."
        )
    said = (
        f"By its nearest patches of the same class{_of_others(leak.counted)}, {asked} "
        f"is told rightly in {percent(leak.value)}{interval_of_share(leak.interval)}, "
        f"where chance is {percent(leak.chance)} ({leak.patches} patches"
        f"{of_groups(leak.groups, leak.counted)})."
    )
    if leak.interval is None:
        return said
    if leak.interval[0] <= leak.chance:
        return f"{said} These patches do not show that the student sees the difference."
    therefore = (
        "expect other figures from another scanner, stain or centre"
        if leak.counted == "patients"
        else "that may be scanner, stain or centre, or the patient, whom the data do "
        "not name throughout"
    )
    return (
        f"{said} So the embeddings carry where a patch is from, beside its class: "
        f"{therefore}."
    )


def _of_others(counted: str) -> str:
    """Returns of whom else a patch's neighbours are, as far as the data say."""
    kinds = [kind for kind in counted.split(" and ") if kind != "patches"]
    if not kinds:
        return ""
    known = "" if counted == kinds[0] else " where they are named"
    return f" and of other {' or '.join(kinds)}{known}"


def slide(leak: Leak, slides_are: str) -> str:
    """Returns how alike patches of one slide are to the student."""
    if leak.value is None:
        return f"Nothing can be said of single {slides_are}: {leak.reason}."
    times = leak.value / leak.chance if leak.chance else 0.0
    more = f", {times:.1f} times as many" if times >= 1.05 else ""
    return (
        f"Of the five nearest patches of the same class {percent(leak.value)} are of "
        f"the same one of {leak.groups} {slides_are}; among all patches of the class "
        f"it is {percent(leak.chance)}{more}. The more, the more the student sees the "
        f"stain and the slide beside the tissue."
    )
