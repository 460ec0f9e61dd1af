"""`moma-server token` and `moma-server enrol`: arguments, and what they print.

Imports stand inside, as in `moma_server.cli.commands`.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from moma_core.errors import ConfigError
from moma_core.pki.identity import PeerKind, PeerName
from moma_server.config.server import ServerConfig

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

TOKEN_HOURS = 72.0
_MOST_TOKEN_HOURS = 24 * 30


def add_parsers(subparsers: "Subparsers") -> None:
    """Adds both commands to `moma-server`."""
    token = subparsers.add_parser("token", help="one-time tokens for new members")
    actions = token.add_subparsers(title="actions", metavar="ACTION", required=True)
    create = actions.add_parser("create", help="prints the token, once")
    create.add_argument("name", help="of the site, or of the teacher")
    create.add_argument("--teacher", action="store_true", help="for a teacher")
    create.add_argument(
        "--lifetime",
        type=float,
        default=TOKEN_HOURS,
        metavar="HOURS",
        help="%(default)s; fractions are minutes",
    )
    create.add_argument("--host", action="append", help="of a teacher; repeatable")
    create.set_defaults(command=token_create)
    shown = actions.add_parser("list", help="what was given out; no secret is kept")
    shown.add_argument("--json", action="store_true")
    shown.set_defaults(command=token_list)
    revoke = actions.add_parser("revoke", help="takes an open token back")
    revoke.add_argument("identifier", metavar="ID")
    revoke.set_defaults(command=token_revoke)
    for action in (create, shown, revoke):
        action.add_argument("--config", type=Path, required=True)

    enrol = subparsers.add_parser("enrol", help="a teacher's place, with a token")
    enrol.add_argument("--config", type=Path, required=True)
    enrol.add_argument("--token", required=True, help="the word; - reads it from stdin")
    enrol.add_argument("--coordinator", metavar="HOST:PORT", help="of its enrolment")
    enrol.set_defaults(command=enrol_teacher)


def token_create(arguments: argparse.Namespace) -> Iterator[str]:
    """Makes a token."""
    from moma_core.pki.certificates import authority_fingerprint
    from moma_core.pki.identity import EnrolmentToken
    from moma_server.enrolment.service import enrolment_journal
    from moma_server.membership.members import signing_authority, token_store

    config = ServerConfig.from_yaml(arguments.config)
    if not 0 < arguments.lifetime <= _MOST_TOKEN_HOURS:
        raise ConfigError(
            f"--lifetime {arguments.lifetime:g}: a token lives more than 0 and at most "
            f"{_MOST_TOKEN_HOURS} hours"
        )
    kind: PeerKind = "teacher" if arguments.teacher else "site"
    hosts = tuple(arguments.host or ())
    if hosts and kind == "site":
        raise ConfigError("--host is for a teacher: nobody calls a site")
    authority = signing_authority(config).certificate_pem
    peer = PeerName(config.federation, kind, arguments.name)
    token = EnrolmentToken.create(peer, authority_fingerprint(authority))
    now = datetime.now(UTC)
    lifetime = timedelta(hours=arguments.lifetime)
    token_store(config).create(token, hosts=hosts, lifetime=lifetime, now=now)
    enrolment_journal(config, lambda: now).note(
        "token-created", token=token.identifier, kind=kind, name=peer.name
    )
    yield str(token)


def token_list(arguments: argparse.Namespace) -> Iterator[str]:
    """Lists the tokens."""
    from moma_server.membership.members import token_store

    now = datetime.now(UTC)
    records = token_store(ServerConfig.from_yaml(arguments.config)).records()
    rows = [
        {
            "id": record.identifier,
            "kind": record.kind,
            "name": record.name,
            "state": record.state(now),
            "expires": record.expires_at.isoformat(),
        }
        for record in records
    ]
    if arguments.json:
        yield json.dumps(rows)
        return
    for row in rows:
        until = row["expires"][:16]
        yield f"{row['id']}  {row['kind']} {row['name']}: {row['state']}, until {until}"


def token_revoke(arguments: argparse.Namespace) -> Iterator[str]:
    """Takes a token back."""
    from moma_server.enrolment.service import enrolment_journal
    from moma_server.membership.members import token_store

    config, now = ServerConfig.from_yaml(arguments.config), datetime.now(UTC)
    token_store(config).revoke(arguments.identifier, now=now)
    enrolment_journal(config, lambda: now).note(
        "token-revoked", token=arguments.identifier
    )
    yield f"revoked the token {arguments.identifier}"


def enrol_teacher(arguments: argparse.Namespace) -> Iterator[str]:
    """Gets a certificate for a teacher at another institution."""
    word = arguments.token
    token = sys.stdin.readline() if word == "-" else word
    config = ServerConfig.from_yaml(arguments.config)
    yield from join(config, token, arguments.coordinator)


def join(config: ServerConfig, token: str, address: str | None) -> Iterator[str]:
    """Enrols the teacher of a config, and yields what to tell the operator.

    Args:
        config: The teacher's.
        token: As the coordinator's operator made it.
        address: `host:port` of the enrolment service; None: as the config says.

    Raises:
        ConfigError: The config has no teacher, or signs for itself.
        MomaError: See `take_place`.
    """
    from moma_core.pki.identity import EnrolmentToken
    from moma_core.pki.key_files import ensure_key
    from moma_proto.enrolment.client import take_place
    from moma_server.membership.renewal import identity_files

    if config.teacher is None or config.authority.key is not None:
        raise ConfigError("enrol is for a teacher whose coordinator is elsewhere")
    where = address or config.authority.enrolment
    if where is None:
        raise ConfigError("say --coordinator host:port, or authority.enrolment")
    grant = EnrolmentToken.parse(token)
    own = PeerName(config.federation, "teacher", config.teacher.name)
    files = identity_files(config.teacher.identity, config.authority)
    ensure_key(files.key, files.passphrase_file)
    take_place(where, grant, own, files)
    yield f"enrolled {own}: {files.certificate}"
    if config.authority.enrolment != where:
        yield f"for renewals and revocations, set authority.enrolment: {where}"
