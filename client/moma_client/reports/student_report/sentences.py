"""What the figures of a report mean, in words for who was not there."""

from collections.abc import Iterator, Sequence

from moma_client.reports.student_report.facts import ReportFacts
from moma_client.reports.student_report.trust import FEWEST_PATCHES, State
from moma_core.data.patch import TRAIN, UNSEEN, VALIDATION
from moma_core.evaluation.embedding_map import Leak
from moma_core.evaluation.figures import Figure, of_groups
from moma_core.evaluation.statistics import FEWEST_GROUPS
from moma_core.report_page.page import percent
from moma_core.runtime.cli import counted


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
    alone = [name for name, each in facts.students.items() if not each.card.teacher]
    if alone:
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


def in_short(facts: ReportFacts) -> Iterator[str]:
    """Yields the conclusions; the first one answers the page's title."""
    yield _trusted(facts)
    yield _overall(facts)
    yield from _carries_over(facts)
    yield from _compared(facts)
    yield from _sure(facts)


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
    if facts.measured.counted == "patches":
        yield (
            "The data name no patient, so each patch counts as one: patches of one "
            "patient are alike, and the intervals are narrower than they should be."
        )
    elif " and " in facts.measured.counted:
        yield (
            f"Not every patch names its patient: intervals are by "
            f"{facts.measured.counted}."
        )
    if not facts.run.is_over:
        yield "The run is not finished; these are figures of students in training."


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
        f"By its nearest patches of the same class and of other patients, {asked} is "
        f"told rightly in {percent(leak.value)}{_interval(leak.interval)}, where "
        f"chance is {percent(leak.chance)} ({_counted(leak)})."
    )
    if leak.interval is None:
        return said
    if leak.interval[0] > leak.chance:
        return (
            f"{said} So the embeddings carry where a patch is from, beside its class: "
            f"expect other figures from another scanner, stain or centre."
        )
    return f"{said} These patches do not show that the student sees the difference."


def _counted(leak: Leak) -> str:
    if leak.groups == leak.patches:
        return f"{leak.patches} patches"
    return f"{leak.patches} patches of {leak.groups} patients or slides"


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


def _trusted(facts: ReportFacts) -> str:
    """Returns on which classes the student may be trusted, and on which not."""
    names: dict[State, list[str]] = {}
    for each in facts.trust:
        names.setdefault(each.state, []).append(each.name)
    kinds = facts.measured.counted.split(" and ")
    scarce = " or ".join(["patches", *(each for each in kinds if each != "patches")])
    parts = [_relied_on(facts, names.get("relied", []))] + [
        f"{beginning} {', '.join(names[state])}."
        for state, beginning in (
            ("not", "Not on"),
            ("undecided", f"Too few {scarce} to say of"),
            ("untested", "Not tested:"),
        )
        if state in names
    ]
    return " ".join(parts)


def _relied_on(facts: ReportFacts, relied: Sequence[str]) -> str:
    whole = len(facts.trust)
    if not relied:
        return f"On none of {whole} classes may {facts.subject} be trusted so far."
    if len(relied) == whole:
        return f"Yes, on all {whole} classes: {', '.join(relied)}."
    return f"On {len(relied)} of {whole} classes yes: {', '.join(relied)}."


def _overall(facts: ReportFacts) -> str:
    found = facts.measured
    accuracy = found.figures["accuracy"]
    if accuracy.value is None:
        return f"Nothing can be said of {facts.subject}: {accuracy.reason}."
    of = of_groups(found.groups, found.counted)
    seen = (
        "which no training and no choice has seen"
        if facts.split == UNSEEN
        else "by which the training was watched"
    )
    return (
        f"On {found.patches} {facts.split} patches{of}, {seen}, {facts.subject} is "
        f"right in {percent(accuracy.value)}{_interval(accuracy.interval)}. To say the "
        f"most frequent class each time would be right in "
        f"{percent(facts.majority())}: {_against(accuracy, facts.majority())}."
    )


