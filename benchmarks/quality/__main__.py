"""`python -m benchmarks.quality`: --search, --tuning, --freeze, --final, --summary.

For anybody's own patches, at any size and on a GPU: `python -m benchmarks.study`.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.quality import trials
from benchmarks.quality.frozen import freeze, read_frozen
from benchmarks.quality.plots import draw
from benchmarks.quality.results import Results
from benchmarks.quality.runner import Pace, run
from benchmarks.quality.students import fingerprint
from benchmarks.quality.summary import summary
from benchmarks.quality.tables import as_markdown, overview
from benchmarks.quality.trials import FinalTable, Trial
from moma_core.errors import MomaError

_HERE = Path(__file__).resolve().parents[1]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.quality", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--quick", action="store_true", help="one seed, few steps")
    what.add_argument("--search", action="store_true", help="what may be the default")
    what.add_argument(
        "--search-attention",
        action="store_true",
        help="what may be added to the default, ten seeds; into a file of its own",
    )
    what.add_argument(
        "--search-training",
        action="store_true",
        help="what training ships switched off; into a file of its own",
    )
    what.add_argument("--tuning", action="store_true", help="each method's weight")
    what.add_argument("--freeze", action="store_true", help="write what tuning found")
    what.add_argument("--final", action="store_true", help="the table; reads unseen")
    what.add_argument(
        "--headline", action="store_true", help="the default and its rivals, ten seeds"
    )
    what.add_argument(
        "--summary",
        nargs="?",
        const="final",
        metavar="STAGE",
        help="print a stage's table, and draw the final one",
    )
    parser.add_argument(
        "--rows",
        nargs="+",
        choices=trials.ROWS,
        metavar="ROW",
        help="only these of a stage, such as moma beside-gated",
    )
    parser.add_argument("--json", action="store_true", help="with --summary")
    parser.add_argument("--data", type=Path, metavar="PATHMNIST.NPZ")
    parser.add_argument("--results", type=Path, default=_HERE / "results/quality.csv")
    parser.add_argument("--work", type=Path, default=_HERE / "work")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=300, help="then stop")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit code."""
    options = _parser().parse_args(argv)
    results = Results(options.results)
    frozen = options.results.with_name("frozen.json")
    try:
        if options.summary:
            _show(results, options)
        elif options.freeze:
            print(freeze(results.lines(), frozen))
        elif options.data is None:
            print("--data is needed: a PathMNIST archive", file=sys.stderr)
            return 2
        else:
            pace = Pace(options.data, options.work, options.workers, options.minutes)
            planned = _planned(options, frozen)
            run((each for each in planned if _is_wanted(each, options)), results, pace)
    except MomaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _show(results: Results, options: argparse.Namespace) -> None:
    lines, stage = results.lines(), options.summary
    if stage in ("final", "headline"):
        table = _table(options, options.results.with_name("frozen.json"))
        wanted = table.trials() if stage == "final" else table.headline()
        planned = {(trial.key, fingerprint(trial)) for trial in wanted}
        lines = [line for line in lines if (line["key"], line["settings"]) in planned]
        print(f"{len(lines)} of {len(planned)} trials are there", file=sys.stderr)
    entries = summary(lines, "final" if stage == "headline" else stage)
    tables = as_markdown(entries)
    if options.summary == "final":
        tables = f"{overview(entries)}\n\n{tables}"
    print(json.dumps(entries, indent=1) if options.json else tables)
    if options.summary == "final":
        for path in draw(entries, options.results.parent):
            print(f"drawn: {path}", file=sys.stderr)


def _is_wanted(trial: Trial, options: argparse.Namespace) -> bool:
    return options.rows is None or trial.row in options.rows


def _planned(options: argparse.Namespace, frozen: Path) -> Iterable[Trial]:
    if options.quick:
        return trials.quick()
    if options.search:
        return trials.search()
    if options.search_attention:
        return trials.attention_search()
    if options.search_training:
        return trials.training_search()
    if options.tuning:
        return trials.tuning()
    table = _table(options, frozen)
    return table.headline() if options.headline else table.trials()


def _table(options: argparse.Namespace, frozen: Path) -> FinalTable:
    settings = read_frozen(frozen)
    return FinalTable(options.seeds, settings.scales, settings.rates)


if __name__ == "__main__":
    sys.exit(main())
