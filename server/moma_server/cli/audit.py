"""`moma-server audit`: look after the log, and let others check it.

`verify` needs a file and the keeper's public key, and nothing else: no server, no
database, no network.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moma_core.audit.checkpoint import Checkpoint
from moma_core.audit.verify import Verified, lines_of, verify_export
from moma_core.end_to_end.signatures import SigningKey, VerifyingKey
from moma_core.errors import AuditError, ConfigError
from moma_server.config.server import ServerConfig, TeacherSection

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_audit(subparsers: "Subparsers") -> None:
    """Adds the commands."""
    audit = subparsers.add_parser("audit", help="the log of every query")
    actions = audit.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_verify(actions)
    export = _action(actions, "export", _export, "write the log to a file")
    export.add_argument("--out", type=Path, required=True, metavar="LOG.JSONL")
    compare = _action(
        actions, "reconcile", _reconcile, "hold a site's receipts against the log"
    )
    compare.add_argument(
        "--receipts", type=Path, required=True, metavar="RECEIPTS.JSONL"
    )
    compare.add_argument("--json", action="store_true")
    _action(actions, "rotate", _rotate, "close this log and open the next")
    key = _action(
        actions, "rotate-key", _rotate_key, "let another key sign from here on"
    )
    key.add_argument("--new-key", type=Path, required=True, metavar="SIGNING.KEY")
    key.add_argument(
        "--passphrase-file",
        type=Path,
        help="of the new key; else the one that the config names for its keys",
    )


def _add_verify(actions: "Subparsers") -> None:
    verify = actions.add_parser("verify", help="check an export, offline")
    what = verify.add_mutually_exclusive_group(required=True)
    what.add_argument("file", type=Path, nargs="?", metavar="LOG.JSONL")
    what.add_argument("--config", type=Path, help="check the log of this server")
    verify.add_argument("--key", help="the keeper's fingerprint, ed25519:...")
    verify.add_argument(
        "--checkpoint",
        type=Path,
        action="append",
        default=[],
        help="one that a party was shown, as JSON; repeatable",
    )
    verify.add_argument("--json", action="store_true")
    verify.set_defaults(command=_verify)


def _action(
    actions: "Subparsers", name: str, command: object, text: str
) -> argparse.ArgumentParser:
    action = actions.add_parser(name, help=text)
    action.add_argument("--config", type=Path, required=True)
    action.set_defaults(command=command)
    return action


def _verify(arguments: argparse.Namespace) -> Iterator[str]:
    known = [Checkpoint.parse(_read(path)) for path in arguments.checkpoint]
    if arguments.config is not None:
        found = _verify_own(arguments.config, arguments.key, known)
    else:
        if arguments.key is None:
            raise ConfigError("name the keeper's key with --key ed25519:...")
        key = VerifyingKey.parse(arguments.key)
        try:
            with arguments.file.open("rb") as file:
                found = verify_export(lines_of(file), key, known)
        except OSError as error:
            raise ConfigError(f"cannot read {arguments.file}: {error}") from None
    yield from _verified_lines(found, as_json=arguments.json)


def _verify_own(
    path: Path, fingerprint: str | None, known: list[Checkpoint]
) -> Verified:
    from moma_core.audit.export import export_lines
    from moma_server.state import open_ledger

    with open_ledger(*_teacher(path)) as ledger:
        key = ledger.log.key.public
        if fingerprint is not None:
            key = VerifyingKey.parse(fingerprint)
        return ledger.read(
            lambda database: verify_export(export_lines(database)[0], key, known)
        )


def _verified_lines(found: Verified, *, as_json: bool) -> Iterator[str]:
    if as_json:
        yield json.dumps({"verified": True, **found.to_json()})
        return
    end = found.checkpoint
    if end is not None:
        yield f"verified: {found.entries} entries of {', '.join(found.logs)}"
        yield f"  root {end.root} at {end.size} entries, signed by {end.key}"
    for name, site in sorted(found.sites.items()):
        ended = ", ".join(f"{count} {how}" for how, count in site.queries.items())
        yield f"  {name}: {site.charged} patches charged; queries: {ended}"


def _export(arguments: argparse.Namespace) -> Iterator[str]:
    from moma_core.audit.export import export_log
    from moma_server.state import open_ledger

    with open_ledger(*_teacher(arguments.config)) as ledger:
        try:
            end = ledger.read(lambda database: export_log(database, arguments.out))
        except OSError as error:
            raise ConfigError(f"cannot write {arguments.out}: {error}") from None
    yield f"wrote {arguments.out}: all logs, {end.origin} at {end.size} entries last"
    yield f"  verify with --key {end.key}"


def _reconcile(arguments: argparse.Namespace) -> Iterator[str]:
    from moma_core.audit.reconcile import count_mismatches, reconcile
    from moma_server.state import open_ledger

    receipts = _receipts(arguments.receipts)
    with open_ledger(*_teacher(arguments.config)) as ledger:
        found = ledger.read(
            lambda database: reconcile(
                database, ledger, receipts, ledger.log.keys(database)
            )
        )
        ledger.alter(lambda database: count_mismatches(database, found))
    if arguments.json:
        yield json.dumps(found.to_json())
    else:
        yield (
            f"{found.receipts} receipts against {found.entries} entries of "
            f"{', '.join(found.sites) or 'nobody'}: {found.mismatches} contradicted, "
            f"{found.forged} not signed by the log's keeper"
        )
        if found.reserved:
            yield (
                f"  {found.reserved} queries, {found.reserved_patches} patches, are "
                "charged and have no entry yet: a gateway works on them, or died; a "
                "teacher that runs writes old ones off"
            )
    if found.first:
        raise AuditError(found.first)


def _receipts(path: Path) -> Iterator[Any]:
    from moma_core.audit.receipt import Receipt

    try:
        with path.open("rb") as file:
            for line in lines_of(file):
                yield Receipt.parse(line)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error}") from None


def _rotate(arguments: argparse.Namespace) -> Iterator[str]:
    from moma_core.audit.rotation import rotate_log
    from moma_server.state import open_ledger

    with open_ledger(*_teacher(arguments.config)) as ledger:
        last, first = ledger.alter(lambda database: rotate_log(database, ledger.log))
    yield f"closed {last.origin} at {last.size} entries, opened {first.origin}"


def _rotate_key(arguments: argparse.Namespace) -> Iterator[str]:
    from moma_core.audit.rotation import rotate_key
    from moma_server.state import open_ledger

    config, teacher = _teacher(arguments.config)
    own = teacher.identity.passphrase_file
    given = arguments.passphrase_file and arguments.passphrase_file.absolute()
    new = SigningKey.load(arguments.new_key, given or own)
    with open_ledger(config, teacher) as ledger:
        ledger.alter(lambda database: rotate_key(database, ledger.log, new))
    yield f"from here on {new.public} signs the log"
    yield f"  set teacher.signing_key to {arguments.new_key}, restart, tell the sites"
    if given and given != own:
        yield (
            f"  and teacher.identity.passphrase_file to {given}: "
            f"{teacher.identity.key} has to be encrypted with it, too"
        )


def _teacher(path: Path) -> tuple[ServerConfig, TeacherSection]:
    config = ServerConfig.from_yaml(path)
    if config.teacher is None:
        raise ConfigError(f"{path} names no teacher, so there is no log")
    return config, config.teacher


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
