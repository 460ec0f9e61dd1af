"""moma-server: serve an institution's roles, or prepare and inspect what is served."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from moma_core.runtime.cli import (
    Command,
    Parser,
    Subparsers,
    add_examples,
    add_option,
    add_path,
    add_switch,
    parsed,
    run_command,
)
from moma_server.cli import audit, commands, membership, teacher_import
from moma_server.cli.examples import EXAMPLES

_PORTS = {
    "--rounds-port": "port of the coordinator's rounds; 8443 if not given",
    "--teacher-port": "port of the teacher; 8444 if not given",
    "--enrolment-port": "port of the coordinator's enrolment; 8445 if not given",
    "--relay-port": "port of the coordinator's relay; no relay if not given",
    "--metrics-port": "port of the metrics page, 0 for none; 9464 if not given, and of "
    "a teacher alone 9466",
}
_CONFIG, _PORT = "SERVER.YAML", "HOST:PORT"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status, see `run_command`."""
    parser = _parser()
    arguments = parsed(parser, argv)
    if arguments.command is commands.serve and arguments.config is None:
        parser.error("name a config with --config, or a command")
    from moma_server.rpc.tls import forbid_tls12

    forbid_tls12()  # before any command imports grpc
    return run_command(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="moma-server", description=__doc__)
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="log details and stack traces"
    )
    add_path(parser, "--config", "serve what this config file names", metavar=_CONFIG)
    add_switch(
        parser, "--check", "check the config and the files that it names, and exit"
    )
    parser.set_defaults(command=commands.serve)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_init(subparsers)
    _add_members(subparsers)
    _add_tokens(subparsers)
    _add_sites(subparsers)
    text = "list the members and the states of their certificates"
    _add_command(subparsers, "sites", membership.members, text, as_json=True)
    text = "show the rounds of the run and the budgets of the sites"
    _add_command(subparsers, "status", commands.status, text, as_json=True)
    text = "write a report on the coordinator's run: one HTML page, and PNGs"
    report = _add_command(subparsers, "report", commands.report, text)
    add_path(report, "--out", "empty folder to write", metavar="DIR", required=True)
    _add_teacher(subparsers)
    _add_demo(subparsers)
    _add_audit(subparsers)
    add_examples(parser, EXAMPLES)
    return parser


def _add_init(subparsers: Subparsers) -> None:
    text = "make a server's folder: config file, keys, and the CA of a coordinator"
    init = _add_command(subparsers, "init", commands.init, text, config=False)
    init.add_argument("folder", type=Path, help="folder to make")
    text = "what the server is, separated by commas; coordinator,teacher if not given"
    add_option(init, "--roles", text)
    add_option(init, "--federation", "name of the federation; moma if not given")
    add_option(init, "--name", "name of the teacher; teacher-a if not given")
    _host(init, "under which sites reach the server")
    add_option(
        init, "--enrolment", "a coordinator elsewhere: its enrolment", metavar=_PORT
    )
    add_option(
        init, "--listen-host", "address on which it listens; 0.0.0.0 if not given"
    )
    for flag, text in _PORTS.items():
        init.add_argument(flag, type=int, metavar="PORT", help=text)
    add_option(init, "--rounds", "number of rounds of the first run; 10 if not given")
    add_option(init, "--quorum", "number of sites that a round needs; 2 if not given")
    add_path(init, "--passphrase-file", "passphrase with which all keys are encrypted")


def _add_members(subparsers: Subparsers) -> None:
    text = "sign the certificate request of a member, where it cannot enrol"
    admit = _add_command(subparsers, "admit", membership.admit, text)
    who = admit.add_mutually_exclusive_group(required=True)
    add_option(who, "--site", "name of the site to admit", metavar="NAME")
    add_option(who, "--teacher", "name of the teacher to admit", metavar="NAME")
    add_switch(who, "--coordinator", "renew the coordinator's own certificate")
    add_path(admit, "--csr", "certificate request of the member, PEM", required=True)
    add_path(admit, "--node-key", "public node key of the site, node.pub")
    _host(admit, "under which the teacher is reached")
    add_path(admit, "--out", "where the certificate is written", required=True)

    text = "revoke all certificates and tokens of a member"
    revoke = _add_command(subparsers, "revoke", membership.revoke, text)
    revoke.add_argument("name", help="name of the member")
    revoke.add_argument(
        "--kind",
        choices=["site", "teacher", "coordinator"],
        default="site",
        help="what the member is (default: site)",
    )


