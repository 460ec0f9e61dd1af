"""`moma-client`: one hospital site's side of a federation."""

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from moma_client.config import SiteConfig
from moma_core.errors import ConfigError, MomaError, RefusedError, StoppedError
from moma_core.trust.signing import SigningKey

_logger = logging.getLogger(__name__)

STOPPED_EXIT = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status.

    0 done, 1 an error that the operator can mend, 2 wrong usage, 3 refused by a
    policy, 130 stopped by the operator: the same command resumes.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.command is _take_part and arguments.site is None:
        parser.error("name a config with --site, or a command")
    _start_logging(verbose=arguments.verbose)
    try:
        for line in arguments.command(arguments):
            print(line)
    except (StoppedError, KeyboardInterrupt) as error:
        _logger.warning("%s; the same command resumes", str(error) or "stopped")
        return STOPPED_EXIT
    except MomaError as error:
        _logger.error("%s", error, exc_info=arguments.verbose)
        return 3 if isinstance(error, RefusedError) else 1
    return 0


def _start_logging(*, verbose: bool) -> None:
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    if not verbose:
        for chatty in ("httpx", "flwr", "lightning_fabric"):
            logging.getLogger(chatty).setLevel(logging.WARNING)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="moma-client", description=__doc__)
    parser.add_argument("-v", "--verbose", action="store_true")
    parser.add_argument("--site", type=Path, metavar="CONFIG.YAML", help="take part")
    parser.add_argument("--check", action="store_true", help="only read the config")
    parser.set_defaults(command=_take_part)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    init = commands.add_parser("init", help="make a site's folder, keys and config")
    init.add_argument("folder", type=Path)
    init.add_argument("--name", required=True, help="of the site")
    init.add_argument("--federation", help="its name")
    init.add_argument("--coordinator", metavar="HOST:PORT")
    init.add_argument("--teacher", metavar="NAME")
    init.add_argument("--teacher-address", metavar="HOST:PORT")
    init.add_argument("--teacher-key", metavar="FINGERPRINT", help="the teacher's")
    init.set_defaults(command=_init)

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
    return parser


def _take_part(arguments: argparse.Namespace) -> Iterator[str]:
    config = SiteConfig.from_yaml(arguments.site)
    if arguments.check:
        yield f"{arguments.site} is valid"
        return
    from moma_client.app import run_site

    run_site(config)


def _init(arguments: argparse.Namespace) -> Iterator[str]:
    from moma_client.init import SitePlace, init_site

    given = {
        "site": arguments.name,
        "federation": arguments.federation,
        "coordinator": arguments.coordinator,
        "teacher": arguments.teacher,
        "teacher_address": arguments.teacher_address,
        "teacher_key": arguments.teacher_key,
    }
    try:
        place = SitePlace.model_validate(
            {key: value for key, value in given.items() if value is not None}
        )
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise ConfigError(f"{where}: {fault['msg']}") from None
    for path in init_site(arguments.folder, place):
        yield f"wrote {path}"
    yield "send site.csr and node.pub to the coordinator; put site.pem and ca.pem here"
    key = SigningKey.load(arguments.folder / "signing.key").public
    yield f"tell the teacher's owner this site's key, by a way of your own: {key}"
    if not place.teacher_key:
        yield "write the key that the teacher's owner tells you into teacher.key"


def _key(arguments: argparse.Namespace) -> Iterator[str]:
    config = SiteConfig.from_yaml(arguments.site)
    yield str(SigningKey.load(config.identity.signing_key).public)


def _evaluate(arguments: argparse.Namespace) -> Iterator[str]:
    from moma_client.evaluating import evaluate_students

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
    from moma_client.plan import plan_queries
    from moma_client.plan_text import plan_lines

    plan = plan_queries(
        SiteConfig.from_yaml(arguments.site),
        epochs=arguments.epochs,
        patches_per_second=arguments.patches_per_second,
    )
    if arguments.json:
        yield json.dumps(plan.as_json())
    else:
        yield from plan_lines(plan)


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
