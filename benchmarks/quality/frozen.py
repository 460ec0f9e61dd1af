"""What tuning decided; written once, committed, and read by the final run alone."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from math import log
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from benchmarks.quality.results import Line
from moma_core.errors import ConfigError


class Frozen(NamedTuple):
    """The settings of the final run.

    Args:
        scales: Weight of each method.
        rate: Learning rate of every row: what served cross-entropy best.
        trials: How many trials each method had.
    """

    scales: dict[str, float]
    rate: float
    trials: dict[str, int]


def freeze(lines: Iterable[Line], path: Path) -> Frozen:
    """Chooses by mean validation macro-F1 over the scenarios, and writes it down.

    Raises:
        ConfigError: There are no tuning trials.
    """
    scores: defaultdict[str, defaultdict[float, list[float]]]
    scores = defaultdict(lambda: defaultdict(list))
    for line in lines:
        if line["stage"] == "tuning":
            by_rate = line["row"] in ("ce", "ft")
            value = float(line["rate" if by_rate else "scale"])
            scores[line["row"]][value].append(float(line["validation_macro_f1"]))
    if "ce" not in scores:
        raise ConfigError("there are no tuning trials yet: run without --final first")
    best = {row: _best(found) for row, found in scores.items()}
    frozen = Frozen(
        {row: value for row, value in best.items() if row not in ("ce", "ft")},
        best["ce"],
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