def _add_tokens(subparsers: Subparsers) -> None:
    actions = _add_group(subparsers, "token", "make, list and revoke one-time tokens")
    text = "make a token for a new member and print it, once"
    create = _add_command(actions, "create", membership.token_create, text)
    create.add_argument("name", help="name of the site or teacher that may enrol")
    add_switch(create, "--teacher", "the new member is a teacher")
    create.add_argument(
        "--lifetime",
        type=float,
        default=72.0,
        metavar="HOURS",
        help="how long the token is good (default: 72)",
    )
    _host(create, "under which the teacher is reached")
    text = "list the tokens and their states; no secret is kept"
    _add_command(actions, "list", membership.token_list, text, as_json=True)
    text = "revoke a token that is open"
    revoke = _add_command(actions, "revoke", membership.token_revoke, text)
    revoke.add_argument("identifier", metavar="ID", help="id of the token, see list")

    text = "get the certificate of a teacher whose coordinator is another server"
    enrol = _add_command(subparsers, "enrol", membership.enrol_teacher, text)
    text = "token of the coordinator's operator; - reads it from standard input"
    add_option(enrol, "--token", text, required=True)
    text = "enrolment port of the coordinator (default: authority.enrolment)"
    add_option(enrol, "--coordinator", text, metavar=_PORT)


def _add_sites(subparsers: Subparsers) -> None:
    text = "approve the sites whose signed queries this teacher answers"
    actions = _add_group(subparsers, "site", text)
    text = "answer the queries that a site signs with its own key"
    approve = _add_command(actions, "approve", membership.site_approve, text)
    approve.add_argument("name", metavar="SITE", help="name of the site")
    text = "fingerprint of the site's signing key, ed25519:..."
    add_option(approve, "--key", text, metavar="FINGERPRINT", required=True)
    text = "answer a site's queries no longer"
    forget = _add_command(actions, "forget", membership.site_forget, text)
    forget.add_argument("name", metavar="SITE", help="name of the site")
    text = "list the approved sites"
    _add_command(actions, "list", membership.site_list, text, as_json=True)


def _add_teacher(subparsers: Subparsers) -> None:
    actions = _add_group(subparsers, "teacher", "train, show and export a teacher")
    text = "train a teacher on labelled patches; resumes where it was stopped"
    train = _add_command(
        actions, "train", commands.teacher_train, text, config=False, as_json=True
    )
    text = "how the teacher is made"
    add_path(train, "--recipe", text, metavar="RECIPE.YAML", required=True)
    add_path(train, "--out", "folder of weights and card", metavar="DIR", required=True)
    text = "print the fingerprint of the teacher's signing key, which sites pin"
    _add_command(actions, "key", commands.teacher_key, text)

    text = "show the teacher's card, or make a card for weights that exist"
    card = _add_command(
        actions, "card", commands.teacher_card, text, config=False, as_json=True
    )
    of = card.add_mutually_exclusive_group(required=True)
    add_path(of, "--config", "show the card of this server's teacher", metavar=_CONFIG)
    add_path(of, "--recipe", "make a card by this recipe", metavar="RECIPE.YAML")
    add_path(card, "--weights", "weights as safetensors (default: the recipe's)")
    out = Path("teacher")
    add_path(card, "--out", "folder of weights and card", metavar="DIR", default=out)

    _add_import(actions)
    text = "write weights and card for a partner who has a licence"
    export = _add_command(actions, "export", commands.teacher_export, text)
    add_path(
        export, "--out", "folder of weights and card", metavar="DIR", required=True
    )
    add_switch(
        export, "--without-classifier", "leave out the weights of the classifier"
    )


