"""Which trials there are: the search, the tuning, the final table, and a quick look."""

from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, replace
from itertools import product
from typing import Literal

from benchmarks.quality.rows import (
    ABLATION_ROWS,
    FEDERATION_ROWS,
    METHOD_ROWS,
    MOVING_ROWS,
    PROTOTYPES,
    PUBLISHED,
    TEACHER,
    VIEW_ROWS,
    Row,
)
from benchmarks.quality.search import (
    ATTENTION_ROWS,
    LATE_ROWS,
    SEARCH_ROWS,
    SECOND_ROWS,
    TRAINING_ROWS,
)
from benchmarks.quality.tissue import SCENARIOS, Scenario
from moma_core.distillation.methods.names import need_of
from moma_core.training.settings import TrainingSettings

Stage = Literal["search", "tuning", "final", "quick"]
Student = Literal["imagenet", "scratch"]

_OTHER_CLASSES: tuple[Scenario, ...] = ("relevant", "stain")
SEARCH_SCENARIOS: tuple[Scenario, ...] = ("same", "relevant", "irrelevant")
# Never those of the final table.
SEARCH_SEEDS, SECOND_SEEDS = (100, 101), (102, 103)
ATTENTION_SEEDS = tuple(range(110, 120))
# What tuning found for the two weights of MoMA, and for kd and hint.
_SHIPPED_SCALES = {"moma": 3.0, "kd": 1.0, "hint": 0.3}
LABELS, UNLABELLED = 45, 355
SCALES = (0.1, 0.3, 1.0, 3.0)
# The default and its nearest rivals, in as many seeds as a claim takes.
HEADLINE_SEEDS = 10
# Methods without a weight of their own.
BY_RATE = ("ce", "ft")
RATES = (0.005, 0.01, 0.02, 0.05)
STEPS = 100
SCRATCH_STEPS = 200
# 45 passes over 45 labelled and 100 unlabelled patches, 32 a batch.
LONG_STEPS, LONG_UNLABELLED = 204, 100
HALF_UNLABELLED = 155
_GRID = ((45, 0), (45, 100), (90, 310), (200, 200), (200, 0), (400, 0))
# A method that puts the teacher's classifier to use needs the teacher's classes.
_SAME_CLASSES = {"simkd", "srrl"}
_FEW = tuple(row for row in METHOD_ROWS if row.name in ("ce", "kd", "moma"))


@dataclass(frozen=True, slots=True)
class Trial:
    """One student, trained once and measured.

    Args:
        stage: Where in the protocol.
        scenario: Teacher and task.
        student: The teacher's architecture from ImageNet, or a small one from scratch.
        row: Its name.
        seed: Of division, teacher, student and order.
        labels: Labelled patches.
        unlabelled: Unlabelled patches at most; the pool may hold fewer.
        scale: Times the weight of all that the method adds to cross-entropy.
        rate: Learning rate; the same for every method of a stage.
        steps: Optimiser steps.
    """

    stage: Stage
    scenario: Scenario
    student: Student
    row: str
    seed: int
    labels: int = LABELS
    unlabelled: int = UNLABELLED
    scale: float = 1.0
    rate: float = 0.02
    steps: int = STEPS

    @property
    def key(self) -> str:
        """Names the trial in the results."""
        return "/".join(map(str, astuple(self)))


def search() -> Iterator[Trial]:
    """Yields what the default was looked for in; validation only."""
    for seed in SEARCH_SEEDS:
        for scenario in SEARCH_SCENARIOS:
            for row in SEARCH_ROWS:
                yield Trial("search", scenario, "imagenet", row.name, seed)
    for seed in SECOND_SEEDS:
        for scenario in SEARCH_SCENARIOS:
            for row in SECOND_ROWS:
                yield Trial("search", scenario, "imagenet", row.name, seed)


def attention_search() -> Iterator[Trial]:
    """Yields what may be added to the default, seed by seed; validation only."""
    for rows in (ATTENTION_ROWS, LATE_ROWS):
        for seed in ATTENTION_SEEDS:
            for scenario in ("same", "relevant"):
                for row in rows:
                    yield _as_shipped(row, scenario, seed)


def training_search() -> Iterator[Trial]:
    """Yields the default at the learning rate that ships, and what is switched off.

    The same seeds at the tables' rate are among those of `attention_search`.
    """
    shipped = TrainingSettings().learning_rate
    for seed in ATTENTION_SEEDS[:6]:
        for row in TRAINING_ROWS:
            yield replace(_as_shipped(row, "same", seed), rate=shipped)


def _as_shipped(row: Row, scenario: Scenario, seed: int) -> Trial:
    return Trial(
        "search",
        scenario,
        "imagenet",
        row.name,
        seed,
        scale=_SHIPPED_SCALES.get(row.method, 1.0),
        rate=0.01 if row.method == "ce" else 0.02,
    )


def tuning() -> Iterator[Trial]:
    """Yields as many trials for each method: of its weight, or else of the rate."""
    for scenario in ("same", "relevant"):
        for row in METHOD_ROWS:
            if _fits(row.method, scenario):
                yield from _tuned(row, scenario)


