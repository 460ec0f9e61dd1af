"""What may leave a site for its coordinator, as rules that know nothing of a site.

A figure is held against these in order; the first that it breaks suppresses it:

1. `metric`: its key is on the allow-list, and is one whose meaning the policy knows.
2. `range`: it is finite and within the range of its kind.
3. `patients`: its cohort has the fewest people that the policy wants.
4. `class_patients`: so has the class that it describes, if it describes one.
5. `complement`: where one class alone is too small, the smallest of the others is
   suppressed with it: figures of the whole and of all others would disclose it.
6. `cohort`: figures on its split were disclosed of the very same cohort before, or
   never. Two figures of cohorts that differ by one patient would disclose that patient.

What passes is rounded. A count of patches is rounded to tens, and capped.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from moma_core.federation.task import RoundTask

FigureRule = Literal[
    "metric", "range", "patients", "class_patients", "complement", "cohort"
]
RoundRule = Literal["epochs", "rounds", "runs", "evaluations", "weights", "group"]

UnknownPatients = Literal["one", "each"]
"""Patches that name neither patient nor slide are one person, or one person each."""

COUNT_STEP = 10

_SHARE: Final = (0.0, 1.0)
_KAPPAS: Final = ("kappa", "kappa_quadratic", "kappa_unweighted")
_RANGES: Final = dict.fromkeys(_KAPPAS, (-1.0, 1.0))  # everything else is a share
_WORDS: Final = {
    "macro_f1": "macro-F1",
    "kappa_quadratic": "kappa with quadratic weights",
    "kappa_unweighted": "kappa without weights",
    "auroc": "AUROC",
    "ece": "ECE",
}
_KEY = re.compile(
    r"(?:[a-z][a-z0-9_]*?_)??(?P<split>validation|unseen)_"
    rf"(?P<figure>accuracy|macro_f1|{'|'.join(_KAPPAS)}|auroc|ece"
    r"|recall_(?P<of_class>[a-z0-9_]*))"
)


class FigureName(NamedTuple):
    """What a figure's key says.

    Args:
        split: On which it was measured.
        figure: For example `accuracy`.
        of_class: The class that it describes, as its key has it; None: all classes.
    """

    split: str
    figure: str
    of_class: str | None

    @property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest value that it can have."""
        return _RANGES.get(self.figure, _SHARE)


class Cohort(NamedTuple):
    """On whom a figure was measured.

    Args:
        digest: SHA-256 over their patches, labels and names, hex.
        people: How many there are, as far as anybody can know.
        by_class: How many there are of each class, by its part of a figure's key.
        counted: What was counted, as an officer reads it; holds no name.
    """

    digest: str
    people: int
    by_class: Mapping[str, int]
    counted: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FigurePolicy:
    """What a site lets out of its figures.

    Args:
        allowed: Keys of the figures that may leave.
        decimals: Decimals to which figures are rounded.
        min_patients: Fewest people of a cohort.
        min_class_patients: Fewest people of a class that a figure describes.
    """

    allowed: frozenset[str]
    decimals: int
    min_patients: int
    min_class_patients: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundBounds:
    """What a site lets a coordinator ask.

    Args:
        epochs_per_round: Most epochs of a round.
        epochs_per_run: Most epochs of a run.
        rounds_per_run: Most rounds of a run.
        runs: Most runs over the life of the site's state.
        evaluations_per_run: Most reports with figures, repeated rounds included.
        weights_may_leave: Whether the student's weights may.
        max_update_norm: Most that a masked update may move, as an L2 norm; None: no
            masked update may leave.
    """

    epochs_per_round: int
    epochs_per_run: int
    rounds_per_run: int
    runs: int
    evaluations_per_run: int
    weights_may_leave: bool
    max_update_norm: float | None = None


class CoordinatorHistory(NamedTuple):
    """What a coordinator has had of a site so far.

    Args:
        runs: Names of runs in which the site took part.
        evaluations: Reports with figures in the run at hand.
    """

    runs: frozenset[str]
    evaluations: int


class RoundRefusal(NamedTuple):
    """Why a round is not done.

    Args:
        rule: The rule, as metrics count it.
        sentence: The refusal in the report; fixed but for the policy's own number.
        own_reason: For the site alone: the key of its config, and both numbers.
    """

    rule: RoundRule | Literal["failure"]
    sentence: str
    own_reason: str = ""

    @property
    def own_sentence(self) -> str:
        """The refusal as the site's own log has it."""
        if not self.own_reason:
            return self.sentence
        return f"{self.sentence} ({self.own_reason})"


CANNOT_TRAIN: Final = RoundRefusal(
    "failure", "the site cannot train; its operator knows why"
)
"""All that is disclosed of an error; its text stays in the site's own log."""


def figure_name(key: str) -> FigureName | None:
    """Returns what a key says, or None if it is none of a figure that is known."""
    found = _KEY.fullmatch(key)
    return FigureName(*found.group("split", "figure", "of_class")) if found else None


