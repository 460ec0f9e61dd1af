"""`moma-client`: one hospital site's side of a federation."""

import argparse
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from moma_client.cli.audit import add_audit
from moma_client.cli.egress import add_egress
from moma_client.cli.examples import EXAMPLES
from moma_client.cli.options import add_command, shared_options
from moma_client.cli.students import add_students
from moma_client.config.site import SiteConfig, SiteIdentity
from moma_core.config import faults
from moma_core.errors import ConfigError
from moma_core.runtime.cli import (
    Subparsers,
    add_examples,
    add_option,
    add_path,
    add_switch,
    parsed,
    run_command,
)
from moma_core.runtime.prompt import is_terminal

if TYPE_CHECKING:
    from moma_client.cli.init import SiteSetup


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status, see `run_command`."""
    parser = _parser()
    arguments = parsed(parser, argv)
    if arguments.command is _take_part and arguments.site is None:
        parser.error("name a config with --site, or a command")
    if arguments.command is _init and arguments.name is None and not is_terminal():
        parser.error("name the site with --name, such as --name site-a")
    return run_command(arguments, stopped="; the same command resumes")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="moma-client", description="one hospital site's side of a federation"
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="log each step and each traceback"
    )
    text = "take part in the federation with this site's config file"
    add_path(parser, "--site", text, metavar="CONFIG.YAML")
    add_switch(parser, "--check", "only check the config file, then exit")
    parser.set_defaults(command=_take_part)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    site, as_json = shared_options()
    _add_init(commands)
    _add_enrol(commands)
    _add_key(commands, site)
    add_students(commands, site, as_json)
    _add_plan(commands, site, as_json)
    _add_doctor(commands, site, as_json)
    add_egress(commands, site, as_json)
    add_audit(commands, site, as_json)
    add_examples(parser, EXAMPLES)
    return parser


def _add_init(commands: Subparsers) -> None:
    text = "make a new site's folder with its keys and config file"
    init = add_command(commands, "init", _init, text)
    init.add_argument("folder", type=Path, help="folder to make")
    text = "name of the site; on a terminal, what is not given is typed without it"
    add_option(init, "--name", text)
    add_option(init, "--federation", "name of the federation; moma by default")
    text = "address of the coordinator's rounds, whose port is 8443 unless it says"
    add_option(init, "--coordinator", text, metavar="HOST:PORT")
    add_option(init, "--teacher", "name of the teacher", metavar="NAME")
    text = "address of the teacher, whose port is 8444 unless it says"
    add_option(init, "--teacher-address", text, metavar="HOST:PORT")
    text = (
        "address of the coordinator's enrolment, whose port is 8445 unless it "
        "says; by default the host of --coordinator"
    )
    add_option(init, "--enrolment", text, metavar="HOST:PORT")
    text = "port of the metrics page on this machine, 0 for none; by default 9465"
    add_option(init, "--metrics-port", text, type=int, metavar="PORT")
    text = "file with the passphrase that encrypts the keys; by default they are not"
    add_path(init, "--passphrase-file", text)
    text = "the teacher's fingerprint, as its owner gives it"
    add_option(init, "--teacher-key", text, metavar="FINGERPRINT")


def _add_enrol(commands: Subparsers) -> None:
    text = "get this site's certificate with an enrolment token"
    enrol = add_command(commands, "enrol", _enrol, text)
    enrol.add_argument(
        "folder", type=Path, nargs="?", help="the site's folder, as init made it"
    )
    text = "this site's config file, instead of its folder"
    add_path(enrol, "--site", text, metavar="CONFIG.YAML")
    text = "enrolment token that the coordinator issued; - reads it from stdin"
    add_option(enrol, "--token", text, required=True)
    text = "address of the coordinator's enrolment; by default the config's"
    add_option(enrol, "--coordinator", text, metavar="HOST:PORT")


def _add_key(commands: Subparsers, *options: argparse.ArgumentParser) -> None:
    text = "print the fingerprint of this site's key, for the teacher's owner to pin"
    add_command(commands, "key", _key, text, *options)


def _add_plan(commands: Subparsers, *options: argparse.ArgumentParser) -> None:
    text = (
        "print how many patches a run would send to the teacher; none is sent, "
        "but for --probe"
    )
    plan = add_command(commands, "plan", _plan, text, *options)
    add_option(plan, "--epochs", "epochs of the run, all rounds together", type=_count)
    text = "the teacher's rate, instead of the one measured last"
    add_option(plan, "--patches-per-second", text, type=_rate)
    text = (
        "ask the teacher about N labelled patches, charged to the budget, and "
        "tell whether it is worth a run"
    )
    add_option(plan, "--probe", text, type=_count, metavar="N")


def _add_doctor(commands: Subparsers, *options: argparse.ArgumentParser) -> None:
    text = "check whether this site could take part"
    doctor = add_command(commands, "doctor", _doctor, text, *options)
    text = "query the teacher's reference patch too, one patch of the budget"
    add_switch(doctor, "--ask", text)
    add_switch(doctor, "--all-pictures", "open every picture, not a sample")


def _take_part(arguments: argparse.Namespace) -> Iterator[str]:
    config = SiteConfig.from_yaml(arguments.site)
    if arguments.check:
        yield f"{arguments.site} is valid"
        return
    from moma_client.site.app import run_site

    run_site(config)


def _init(arguments: argparse.Namespace) -> Iterator[str]:
    from moma_client.cli.init import SiteSetup, init_site, prompted_setup, with_ports

    given = {**vars(arguments), "site": arguments.name}
    values = {
        key: given[key] for key in SiteSetup.model_fields if given[key] is not None
    }
    values = with_ports(values)
    if arguments.name is None:
        values = prompted_setup(values)
    try:
        place = SiteSetup.model_validate(values)
    except ValidationError as error:
        raise ConfigError(next(faults(SiteSetup, values, error))) from None
    for path in init_site(arguments.folder, place):
        yield f"wrote {path}"
    yield from _next_steps(arguments.folder, place)


def _next_steps(folder: Path, place: "SiteSetup") -> Iterator[str]:
    """Yields what is still to be done, in words for a shell."""
    config = shlex.quote(str(folder / "config.yaml"))
    yield (
        f"ask the coordinator for a token, then: "
        f"moma-client enrol {shlex.quote(str(folder))} --token ..."
    )
    examples = {
        "coordinator.address": ("coordinator", place.coordinator),
        "teacher.address": ("teacher_address", place.teacher_address),
    }
    for key, (field, address) in examples.items():
        if address == type(place).model_fields[field].default:
            yield f"write {key} into {config}: {address} is an example"
    if not place.teacher_key:
        yield "write the fingerprint that the teacher's owner gives into teacher.key"
    yield (
        f"write task and data into {config}, then: moma-client doctor --site {config}"
    )


def _key(arguments: argparse.Namespace) -> Iterator[str]:
    from moma_client.identity.keys import signing_fingerprint

    yield str(signing_fingerprint(SiteIdentity.from_yaml(arguments.site)))


def _enrol(arguments: argparse.Namespace) -> Iterator[str]:
    from moma_client.identity.enrolment import enrol_site

    if (arguments.folder is None) == (arguments.site is None):
        raise ConfigError("name the site's folder, or its config with --site")
    path = arguments.site or arguments.folder / "config.yaml"
    given = arguments.token
    token = sys.stdin.readline() if given == "-" else given
    yield from enrol_site(SiteIdentity.from_yaml(path), token, arguments.coordinator)


def _plan(arguments: argparse.Namespace) -> Iterator[str]:
    from moma_client.identity.revocations import look_once
    from moma_client.reports.plan_text import printed_plan

    config = SiteConfig.from_yaml(arguments.site)
    look_once(config)
    yield from printed_plan(
        config,
        epochs=arguments.epochs,
        patches_per_second=arguments.patches_per_second,
        probe=arguments.probe,
        as_json=arguments.json,
    )


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
