"""`moma-client runs`, `evaluate`, `report`, `export`, `predict`: what a run left."""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from moma_client.cli.options import add_command
from moma_client.config.site import SiteConfig
from moma_core.errors import ConfigError, DataError
from moma_core.runtime.cli import Subparsers, add_option, add_path, add_switch

_RUN = "name of the run, or of its folder; the newest by default"


def add_students(
    commands: Subparsers,
    site: argparse.ArgumentParser,
    as_json: argparse.ArgumentParser,
) -> None:
    """Adds the commands to the program's."""
    text = "list the runs and their students"
    add_command(commands, "runs", _runs, text, site, as_json)
    _add_evaluate(commands, site, as_json)
    _add_report(commands, site)
    _add_export(commands, site)
    _add_predict(commands)


def _add_evaluate(commands: Subparsers, *options: argparse.ArgumentParser) -> None:
    text = "print the figures of this site's students on its own patches"
    evaluate = add_command(commands, "evaluate", _evaluate, text, *options)
    text = "split to evaluate on; both by default"
    add_option(evaluate, "--split", text, choices=["validation", "unseen"])
    text = "student to evaluate: moma, or a baseline; all by default"
    add_option(evaluate, "--method", text)
    add_option(evaluate, "--run", _RUN)


def _add_report(commands: Subparsers, *options: argparse.ArgumentParser) -> None:
    text = "write a report on a run's students: one HTML page, and PNGs"
    report = add_command(commands, "report", _report, text, *options)
    add_option(report, "--run", _RUN)
    add_path(report, "--out", "empty folder to write", required=True, metavar="DIR")
    text = (
        "show the hardest patches and their names; such a report does not leave "
        "the site"
    )
    add_switch(report, "--with-patches", text)
    report.add_argument(
        "--threshold",
        type=_share,
        default=0.8,
        metavar="SHARE",
        help="what recall and precision of a class must reach with all of their "
        "interval, so that it may be relied on; 0.8 by default",
    )


def _add_export(commands: Subparsers, *options: argparse.ArgumentParser) -> None:
    text = "write a student and its signed card"
    export = add_command(commands, "export", _export, text, *options)
    add_option(export, "--run", _RUN)
    export.add_argument(
        "--method",
        default="moma",
        help="student to export: moma, the default, or a baseline",
    )
    add_path(export, "--out", "empty folder to write", required=True, metavar="DIR")
    export.add_argument(
        "--format",
        choices=["safetensors", "onnx"],
        default="safetensors",
        help="onnx writes student.onnx beside the safetensors file",
    )


def _add_predict(commands: Subparsers) -> None:
    predict = commands.add_parser(
        "predict",
        help="write an exported student's class probabilities of slides or patches",
        epilog="example: moma-client predict --student exported/ case-1.svs slides/ "
        "--out predicted/ writes predicted/case-1/heatmap.png and more for each slide",
    )
    text = "folder that export wrote"
    add_path(predict, "--student", text, required=True, metavar="DIR")
    predict.add_argument(
        "paths",
        nargs="*",
        type=Path,
        metavar="PATH",
        help="whole slides, folders, manifests (.csv) or pictures; a picture is one "
        "patch",
    )
    text = "in place of PATH: patches alone, and --out is the CSV file"
    add_path(predict, "--data", text, metavar="PATH")
    text = "folder to write; a run that was interrupted goes on in it"
    add_path(predict, "--out", text, required=True, metavar="DIR")
    _add_slide_options(predict)
    add_switch(predict, "--force", "replace what is there")
    text = "fingerprint of the site that must have signed the student"
    add_option(predict, "--key", text, metavar="FINGERPRINT")
    predict.set_defaults(command=_predict)