def _tuned(row: Row, scenario: Scenario) -> Iterator[Trial]:
    seed = SEARCH_SEEDS[0]
    if row.method in BY_RATE:
        for rate in RATES:
            yield Trial("tuning", scenario, "imagenet", row.name, seed, rate=rate)
    else:
        for scale in SCALES:
            yield Trial("tuning", scenario, "imagenet", row.name, seed, scale=scale)


@dataclass(frozen=True, slots=True)
class FinalTable:
    """The trials of the table, under what tuning froze.

    Args:
        seeds: How many, from 0.
        scales: The frozen weight of each row, by name; ablations take moma's.
        rates: The frozen learning rate of each row that was tuned by it.
    """

    seeds: int
    scales: Mapping[str, float]
    rates: Mapping[str, float]

    def trials(self) -> Iterator[Trial]:
        """Yields them, what matters most first; seed by seed, each with its teacher."""
        parts = (self._methods, self._variants, self._labels, self._federated)
        for part in (*parts, self._others):
            for seed in range(self.seeds):
                yield from part(seed)

    def headline(self) -> Iterator[Trial]:
        """Yields the default and its nearest rivals, in ten seeds."""
        names = ("moma", "ce", "kd", "hint")
        rivals = [row for row in METHOD_ROWS if row.name in names]
        for seed in range(HEADLINE_SEEDS):
            for scenario in ("same", "relevant"):
                rows = rivals if scenario == "same" else [PROTOTYPES, *rivals]
                for row in rows:
                    yield self._trial(row, scenario, seed)

    def _methods(self, seed: int) -> Iterator[Trial]:
        for scenario, row in product(SCENARIOS, METHOD_ROWS):
            if _comes_first(row, scenario):
                yield self._trial(row, scenario, seed)

    def _variants(self, seed: int) -> Iterator[Trial]:
        """Yields views and ablations, of the same task."""
        for row in VIEW_ROWS:
            trial = self._trial(row, "same", seed)
            yield replace(trial, steps=LONG_STEPS, unlabelled=LONG_UNLABELLED)
        for row in (*ABLATION_ROWS, *MOVING_ROWS):
            yield self._trial(row, "same", seed)

    def _labels(self, seed: int) -> Iterator[Trial]:
        for row, (labels, unlabelled) in product(_FEW, _GRID):
            trial = self._trial(row, "same", seed)
            yield replace(trial, labels=labels, unlabelled=unlabelled)

    def _federated(self, seed: int) -> Iterator[Trial]:
        yield self._trial(TEACHER, "same", seed)
        for row in (*_FEW, TEACHER):
            yield self._trial(row, "weak", seed)
        for row in FEDERATION_ROWS:
            trial = self._trial(row, "same", seed)
            yield replace(trial, unlabelled=HALF_UNLABELLED)
        for row in filter(_asks_for_answers_at_most, METHOD_ROWS):
            trial = self._trial(row, "same", seed)
            yield replace(trial, student="scratch", steps=SCRATCH_STEPS)

    def _others(self, seed: int) -> Iterator[Trial]:
        for scenario, row in product(SCENARIOS, METHOD_ROWS):
            if _fits(row.method, scenario) and not _comes_first(row, scenario):
                yield self._trial(row, scenario, seed)
        for row in ABLATION_ROWS:
            yield self._trial(row, "relevant", seed)
        for scenario in _OTHER_CLASSES:
            yield self._trial(PROTOTYPES, scenario, seed)

    def _trial(self, row: Row, scenario: Scenario, seed: int) -> Trial:
        name = PUBLISHED.name if row.published else row.name
        scale = self.scales.get(name, self.scales.get(row.method, 1.0))
        trial = Trial("final", scenario, "imagenet", row.name, seed)
        rate = self.rates.get(row.method, trial.rate)
        return replace(trial, scale=scale, rate=rate)


def quick() -> Iterator[Trial]:
    """Yields a table of ten minutes: one seed, the methods any teacher allows."""
    for scenario in ("same", "relevant"):
        for row in filter(_asks_for_answers_at_most, METHOD_ROWS):
            yield Trial("quick", scenario, "imagenet", row.name, 0, steps=60)


def _fits(method: str, scenario: Scenario) -> bool:
    return scenario == "same" or method not in _SAME_CLASSES


def _comes_first(row: Row, scenario: Scenario) -> bool:
    """White-box methods come late where the teacher's task is another one."""
    is_close = scenario in ("same", "relevant")
    return _fits(row.method, scenario) and (is_close or _asks_for_answers_at_most(row))


def _asks_for_answers_at_most(row: Row) -> bool:
    return need_of(row.method) in ("nothing", "outputs")


ROWS: Mapping[str, Row] = {
    row.name: row
    for row in (
        *METHOD_ROWS,
        *ABLATION_ROWS,
        PROTOTYPES,
        *MOVING_ROWS,
        *VIEW_ROWS,
        *FEDERATION_ROWS,
        TEACHER,
        *SEARCH_ROWS,
        *SECOND_ROWS,
        *ATTENTION_ROWS,
        *LATE_ROWS,
        *TRAINING_ROWS,
    )
}
