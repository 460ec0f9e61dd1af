"""What tuning decided; written once, committed, and read by the final run alone."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from math import log
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from benchmarks.csv_file import Line
from benchmarks.quality.students import fingerprint
from benchmarks.quality.trials import BY_RATE, tuning
from moma_core.errors import ConfigError


class Frozen(NamedTuple):
    """The settings of the final run.

    Args:
        scales: Weight of each method that was tuned by its weight.
        rates: Learning rate of each method that was tuned by its rate; all others
            keep the one that their weights were tuned at.
        trials: How many trials each method had.
    """

    scales: dict[str, float]
    rates: dict[str, float]
    trials: dict[str, int]


def freeze(lines: Iterable[Line], path: Path) -> Frozen:
    """Chooses by mean validation macro-F1 over the scenarios, and writes it down.

    Raises:
        ConfigError: Some tuning trials are missing.
    """
    planned = {(trial.key, fingerprint(trial)) for trial in tuning()}
    tuned = [line for line in lines if (line["key"], line["settings"]) in planned]
    if len(tuned) != len(planned):
        raise ConfigError(
            f"{len(tuned)} of {len(planned)} tuning trials are there: "
            "run --tuning first"
        )
    scores: defaultdict[str, defaultdict[float, list[float]]]
    scores = defaultdict(lambda: defaultdict(list))
    for line in tuned:
        value = float(line["rate" if line["row"] in BY_RATE else "scale"])
        scores[line["row"]][value].append(float(line["validation_macro_f1"]))
    best = {row: _best(found) for row, found in scores.items()}
    frozen = Frozen(
        {row: value for row, value in best.items() if row not in BY_RATE},
        {row: value for row, value in best.items() if row in BY_RATE},
        {row: sum(map(len, found.values())) for row, found in scores.items()},
    )
    path.write_text(json.dumps(frozen._asdict(), indent=2) + "\n", "utf-8")
    return frozen


def _best(found: Mapping[float, list[float]]) -> float:
    """Returns the value of the best mean; of equals, the one nearest to 1."""
    return max(found, key=lambda value: (fmean(found[value]), -abs(log(value))))


def read_frozen(path: Path) -> Frozen:
    """Reads what was frozen.

    Raises:
        ConfigError: Nothing was.
    """
    try:
        return Frozen(**json.loads(path.read_text("utf-8")))
    except OSError:
        raise ConfigError(f"{path} is missing: run --freeze, and commit it") from None