def _add_slide_options(predict: argparse.ArgumentParser) -> None:
    slides = predict.add_argument_group("whole slides")
    text = (
        "microns a pixel at which patches are cut, as those of the training were; "
        "by default as the student's card says"
    )
    add_option(slides, "--mpp", text, type=_number(0.02, 50))
    text = "microns a pixel of slides that state none"
    add_option(slides, "--slide-mpp", text, type=_number(0.02, 50))
    slides.add_argument(
        "--min-tissue",
        type=_number(0, 1),
        default=0.25,
        help="share of a patch that must be tissue; 0.25 by default",
    )
    text = "share of a patch's side that neighbours have in common; 0 by default"
    add_option(slides, "--overlap", text, type=_number(0, 0.9), default=0.0)
    text = "class of the heat map; each of them by default"
    add_option(slides, "--class", text, dest="heat_class", metavar="CLASS")
    add_switch(slides, "--embeddings", "write them to the HDF5 file as well")


def _number(low: float, high: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not in [{low:g}, {high:g}]")
        return value

    return number


def _runs(arguments: argparse.Namespace) -> Iterator[str]:
    from moma_client.student.runs import list_runs

    config = SiteConfig.from_yaml(arguments.site)
    found = list_runs(config)
    if arguments.json:
        yield json.dumps([run.as_json() for run in found])
        return
    if not found:
        yield f"there is no run in {config.state_dir} yet"
    for run in found:
        yield from run.lines()


def _evaluate(arguments: argparse.Namespace) -> Iterator[str]:
    from moma_client.student.evaluate import evaluate_students

    found = evaluate_students(
        SiteConfig.from_yaml(arguments.site),
        run=arguments.run,
        method=arguments.method,
        split=arguments.split,
    )
    if arguments.json:
        yield json.dumps(
            {
                method: {**each.values(), "details": each.details()}
                for method, each in found.items()
            }
        )
        return
    for method, each in found.items():
        yield from each.lines(method)


def _report(arguments: argparse.Namespace) -> Iterator[str]:
    from moma_client.reports.student_report.facts import ReportOptions
    from moma_client.reports.student_report.write import write_student_report
    from moma_core.runtime.clock import utc_now

    options = ReportOptions(arguments.run, arguments.with_patches, arguments.threshold)
    config = SiteConfig.from_yaml(arguments.site)
    for path in write_student_report(config, arguments.out, options, now=utc_now()):
        yield f"wrote {path}"


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is no share between 0 and 1")
    return value


def _export(arguments: argparse.Namespace) -> Iterator[str]:
    from moma_client.student.export import export_student

    config = SiteConfig.from_yaml(arguments.site)
    for path in export_student(
        config,
        arguments.out,
        run=arguments.run,
        method=arguments.method,
        form=arguments.format,
    ):
        yield f"wrote {path}"


def _predict(arguments: argparse.Namespace) -> Iterator[str]:
    from moma_client.student.predict import predict, predict_into
    from moma_client.student.slides.predict import SlideOptions
    from moma_core.end_to_end.signatures import VerifyingKey

    if bool(arguments.paths) == (arguments.data is not None):
        raise ConfigError("name slides, folders, manifests or pictures; or --data")
    key = VerifyingKey.parse(arguments.key) if arguments.key else None
    if arguments.paths:
        options = SlideOptions(
            mpp=arguments.mpp,
            slide_mpp=arguments.slide_mpp,
            min_tissue=arguments.min_tissue,
            overlap=arguments.overlap,
            heat_class=arguments.heat_class,
            embeddings=arguments.embeddings,
            overwrites=arguments.force,
        )
        yield from predict_into(
            arguments.student, arguments.paths, arguments.out, key, options
        )
        return
    found = predict(
        arguments.student,
        arguments.data,
        arguments.out,
        key,
        overwrites=arguments.force,
    )
    yield f"wrote {arguments.out}: {found.written} patches"
    if found.failed:
        pictures = found.written + found.failed
        raise DataError(
            f"{found.failed} of {pictures} pictures have no prediction: the column "
            f"error of {arguments.out} says why"
        )
