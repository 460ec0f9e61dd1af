"""What follows from a student's figures, the answer to a report's title first."""

from collections.abc import Iterator, Sequence

from moma_client.reports.student_report.facts import ReportFacts
from moma_client.reports.student_report.trust import State
from moma_core.data.patch import UNSEEN, VALIDATION
from moma_core.evaluation.figures import Figure, of_groups
from moma_core.report_page.page import percent


def in_short(facts: ReportFacts) -> Iterator[str]:
    """Yields the conclusions; the first one answers the page's title."""
    yield _trusted(facts)
    yield _overall(facts)
    yield from _carries_over(facts)
    yield from _compared(facts)
    yield from _sure(facts)


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
        f"right in {percent(accuracy.value)}{interval_of_share(accuracy.interval)}. "
        f"To say the most frequent class each time would be right in "
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
        f"{interval_of_share(before.interval)} to {percent(after.value)}"
        f"{interval_of_share(after.interval)}"
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


def interval_of_share(interval: tuple[float, float] | None) -> str:
    """Returns the interval of a share in brackets; empty: there is none."""
    if interval is None:
        return ""
    return f" (95 % interval {percent(interval[0])} to {percent(interval[1])})"


def _signed(interval: tuple[float, float]) -> str:
    return f" (95 % interval {interval[0]:+.3f} to {interval[1]:+.3f})"
