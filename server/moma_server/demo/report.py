"""What the demo shows: a table for a person, one object for a program."""

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Figures = dict[str, dict[str, float | None]]  # split -> figure -> value

Details = Mapping[
    str, Any
]  # split -> figures with n and interval, as `evaluate` has it

SHOWN = ("accuracy", "macro_f1")


@dataclass(frozen=True, slots=True)
class DemoReport:
    """The result of one demo.

    Args:
        dataset: Name of the data set.
        claim: What its figures are worth.
        seconds: Duration of the whole demo.
        sites: site -> method -> split -> figure -> value.
        teacher: split -> figure -> value.
        queries: Patches that each site queried, from the teacher's metrics.
        budget_left: Share of each site's budget that is left, from the same.
        rounds: Records of the rounds.
        scenario: site -> the scenario that its client chose, and why.
        checks: What was searched for and not found.
        out: Folder of everything.
        details: row, such as `site-a moma` -> split -> n and intervals of its figures.
    """

    dataset: str
    claim: str
    seconds: float
    sites: dict[str, dict[str, Figures]]
    teacher: Figures
    queries: dict[str, int]
    budget_left: dict[str, float]
    rounds: list[dict[str, Any]]
    scenario: dict[str, str]
    checks: list[str]
    out: str
    details: dict[str, Details] = field(default_factory=dict)

    def to_json(self) -> str:
        """Returns one line."""
        return json.dumps(asdict(self))

    def lines(self) -> Iterator[str]:
        """Yields the report for a person."""
        yield f"data set: {self.dataset}"
        yield f"          {self.claim}"
        for site, scenario in self.scenario.items():
            yield f"{site}: scenario {scenario}"
        yield ""
        yield from self._table()
        site = next(iter(self.sites))
        config = shlex.quote(str(Path(self.out) / site / "config.yaml"))
        yield f"each class's figures: moma-client evaluate --site {config}"
        yield ""
        for site, patches in self.queries.items():
            left = self.budget_left[site]
            yield f"{site} asked {patches} patches, {left:.0%} of its budget left"
        for record in self.rounds:
            took_part = ", ".join(record["took_part"]) or "nobody"
            yield (
                f"{record['kind']} {record['round']}: {record['outcome']} in "
                f"{record['seconds']:.0f} s, took part: {took_part}"
            )
        yield ""
        for check in self.checks:
            yield f"checked: {check}"
        out = Path(self.out)
        yield f"logs: {out / 'logs'}"
        yield f"students and checkpoints: {out}/<site>/state/runs/*/<method>"
        yield f"report: {out / 'report.json'}"
        yield f"{self.seconds:.0f} s in all"

    def _table(self) -> Iterator[str]:
        rows = [
            (f"{site} {method}", figures)
            for site, methods in self.sites.items()
            for method, figures in methods.items()
        ]
        names = "".join(f"{f'{name}, 95 % interval':<26}" for name in SHOWN)
        for split in _SPLITS:
            yield f"{split:16}{'n':>5}  {names}".rstrip()
            for name, figures in [*rows, ("teacher", self.teacher)]:
                found = self.details.get(name, {}).get(split, {})
                patches = found.get("patches", "?")
                cells = "".join(
                    f"{_cell(figures[split][each], found, each):<26}" for each in SHOWN
                )
                yield f"{name:16}{patches:>5}  {cells}".rstrip()
            yield ""


_SPLITS = ("validation", "unseen")


def by_split(figures: Mapping[str, Any]) -> Figures:
    """Returns what the demo shows of figures named `<split>_<figure>`."""
    return {
        split: {name: figures.get(f"{split}_{name}") for name in SHOWN}
        for split in _SPLITS
    }


def _cell(value: float | None, found: Mapping[str, Any], name: str) -> str:
    """Returns a figure, and its interval where it has one."""
    if value is None:
        return "none"
    detail = found.get("figures", {}).get(name, {})
    if detail.get("low") is None:
        return f"{value:.3f}"
    return f"{value:.3f}  {detail['low']:.3f} to {detail['high']:.3f}"