def figure_in_words(key: str) -> str:
    """Returns a figure's title: `macro-F1 of ce on validation patches`.

    Args:
        key: For example `ce_validation_macro_f1`; one that is not known stays as it is.
    """
    name = figure_name(key)
    if name is None:
        return key
    what = _WORDS.get(name.figure, name.figure.replace("_", " "))
    if name.of_class is not None:
        what = f"recall of {name.of_class.replace('_', ' ')}"
    method = key.removesuffix(f"{name.split}_{name.figure}").removesuffix("_")
    return f"{what}{f' of {method}' if method else ''} on {name.split} patches"


def figure_rule(
    key: str,
    value: float,
    cohort: Cohort | None,
    disclosed_cohort: str | None,
    policy: FigurePolicy,
) -> FigureRule | None:
    """Returns the rule that suppresses a figure, or None if it may leave.

    Args:
        key: Key of the figure, for example `ce_validation_accuracy`.
        value: Value of the figure, not rounded yet.
        cohort: On whom it was measured; None is nobody.
        disclosed_cohort: Digest of the cohort of which figures on this split were
            disclosed before; None: of none.
        policy: What the site lets out.
    """
    name = figure_name(key)
    if name is None or key not in policy.allowed:
        return "metric"
    low, high = name.range
    if not math.isfinite(value) or not low <= value <= high:
        return "range"
    if cohort is None or cohort.people < policy.min_patients:
        return "patients"
    if name.of_class is not None:
        rule = _class_rule(name.of_class, cohort.by_class, policy.min_class_patients)
        if rule is not None:
            return rule
    return "cohort" if disclosed_cohort not in (None, cohort.digest) else None


def rounded_patch_count(count: int, most: int) -> int:
    """Returns a count of patches as it leaves: in tens, at least ten, at most `most`.

    It is a site's weight in the average.
    """
    tens = max(COUNT_STEP, round(count / COUNT_STEP) * COUNT_STEP)
    return min(tens, most)


def round_refusal(
    task: RoundTask, bounds: RoundBounds, history: CoordinatorHistory
) -> RoundRefusal | None:
    """Returns why a site refuses a round's task, or None if it does not."""
    refusal = plan_refusal(task.rounds, task.local_epochs, bounds)
    if refusal is not None:
        return refusal
    runs = len(history.runs | {task.run})
    if runs > bounds.runs:
        return _beyond("runs", "runs", "max_runs", bounds.runs, runs)
    is_evaluated = task.kind in ("train", "close")
    if is_evaluated and history.evaluations >= bounds.evaluations_per_run:
        most, wanted = bounds.evaluations_per_run, history.evaluations + 1
        what, key = "evaluations a run", "max_evaluations_per_run"
        return _beyond("evaluations", what, key, most, wanted)
    sentence = _weights_refusal(task, bounds)
    return None if sentence is None else RoundRefusal("weights", sentence)


def plan_refusal(
    rounds: int, local_epochs: int, bounds: RoundBounds
) -> RoundRefusal | None:
    """Returns why a site refuses each round of a plan, or None if it does not.

    Args:
        rounds: Rounds of the run.
        local_epochs: Epochs of each round.
        bounds: What the site lets a coordinator ask.
    """
    epochs = rounds * local_epochs
    of_round, of_run = bounds.epochs_per_round, bounds.epochs_per_run
    if local_epochs > of_round:
        what, key = "epochs a round", "max_epochs_per_round"
        return _beyond("epochs", what, key, of_round, local_epochs)
    if epochs > of_run:
        return _beyond("epochs", "epochs a run", "max_epochs_per_run", of_run, epochs)
    if rounds > bounds.rounds_per_run:
        what, key = "rounds a run", "max_rounds_per_run"
        return _beyond("rounds", what, key, bounds.rounds_per_run, rounds)
    return None


def _beyond(
    rule: RoundRule, what: str, key: str, most: int, wanted: int
) -> RoundRefusal:
    own = f"coordinator.{key} is {most}, this task asks {wanted}"
    return RoundRefusal(rule, f"more than {most} {what}", own)


def _weights_refusal(task: RoundTask, bounds: RoundBounds) -> str | None:
    if task.mode != "fedavg":
        if task.weights is None:
            return None
        return "weights are taken in a round of fedavg only"
    if task.masking is None:
        return None if bounds.weights_may_leave else "weights may not leave this site"
    most = bounds.max_update_norm
    if most is None:
        return "masked weights may not leave this site"
    if task.masking.max_update_norm > most:
        return f"an update of this site moves {most:g} at most"
    return None


def _class_rule(
    of_class: str, by_class: Mapping[str, int], fewest: int
) -> FigureRule | None:
    if by_class.get(of_class, 0) < fewest:
        return "class_patients"
    hidden = [name for name, people in by_class.items() if people < fewest]
    if not hidden:
        return None
    rest = {name: people for name, people in by_class.items() if name not in hidden}
    suppressed = sum(by_class[name] for name in hidden)
    # what all others and the whole disclose is what the hidden ones are together
    for name in sorted(rest, key=lambda n: (rest[n], n)):
        if suppressed >= fewest and len(hidden) > 1:
            break
        hidden.append(name)
        suppressed += rest[name]
    return "complement" if of_class in hidden else None
