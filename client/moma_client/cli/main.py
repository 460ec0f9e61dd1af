"""`moma-client`: one hospital site's side of a federation."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from moma_client.cli.audit import add_audit
from moma_client.cli.egress import add_command
from moma_client.config.site import SiteConfig, SiteIdentity
from moma_core.config import faults
from moma_core.errors import ConfigError
from moma_core.runtime.cli import run_command

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status, see `run_command`."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.command is _take_part and arguments.site is None:
        parser.error("name a config with --site, or a command")
    return run_command(arguments, stopped="; the same command resumes")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="moma-client", description=__doc__)
    parser.add_argument("-v", "--verbose", action="store_true")
    parser.add_argument("--site", type=Path, metavar="CONFIG.YAML", help="take part")
    parser.add_argument("--check", action="store_true", help="only read the config")
    parser.set_defaults(command=_take_part)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    _add_init(commands)
    _add_enrol(commands)
    _add_looks(commands)
    _add_doctor(commands)
    _add_export(commands)
    add_command(commands)
    add_audit(commands)
    return parser


def _add_init(commands: "Subparsers") -> None:
    init = commands.add_parser("init", help="make a site's folder, keys and config")
    init.add_argument("folder", type=Path)
    init.add_argument("--name", required=True, help="of the site")
    init.add_argument("--federation", help="its name")
    init.add_argument("--coordinator", metavar="HOST:PORT")
    init.add_argument("--teacher", metavar="NAME")
    init.add_argument("--teacher-address", metavar="HOST:PORT")
    init.add_argument("--enrolment", metavar="HOST:PORT", help="of the coordinator")
    init.add_argument("--passphrase-file", type=Path, help="encrypts the keys")
    init.add_argument("--teacher-key", metavar="FINGERPRINT", help="the teacher's")
    init.set_defaults(command=_init)


def _add_looks(commands: "Subparsers") -> None:
    key = commands.add_parser(
        "key", help="print the fingerprint that a teacher approves"
    )
    key.add_argument("--site", type=Path, required=True, metavar="CONFIG.YAML")
    key.set_defaults(command=_key)

    evaluate = commands.add_parser("evaluate", help="a student's figures on a split")
    evaluate.add_argument("--site", type=Path, required=True, metavar="CONFIG.YAML")
    evaluate.add_argument("--split", choices=["validation", "unseen"])
    evaluate.add_argument("--method", help="moma, or a baseline; all by default")
    evaluate.add_argument("--run", help="by default the newest")
    evaluate.add_argument("--json", action="store_true")
    evaluate.set_defaults(command=_evaluate)

    plan = commands.add_parser("plan", help="what a run would ask; nothing is sent")
    plan.add_argument("--site", type=Path, required=True, metavar="CONFIG.YAML")
    plan.add_argument("--epochs", type=_count, help="of the run, all rounds together")
    plan.add_argument("--patches-per-second", type=_rate, help="instead of a measure")
    plan.add_argument("--json", action="store_true")
    plan.set_defaults(command=_plan)


def _add_enrol(commands: "Subparsers") -> None:
    enrol = commands.add_parser("enrol", help="take a place, with a token")
    enrol.add_argument("folder", type=Path, nargs="?", help="as `init` made it")
    enrol.add_argument("--site", type=Path, metavar="CONFIG.YAML", help="instead")
    enrol.add_argument("--token", required=True, help="the word; - reads it from stdin")
    enrol.add_argument("--coordinator", metavar="HOST:PORT", help="of its enrolment")
    enrol.set_defaults(command=_enrol)


def _add_doctor(commands: "Subparsers") -> None:
    doctor = commands.add_parser("doctor", help="whether this site could take part")
    doctor.add_argument("--site", type=Path, required=True, metavar="CONFIG.YAML")
    doctor.add_argument(
        "--ask", action="store_true", help="the reference patch, one of the budget"
    )
    doctor.add_argument(
        "--all-pictures", action="store_true", help="open each, not a sample"
    )
    doctor.add_argument("--json", action="store_true")
    doctor.set_defaults(command=_doctor)


def _add_export(commands: "Subparsers") -> None:
    export = commands.add_parser("export", help="a student and its signed card")
    export.add_argument("--site", type=Path, required=True, metavar="CONFIG.YAML")
    export.add_argument("--run", help="by default the newest")
    export.add_argument("--method", default="moma", help="or a baseline")
    export.add_argument("--out", type=Path, required=True, metavar="DIR")
    export.add_argument(
        "--format", choices=["safetensors", "onnx"], default="safetensors"
    )
    export.set_defaults(command=_export)

    predict = commands.add_parser("predict", help="what an exported student says")
    predict.add_argument("--student", type=Path, required=True, metavar="DIR")
    predict.add_argument("--data", type=Path, required=True, help="of pictures")
    predict.add_argument("--out", type=Path, required=True, metavar="FILE.CSV")
    predict.add_argument(
        "--key", metavar="FINGERPRINT", help="of the site that must have signed it"
    )
    predict.set_defaults(command=_predict)


def _take_part(arguments: argparse.Namespace) -> Iterator[str]:
    config = SiteConfig.from_yaml(arguments.site)
    if arguments.check:
        yield f"{arguments.site} is valid"
        return
    from moma_client.site.app import run_site

    run_site(config)


def _init(arguments: argparse.Namespace) -> Iterator[str]:
    from moma_client.cli.init import SiteSetup, init_site

    given = {
        "site": arguments.name,
        "federation": arguments.federation,
        "coordinator": arguments.coordinator,
        "teacher": arguments.teacher,
        "teacher_address": arguments.teacher_address,
        "enrolment": arguments.enrolment,
        "passphrase_file": arguments.passphrase_file,
        "teacher_key": arguments.teacher_key,
    }
    values = {key: value for key, value in given.items() if value is not None}
    try:
        place = SiteSetup.model_validate(values)
    except ValidationError as error:
        raise ConfigError(next(faults(SiteSetup, values, error))) from None
    for path in init_site(arguments.folder, place):
        yield f"wrote {path}"
    yield (
        f"ask the coordinator for a token, then: "
        f"moma-client enrol {arguments.folder} --token ..."
    )
    if not place.teacher_key:
        yield "write the key that the teacher's owner tells you into teacher.key"


def _key(arguments: argparse.Namespace) -> Iterator[str]:
    from moma_client.identity.keys import signing_fingerprint

    yield str(signing_fingerprint(SiteIdentity.from_yaml(arguments.site)))


def _enrol(arguments: argparse.Namespace) -> Iterator[str]:
    from moma_client.identity.enrolment import enrol_site

    if (arguments.folder is None) == (arguments.site is None):
        raise ConfigError("name the site's folder, or its config with --site")
    path = arguments.site or arguments.folder / "config.yaml"
    word = arguments.token
    token = sys.stdin.readline() if word == "-" else word
    yield from enrol_site(SiteIdentity.from_yaml(path), token, arguments.coordinator)


def _evaluate(arguments: argparse.Namespace) -> Iterator[str]:
    from moma_client.student.evaluate import evaluate_students

    found = evaluate_students(
        SiteConfig.from_yaml(arguments.site),
        run=arguments.run,
        method=arguments.method,
        split=arguments.split,
    )
    if arguments.json:
        yield json.dumps(found)
        return
    for method, figures in found.items():
        for name, value in figures.items():
            yield f"{method}  {name}  {value:.3f}"


def _plan(arguments: argparse.Namespace) -> Iterator[str]:
    from moma_client.identity.revocations import look_once
    from moma_client.reports.plan import plan_queries
    from moma_client.reports.plan_text import plan_lines

    config = SiteConfig.from_yaml(arguments.site)
    look_once(config)
    plan = plan_queries(
        config,
        epochs=arguments.epochs,
        patches_per_second=arguments.patches_per_second,
    )
    if arguments.json:
        yield json.dumps(plan.as_json())
    else:
        yield from plan_lines(plan)


def _doctor(arguments: argparse.Namespace) -> Iterator[str]:
    from datetime import UTC, datetime

    from moma_client.reports.doctor.run import examine, exit_error

    findings = []
    for finding in examine(
        arguments.site,
        ask=arguments.ask,
        now=datetime.now(UTC),
        all_pictures=arguments.all_pictures,
    ):
        findings.append(finding)
        if not arguments.json:
            yield from finding.lines()
    if arguments.json:
        yield json.dumps({"findings": [finding.as_json() for finding in findings]})
    error = exit_error(findings)
    if error is not None:
        raise error


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
    from moma_client.student.predict import predict
    from moma_core.end_to_end.signatures import VerifyingKey

    key = VerifyingKey.parse(arguments.key) if arguments.key else None
    count = predict(arguments.student, arguments.data, arguments.out, key)
    yield f"wrote {arguments.out}: {count} patches"


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def _rate(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no rate")
    return value


if __name__ == "__main__":
    sys.exit(main())
