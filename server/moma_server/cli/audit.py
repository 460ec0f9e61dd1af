"""`moma-server audit`: look after the log, and let others verify it.

`verify` needs a file and the log operator's public key, and nothing else: no server, no
database, no network. Imports stand inside, as in `moma_server.cli.commands`.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moma_core.errors import AuditError, ConfigError
from moma_server.cli.commands import read_config

if TYPE_CHECKING:
    from moma_core.audit.checkpoint import Checkpoint
    from moma_core.audit.verify import Verified
    from moma_server.config.server import ServerConfig, TeacherSection


def verify(arguments: argparse.Namespace) -> Iterator[str]:
    """Verifies an exported log, or this server's own."""
    from moma_core.audit.checkpoint import Checkpoint
    from moma_core.audit.verify import lines_of, verify_export
    from moma_core.end_to_end.signatures import VerifyingKey

    known = [Checkpoint.parse(_read(path)) for path in arguments.checkpoint]
    if arguments.config is not None:
        found = _verify_own(arguments.config, arguments.key, known)
    else:
        if arguments.key is None:
            raise ConfigError("name the log operator's key with --key ed25519:...")
        key = VerifyingKey.parse(arguments.key)
        try:
            with arguments.file.open("rb") as file:
                found = verify_export(lines_of(file), key, known)
        except OSError as error:
            raise ConfigError(f"cannot read {arguments.file}: {error}") from None
    yield from _verified_lines(found, as_json=arguments.json)


def _verify_own(
    path: Path, fingerprint: str | None, known: "list[Checkpoint]"
) -> "Verified":
    from moma_core.audit.export import export_lines
    from moma_core.audit.verify import verify_export
    from moma_core.end_to_end.signatures import VerifyingKey
    from moma_server.state import note_verification, open_ledger

    config, teacher = _teacher(path)
    with open_ledger(config, teacher) as ledger:
        key = ledger.log.key.public
        if fingerprint is not None:
            key = VerifyingKey.parse(fingerprint)
        try:
            found = ledger.read(
                lambda database: verify_export(export_lines(database)[0], key, known)
            )
        except AuditError as error:
            note_verification(config, outcome="failed", sentence=str(error))
            raise
    sentence = f"{found.entries} entries of {', '.join(found.logs)}"
    note_verification(config, outcome="verified", sentence=sentence)
    return found


def _verified_lines(found: "Verified", *, as_json: bool) -> Iterator[str]:
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


def export(arguments: argparse.Namespace) -> Iterator[str]:
    """Writes the log to a file."""
    from moma_core.audit.export import export_log
    from moma_server.state import open_ledger

    with open_ledger(*_teacher(arguments.config)) as ledger:
        end = ledger.read(lambda database: export_log(database, arguments.out))
    yield f"wrote {arguments.out}: all logs, {end.origin} at {end.size} entries last"
    yield f"  verify with --key {end.key}"


def reconcile(arguments: argparse.Namespace) -> Iterator[str]:
    """Compares a site's receipts with the log."""
    from moma_core.audit import reconcile as comparison
    from moma_server.state import open_ledger

    receipts = _receipts(arguments.receipts)
    with open_ledger(*_teacher(arguments.config)) as ledger:
        found = ledger.read(
            lambda database: comparison.reconcile(
                database, ledger, receipts, ledger.log.keys(database)
            )
        )
        ledger.alter(lambda database: comparison.count_mismatches(database, found))
    if arguments.json:
        yield json.dumps(found.to_json())
    else:
        yield (
            f"{found.receipts} receipts against {found.entries} entries of "
            f"{', '.join(found.sites) or 'nobody'}: {found.mismatches} contradicted, "
            f"{found.forged} not signed by the log's operator"
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
    from moma_core.audit.verify import lines_of

    try:
        with path.open("rb") as file:
            for line in lines_of(file):
                yield Receipt.parse(line)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error}") from None


def rotate(arguments: argparse.Namespace) -> Iterator[str]:
    """Closes the log and opens the next."""
    from moma_core.audit.rotation import rotate_log
    from moma_server.state import open_ledger

    with open_ledger(*_teacher(arguments.config)) as ledger:
        last, first = ledger.alter(lambda database: rotate_log(database, ledger.log))
    yield f"closed {last.origin} at {last.size} entries, opened {first.origin}"


def rotate_key(arguments: argparse.Namespace) -> Iterator[str]:
    """Signs the log with another key from here on."""
    from moma_core.audit import rotation
    from moma_core.end_to_end.signatures import SigningKey
    from moma_server.state import open_ledger

    config, teacher = _teacher(arguments.config)
    own = teacher.identity.passphrase_file
    given = arguments.passphrase_file and arguments.passphrase_file.absolute()
    new = SigningKey.load(arguments.new_key, given or own)
    with open_ledger(config, teacher) as ledger:
        ledger.alter(lambda database: rotation.rotate_key(database, ledger.log, new))
    yield f"from here on {new.public} signs the log"
    yield f"  set teacher.signing_key to {arguments.new_key}, restart, tell the sites"
    if given and given != own:
        yield (
            f"  and teacher.identity.passphrase_file to {given}: "
            f"{teacher.identity.key} has to be encrypted with it, too"
        )


def _teacher(path: Path) -> "tuple[ServerConfig, TeacherSection]":
    config = read_config(path)
    if config.teacher is None:
        raise ConfigError(f"{path} names no teacher, so there is no log")
    return config, config.teacher


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