def _against(accuracy: Figure, majority: float) -> str:
    """Returns what a student is worth beside the most frequent class, said each time.

    Args:
        accuracy: Of the student; it has a value.
        majority: Share that is of the most frequent class.
    """
    low, high = accuracy.interval or (0.0, 1.0)
    if high < majority:
        return "the student is worse than that"
    if (accuracy.value or 0.0) <= majority:
        return "the student is no better than that"
    if low <= majority:
        return "these patches do not show that the student is better than that"
    return "the student is better than that"


def _carries_over(facts: ReportFacts) -> Iterator[str]:
    if facts.split != UNSEEN:
        return
    before = facts.student.splits[VALIDATION].figures["accuracy"]
    after = facts.measured.figures["accuracy"]
    if before.value is None or after.value is None:
        return
    moved = (
        f"From validation to unseen patches accuracy goes from {percent(before.value)}"
        f"{_interval(before.interval)} to {percent(after.value)}"
        f"{_interval(after.interval)}"
    )
    if before.interval is None or after.interval is None:
        yield f"{moved}; without both intervals nothing follows from it."
    elif after.interval[1] < before.interval[0]:
        yield f"{moved}: it does not carry over fully to patches like these."
    elif after.interval[0] > before.interval[1]:
        yield f"{moved}: the unseen patches are the easier ones."
    else:
        yield f"{moved}: no loss that these patches could show."


def _compared(facts: ReportFacts) -> Iterator[str]:
    for method, found in facts.differences.items():
        each = found.get("macro_f1")
        if each is None:
            continue
        if each.interval is None:
            yield _uncompared(facts, method)
            continue
        said = f"{each.value:+.3f} macro-F1{_signed(each.interval)}"
        if each.is_decided:
            which = "better" if each.value > 0 else "worse"
            yield f"{facts.subject} is {which} than {method}: {said}."
        else:
            yield (
                f"Between {facts.subject} and {method} these patches show no sure "
                f"difference: {said}."
            )


def _uncompared(facts: ReportFacts, method: str) -> str:
    """Returns that a difference without an interval decides nothing."""
    own, other = (
        facts.students[name].splits[facts.split].figures["macro_f1"]
        for name in (facts.subject, method)
    )
    reason = own.reason or other.reason
    because = f" ({reason})" if reason else ""
    return (
        f"Which of {facts.subject} (macro-F1 {_plain(own)}) and {method} "
        f"({_plain(other)}) is better cannot be concluded: the difference has no "
        f"interval{because}."
    )


def _sure(facts: ReportFacts) -> Iterator[str]:
    found = facts.calibrations[facts.subject]
    temperature, before = found.temperature, found.before[facts.split]
    if temperature.value is None:
        yield (
            f"How sure {facts.subject} says it is was not corrected: "
            f"{temperature.reason}."
        )
        return
    off = f"The probabilities of {facts.subject} are off by {_plain(before)} on average"
    if temperature.value == 1:
        yield (
            f"{off}; no temperature brings those of the validation patches nearer, so "
            f"they stay as trained."
        )
        return
    after = found.after[facts.split]
    use = (
        "Predict and the card of an export use it"
        if found.is_on_card
        else "Its card has none, since an earlier release trained it, so predict does "
        "not use it"
    )
    yield (
        f"{off} as trained, and with the temperature {temperature.value:.2f}, fitted "
        f"on validation patches, by {_plain(after)}: {_changed(before, after)}. {use}."
    )


def _changed(before: Figure, after: Figure) -> str:
    """Returns what became of a calibration error."""
    if before.value is None or after.value is None or before.value == after.value:
        return "no clear change"
    word = "worse" if after.value > before.value else "better"
    if before.interval is None or after.interval is None:
        return f"{word} on these patches, with no interval to say more"
    (low, high), (low_after, high_after) = before.interval, after.interval
    return word if high < low_after or high_after < low else "no clear change"


def _plain(figure: Figure) -> str:
    return "an unknown amount" if figure.value is None else f"{figure.value:.3f}"


def _interval(interval: tuple[float, float] | None) -> str:
    if interval is None:
        return ""
    return f" (95 % interval {percent(interval[0])} to {percent(interval[1])})"


def _signed(interval: tuple[float, float]) -> str:
    return f" (95 % interval {interval[0]:+.3f} to {interval[1]:+.3f})"
