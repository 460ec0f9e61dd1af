"""`python -m benchmarks.study PRESET.yaml`: --noise, --tuning, --freeze, --final."""

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from benchmarks.csv_file import CsvFile
from benchmarks.study import trials
from benchmarks.study.bench import FIGURES, Bench
from benchmarks.study.preset import Study, read_study, with_manifest
from benchmarks.study.summary import best_of, tables
from benchmarks.study.trials import StudyTrial, Tuned, study_fingerprint
from moma_core.errors import ConfigError, MomaError

_HERE = Path(__file__).resolve().parents[1]
_STAGES = ("noise", "tuning", "final")
_FOUND = (*FIGURES, "predicted", "truth", "groups")
COLUMNS = (
    "key",
    "settings",
    *(field.name for field in fields(StudyTrial)),
    "answers",
    "seconds",
    *(f"{split}_{name}" for split in ("validation", "unseen") for name in _FOUND),
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.study", description=__doc__)
    parser.add_argument("preset", type=Path, help="such as benchmarks/paper/panda.yaml")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--noise", action="store_true", help="one trial, again and again")
    what.add_argument("--tuning", action="store_true", help="each row's weight or rate")
    what.add_argument("--freeze", action="store_true", help="write what tuning found")
    what.add_argument("--final", action="store_true", help="the table; reads unseen")
    what.add_argument("--all", action="store_true", help="all four, one after another")
    what.add_argument("--summary", action="store_true", help="print the tables")
    parser.add_argument("--manifest", type=Path, help="other patches, a CSV file")
    parser.add_argument("--root", type=Path, help="of the manifest's paths")
    parser.add_argument("--size", type=int, help="side of the views, in pixels")
    parser.add_argument("--steps", type=int, help="of each student")
    parser.add_argument("--seeds", type=int, help="of the final table")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--workers", type=int, default=0, help="that load patches")
    parser.add_argument("--results", type=Path, default=_HERE / "results")
    parser.add_argument("--work", type=Path, default=_HERE / "work")
    parser.add_argument("--minutes", type=float, default=600, help="then stop")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a study; returns the exit code."""
    options = _parser().parse_args(argv)
    try:
        study = _study(options)
        results = CsvFile(
            options.results / f"study-{study.name}.csv", COLUMNS, proof="key"
        )
        frozen = options.results / f"study-{study.name}-frozen.json"
        if options.summary:
            print(tables(study, _current(study, results)))
            return 0
        if options.freeze:
            print(_freeze(study, results, frozen))
            return 0
        bench = Bench(study, options.work, options.device, options.workers)
        until = time.monotonic() + 60 * options.minutes
        for stage in _STAGES:
            if stage == "final" and options.all and not frozen.exists():
                _freeze(study, results, frozen)
            if options.all or getattr(options, stage):
                planned = _planned(study, stage, frozen)
                if not run(planned, study, bench, results, until):
                    break
    except MomaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def run(
    planned: Iterable[StudyTrial],
    study: Study,
    bench: Bench,
    results: CsvFile,
    until: float,
) -> bool:
    """Does what is not done yet, and keeps each; returns whether there was time."""
    done = {(line["key"], line["settings"]) for line in results.lines()}
    left = [
        trial
        for trial in dict.fromkeys(planned)
        if (trial.key, study_fingerprint(study, trial)) not in done
    ]
    print(f"{len(left)} trials to do", flush=True)
    for trial in left:
        if time.monotonic() > until:
            print("the time is up; the same command goes on", flush=True)
            return False
        try:
            line = bench.run(trial)
        except MomaError as error:  # it stays to do; the others go on
            print(f"{trial.key} failed: {error}", flush=True)
            continue
        results.add(line)
        score = line.get("validation_macro_f1", "no figure")
        print(f"{trial.key} validation {score} in {line['seconds']} s", flush=True)
    return True


def _study(options: argparse.Namespace) -> Study:
    study = read_study(options.preset)
    if options.manifest is not None:
        study = with_manifest(study, options.manifest, options.root)
    names = {"size": "size_px", "steps": "steps", "seeds": "seeds"}
    changed = {
        key: getattr(options, name)
        for name, key in names.items()
        if getattr(options, name) is not None
    }
    return study.model_copy(update=changed)


def _current(study: Study, results: CsvFile) -> list[dict[str, str]]:
    """Returns the lines that are of these settings."""
    numbers = {"seed": int, "repeat": int, "scale": float, "rate": float}
    kept = []
    for line in results.lines():
        values: dict[str, Any] = {
            field.name: numbers.get(field.name, str)(line[field.name])
            for field in fields(StudyTrial)
        }
        if line["settings"] == study_fingerprint(study, StudyTrial(**values)):
            kept.append(dict(line))
    return kept


def _freeze(study: Study, results: CsvFile, path: Path) -> dict[str, Tuned]:
    lines = _current(study, results)
    there = {line["key"] for line in lines}
    missing = [trial for trial in trials.tuning(study) if trial.key not in there]
    if missing:
        raise ConfigError(
            f"{len(missing)} tuning trials are missing, such as {missing[0].key}: run "
            f"--tuning first"
        )
    found = best_of(study, lines)
    text = {row: at._asdict() for row, at in found.items()}
    path.write_text(json.dumps(text, indent=2) + "\n", "utf-8")
    return found


def _planned(study: Study, stage: str, frozen: Path) -> Iterable[StudyTrial]:
    if stage == "noise":
        return trials.noise(study)
    if stage == "tuning":
        return trials.tuning(study)
    try:
        kept = json.loads(frozen.read_text("utf-8"))
    except OSError:
        raise ConfigError(f"{frozen} is missing: run --freeze, commit it") from None
    return trials.final(study, {row: Tuned(**at) for row, at in kept.items()})


if __name__ == "__main__":
    sys.exit(main())
