"""`moma-server`: serve, or prepare and look after what is served."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from moma_core.runtime.cli import run_command
from moma_server.cli import commands
from moma_server.cli import enrolment as enrolment_commands
from moma_server.cli.audit import add_audit
from moma_server.rpc.tls import forbid_tls12

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status, see `run_command`."""
    forbid_tls12()  # before any command imports grpc
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.command is commands.serve and arguments.config is None:
        parser.error("name a config with --config, or a command")
    return run_command(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="moma-server", description=__doc__)
    parser.add_argument("-v", "--verbose", action="store_true")
    parser.add_argument("--config", type=Path, metavar="SERVER.YAML", help="serve")
    parser.add_argument("--check", action="store_true", help="only read the config")
    parser.set_defaults(command=commands.serve)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_init(subparsers)
    _add_members(subparsers)
    enrolment_commands.add_parsers(subparsers)
    _add_site(subparsers)
    _add_looks(subparsers)
    _add_teacher(subparsers)
    _add_demo(subparsers)
    add_audit(subparsers)
    return parser


def _add_init(subparsers: "Subparsers") -> None:
    init = subparsers.add_parser("init", help="make a server's folder and keys")
    init.add_argument("folder", type=Path)
    init.add_argument("--roles", default="coordinator,teacher", help="by comma")
    init.add_argument("--federation", default="moma", help="its name")
    init.add_argument("--name", default="teacher-a", help="of the teacher")
    init.add_argument(
        "--host", action="append", help="where sites reach it; repeatable"
    )
    init.add_argument(
        "--enrolment", metavar="HOST:PORT", help="of a coordinator elsewhere"
    )
    init.add_argument("--rounds", help="of the first run; by default 10")
    init.add_argument("--quorum", help="sites that a round needs; by default 2")
    init.add_argument("--passphrase-file", type=Path, help="encrypts the keys")
    init.set_defaults(command=commands.init)


def _add_members(subparsers: "Subparsers") -> None:
    admit = subparsers.add_parser("admit", help="sign the request of a new member")
    admit.add_argument("--config", type=Path, required=True)
    who = admit.add_mutually_exclusive_group(required=True)
    who.add_argument("--site", metavar="NAME")
    who.add_argument("--teacher", metavar="NAME")
    who.add_argument("--coordinator", action="store_true", help="renew its own")
    admit.add_argument("--csr", type=Path, required=True)
    admit.add_argument("--node-key", type=Path, help="a site's node.pub")
    admit.add_argument("--host", action="append", help="of a teacher; repeatable")
    admit.add_argument("--out", type=Path, required=True, help="the certificate")
    admit.set_defaults(command=commands.admit)

    revoke = subparsers.add_parser("revoke", help="shut a member out")
    revoke.add_argument("--config", type=Path, required=True)
    revoke.add_argument("name")
    revoke.add_argument(
        "--kind", choices=["site", "teacher", "coordinator"], default="site"
    )
    revoke.set_defaults(command=commands.revoke)


def _add_site(subparsers: "Subparsers") -> None:
    site = subparsers.add_parser("site", help="whose signature a teacher serves")
    actions = site.add_subparsers(title="actions", metavar="ACTION", required=True)
    approve = actions.add_parser("approve", help="serve a site for its own key")
    approve.add_argument("name", metavar="SITE")
    approve.add_argument("--key", required=True, metavar="FINGERPRINT")
    approve.set_defaults(command=commands.site_approve)
    forget = actions.add_parser("forget", help="serve a site no longer")
    forget.add_argument("name", metavar="SITE")
    forget.set_defaults(command=commands.site_forget)
    shown = actions.add_parser("list", help="show whom the teacher serves")
    shown.add_argument("--json", action="store_true")
    shown.set_defaults(command=commands.site_list)
    for action in (approve, forget, shown):
        action.add_argument("--config", type=Path, required=True)


def _add_looks(subparsers: "Subparsers") -> None:
    looks = (
        ("sites", commands.sites, "list the members"),
        ("status", commands.status, "show the run and the budgets"),
    )
    for name, command, text in looks:
        look = subparsers.add_parser(name, help=text)
        look.add_argument("--config", type=Path, required=True)
        look.add_argument("--json", action="store_true")
        look.set_defaults(command=command)


def _add_teacher(subparsers: "Subparsers") -> None:
    teacher = subparsers.add_parser("teacher", help="make a teacher")
    actions = teacher.add_subparsers(title="actions", metavar="ACTION", required=True)
    train = actions.add_parser("train", help="from a labelled set; resumes")
    train.add_argument("--recipe", type=Path, required=True, metavar="RECIPE.YAML")
    train.add_argument("--out", type=Path, required=True, metavar="DIR")
    train.add_argument("--json", action="store_true")
    train.set_defaults(command=commands.teacher_train)
    key = actions.add_parser("key", help="print the fingerprint that sites pin")
    key.add_argument("--config", type=Path, required=True)
    key.set_defaults(command=commands.teacher_key)

    card = actions.add_parser("card", help="show a card, or make one for weights")
    of = card.add_mutually_exclusive_group(required=True)
    of.add_argument("--config", type=Path, metavar="SERVER.YAML", help="show its card")
    of.add_argument("--recipe", type=Path, metavar="RECIPE.YAML", help="make one")
    card.add_argument(
        "--weights", type=Path, help="safetensors; else those that the recipe names"
    )
    card.add_argument("--out", type=Path, default=Path("teacher"), metavar="DIR")
    card.add_argument("--json", action="store_true")
    card.set_defaults(command=commands.teacher_card)

    export = actions.add_parser("export", help="for a partner with a licence")
    export.add_argument("--config", type=Path, required=True, metavar="SERVER.YAML")
    export.add_argument("--out", type=Path, required=True, metavar="DIR")
    export.add_argument("--without-classifier", action="store_true")
    export.set_defaults(command=commands.teacher_export)


def _add_demo(subparsers: "Subparsers") -> None:
    demo = subparsers.add_parser("demo", help="a whole federation on this machine")
    demo.add_argument("--data", type=Path, help="a MedMNIST file, pathmnist.npz")
    demo.add_argument("--out", type=Path, default=Path("demo-out"), metavar="DIR")
    demo.add_argument("--json", action="store_true", help="and JSON as last line")
    demo.set_defaults(command=commands.demo)


if __name__ == "__main__":
    sys.exit(main())
