"""The runs of a site, as they lie on its disk, and how they are named and found."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moma_client.config.site import SiteConfig
from moma_core.distillation.methods.names import METHODS
from moma_core.errors import ConfigError, known_names
from moma_core.runtime.json_lines import read_json_objects

CARD = "student.json"  # whose folder is a student's

_SECRET = re.compile(r"-[0-9a-f]{12}$")
_BEST = ("validation_macro_f1", "validation_accuracy")


@dataclass(frozen=True, slots=True)
class BestFigure:
    """The best figure that a run's students had on the validation split.

    Args:
        method: Whose it is.
        name: Name of the figure.
        value: Its value.
        round: In which round it was measured.
        patches: On how many patches; None: an older version did not write it down.
        interval: Its 95 % interval; None: there is none.
    """

    method: str
    name: str
    value: float
    round: int
    patches: int | None = None
    interval: tuple[float, float] | None = None

    def text(self) -> str:
        """Returns it as a person reads it."""
        said = f"{self.method} {self.name} {self.value:.3f}"
        if self.interval is not None:
            said += f" (95 % {self.interval[0]:.3f} to {self.interval[1]:.3f})"
        if self.patches is not None:
            said += f" n={self.patches}"
        return f"{said} in round {self.round}"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One run.

    Args:
        name: As the coordinator's config names it; empty: its version told no name.
        folder: Folder of the run.
        rounds: Rounds that this site reported on.
        is_over: Whether the coordinator closed it.
        students: Methods that have a student.
        best: Its best figure so far, if there is one.
    """

    name: str
    folder: Path
    rounds: int
    is_over: bool
    students: tuple[str, ...]
    best: BestFigure | None

    def as_json(self) -> dict[str, Any]:
        """Returns it for JSON."""
        best = self.best and {
            "method": self.best.method,
            "figure": self.best.name,
            "value": self.best.value,
            "round": self.best.round,
            "patches": self.best.patches,
            "interval": self.best.interval,
        }
        return {
            "name": self.name or None,
            "folder": str(self.folder),
            "rounds": self.rounds,
            "finished": self.is_over,
            "students": list(self.students),
            "best": best,
        }

    def lines(self) -> Iterator[str]:
        """Yields it as a person reads it."""
        state = "finished" if self.is_over else "not finished"
        yield f"{self.name or self.folder.name}: {self.rounds} rounds, {state}"
        yield f"  folder    {self.folder}"
        yield f"  students  {', '.join(self.students) or 'none yet'}"
        yield f"  best      {self.best.text() if self.best else 'no figure yet'}"


def list_runs(config: SiteConfig) -> list[RunFolder]:
    """Returns a site's runs, the newest last."""
    return [_read(path) for path in _folders(config)]


def find_run(config: SiteConfig, run: str | None) -> Path:
    """Returns the folder of a run.

    Args:
        config: Settings of this site.
        run: The coordinator's name of it, or the folder's; None for the newest.

    Raises:
        ConfigError: There is none, or the name fits several; the message has those
            that there are.
    """
    folders = _folders(config)
    if not folders:
        raise ConfigError(
            f"there is no run in {config.state_dir} yet: take part in one first"
        )
    if run is None:
        return folders[-1]
    exact = [path for path in folders if path.name == run]
    found = exact or [path for path in folders if run_name(path.name) == run]
    if not found:
        known = [run_name(path.name) or path.name for path in folders]
        raise ConfigError(f"there is no run {run!r}{known_names(run, known)}")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ConfigError(f"{run} is the name of {len(found)} runs, name one: {names}")
    return found[0]


def run_name(folder: str) -> str:
    """Returns the coordinator's name in the name of a folder; empty: it has none."""
    return _SECRET.sub("", folder) if _SECRET.search(folder) else ""


def students_of(folder: Path) -> list[str]:
    """Returns the methods that have a student in a run's folder, MoMA's first."""
    found = {path.parent.name for path in folder.glob(f"*/{CARD}")}
    known = [name for name in METHODS if name in found]
    return known + sorted(found.difference(known))


def find_student(folder: Path, method: str) -> Path:
    """Returns the folder of a student.

    Raises:
        ConfigError: The run has no student of this method; the message has those
            that it has.
    """
    students = students_of(folder)
    if method not in students:
        hint = known_names(method, students) if students else " yet"
        raise ConfigError(f"run {folder.name} has no student {method!r}{hint}")
    return folder / method


def _folders(config: SiteConfig) -> list[Path]:
    runs = config.state_dir / "runs"
    return sorted(runs.glob("*/"), key=lambda path: (path.stat().st_mtime, path.name))


def _read(folder: Path) -> RunFolder:
    rounds = list(_rounds(folder))
    students = tuple(students_of(folder))
    return RunFolder(
        name=run_name(folder.name),
        folder=folder,
        rounds=len({line["round"] for line in rounds}),
        is_over=any(line["kind"] == "close" for line in rounds),
        students=students,
        best=_best(rounds, students),
    )


def _rounds(folder: Path) -> Iterator[dict[str, Any]]:
    """Yields the lines of a run's record; one that is torn is passed over."""
    for values in read_json_objects(folder / "figures.jsonl"):
        if {"round", "kind", "figures"} <= values.keys():
            yield values


def _best(
    rounds: Sequence[dict[str, Any]], students: Sequence[str]
) -> BestFigure | None:
    for name in _BEST:
        found = [
            BestFigure(
                method, name, value, line["round"], *_details(line, method, name)
            )
            for line in rounds
            for method in students
            if isinstance(value := line["figures"].get(_key(method, name)), float)
        ]
        if found:
            return max(found, key=lambda best: best.value)
    return None


def _key(method: str, name: str) -> str:
    return name if method == "moma" else f"{method}_{name}"


def _details(
    line: dict[str, Any], method: str, name: str
) -> tuple[int | None, tuple[float, float] | None]:
    """Returns n and interval, where the record has them."""
    split, _, figure = name.partition("_")
    try:
        found = line["details"][method][split]["figures"][figure]
        low, high = found["low"], found["high"]
        return found["patches"], None if low is None else (low, high)
    except (KeyError, TypeError):
        return None, None