def _add_import(actions: Subparsers) -> None:
    text = "look at a model that others made, or make a teacher of it by a recipe"
    command = teacher_import.teacher_import
    model = _add_command(actions, "import", command, text, config=False)
    of = model.add_mutually_exclusive_group(required=True)
    text = "file, folder, hf-hub:NAME or grpc://HOST:PORT/NAME to look at"
    of.add_argument("model", nargs="?", metavar="MODEL", help=text)
    add_path(of, "--recipe", "make a teacher by this recipe", metavar="IMPORT.YAML")
    add_path(
        model, "--out", "folder of recipe and teacher", metavar="DIR", required=True
    )
    add_option(model, "--name", "name of the teacher", default="teacher-a")
    add_option(model, "--organ", "organ of the tissue", default="colon")
    add_option(model, "--task", "what is classified", default="tissue types")
    add_option(model, "--preset", "a foundation model by name, such as uni2-h")
    add_option(
        model, "--architecture", "timm's name of the network, for a file of tensors"
    )
    text = "side of the patches, where the model does not say"
    model.add_argument("--input-size-px", type=int, metavar="N", help=text)
    add_option(model, "--classes", "names of the classes by logit, separated by commas")
    _accelerator(model)

    text = "fit a classifier on an imported teacher's embeddings"
    command = teacher_import.teacher_fit_head
    head = _add_command(actions, "fit-head", command, text, config=False)
    text = "recipe of the teacher, with data"
    add_path(head, "--recipe", text, metavar="IMPORT.YAML", required=True)
    add_path(head, "--out", "folder of the teacher", metavar="DIR", required=True)
    text = "width of a hidden layer (default: 0, a linear probe)"
    head.add_argument("--hidden", type=int, default=0, metavar="N", help=text)
    _accelerator(head)


def _accelerator(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--accelerator",
        choices=["auto", "cpu", "cuda"],
        default="auto",
        help="where the model runs (default: auto, a GPU if there is one)",
    )


def _add_demo(subparsers: Subparsers) -> None:
    text = "run a whole federation on this machine and show its figures"
    demo = _add_command(
        subparsers, "demo", commands.demo, text, config=False, as_json=True
    )
    add_path(demo, "--data", "pathmnist.npz of MedMNIST (default: installed tissue)")
    text = "folder of everything; an earlier demo there is replaced"
    add_path(demo, "--out", text, metavar="DIR", default=Path("demo-out"))


def _add_audit(subparsers: Subparsers) -> None:
    actions = _add_group(subparsers, "audit", "verify, export and rotate the query log")
    text = "verify an exported log, with no server and no network"
    verify = _add_command(
        actions, "verify", audit.verify, text, config=False, as_json=True
    )
    log = verify.add_mutually_exclusive_group(required=True)
    log.add_argument(
        "file", type=Path, nargs="?", metavar="LOG.JSONL", help="the exported log"
    )
    add_path(log, "--config", "verify the log of this server instead", metavar=_CONFIG)
    text = "fingerprint of the log operator's key, ed25519:..."
    add_option(verify, "--key", text, metavar="FINGERPRINT")
    verify.add_argument(
        "--checkpoint",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a checkpoint that a party was shown, as JSON; repeatable",
    )

    text = "write the log to a file that others can verify"
    export = _add_command(actions, "export", audit.export, text)
    add_path(export, "--out", "the file to write", metavar="LOG.JSONL", required=True)
    text = "compare a site's receipts with the log"
    reconcile = _add_command(actions, "reconcile", audit.reconcile, text, as_json=True)
    text = "receipts as the site keeps them"
    add_path(reconcile, "--receipts", text, metavar="RECEIPTS.JSONL", required=True)
    _add_command(actions, "rotate", audit.rotate, "close this log and open the next")
    text = "sign the log with another key from now on"
    key = _add_command(actions, "rotate-key", audit.rotate_key, text)
    add_path(key, "--new-key", "the new key", metavar="SIGNING.KEY", required=True)
    add_path(
        key, "--passphrase-file", "passphrase of the new key (default: the config's)"
    )


def _add_group(subparsers: Subparsers, name: str, text: str) -> Subparsers:
    parser = subparsers.add_parser(name, help=text, description=text)
    return parser.add_subparsers(title="actions", metavar="ACTION", required=True)


def _add_command(
    subparsers: Subparsers,
    name: str,
    command: Command,
    text: str,
    *,
    config: bool = True,
    as_json: bool = False,
) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(name, help=text, description=text)
    if config:
        text = "config file of this server"
        add_path(parser, "--config", text, metavar=_CONFIG, required=True)
    if as_json:
        add_switch(parser, "--json", "print JSON")
    parser.set_defaults(command=command)
    return parser


def _host(parser: Parser, text: str) -> None:
    text = f"host name or address {text}; repeatable"
    parser.add_argument("--host", action="append", help=text)


if __name__ == "__main__":
    sys.exit(main())
