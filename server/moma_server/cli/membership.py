"""The commands about members: tokens, certificates, and the sites a teacher approves.

Imports stand inside, as in `moma_server.cli.commands`.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

from moma_core.errors import ConfigError
from moma_core.runtime.clock import utc_now
from moma_server.cli.commands import read_config

if TYPE_CHECKING:
    from moma_core.pki.identity import PeerKind
    from moma_server.config.server import ServerConfig

_MOST_TOKEN_HOURS = 24 * 30


def token_create(arguments: argparse.Namespace) -> Iterator[str]:
    """Makes a token."""
    from moma_core.pki.certificates import authority_fingerprint
    from moma_core.pki.identity import EnrolmentToken, PeerName
    from moma_server.enrolment.service import enrolment_journal
    from moma_server.membership.members import signing_authority, token_store

    config = read_config(arguments.config)
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
    now = utc_now()
    lifetime = timedelta(hours=arguments.lifetime)
    token_store(config).create(token, hosts=hosts, lifetime=lifetime, now=now)
    enrolment_journal(config, lambda: now).note(
        "token-created", token=token.identifier, kind=kind, name=peer.name
    )
    yield str(token)


def token_list(arguments: argparse.Namespace) -> Iterator[str]:
    """Lists the tokens."""
    from moma_server.membership.members import token_store

    now = utc_now()
    records = token_store(read_config(arguments.config)).records()
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
    if not rows:
        yield "no token yet; `moma-server token create` makes one"
    for row in rows:
        until = row["expires"][:16]
        yield f"{row['id']}  {row['kind']} {row['name']}: {row['state']}, until {until}"


def token_revoke(arguments: argparse.Namespace) -> Iterator[str]:
    """Revokes a token."""
    from moma_server.enrolment.service import enrolment_journal
    from moma_server.membership.members import token_store

    config, now = read_config(arguments.config), utc_now()
    token_store(config).revoke(arguments.identifier, now=now)
    enrolment_journal(config, lambda: now).note(
        "token-revoked", token=arguments.identifier
    )
    yield f"revoked the token {arguments.identifier}"


def enrol_teacher(arguments: argparse.Namespace) -> Iterator[str]:
    """Gets a certificate for a teacher at another institution."""
    given = arguments.token
    token = sys.stdin.readline() if given == "-" else given
    config = read_config(arguments.config)
    yield from join(config, token, arguments.coordinator)


def join(config: "ServerConfig", token: str, address: str | None) -> Iterator[str]:
    """Enrols the teacher of a config, and yields what to tell the operator.

    Args:
        config: Config of the teacher's server.
        token: The token that the coordinator's operator made.
        address: `host:port` of the enrolment service; None: as the config says.

    Raises:
        ConfigError: The config has no teacher, or signs for itself.
        MomaError: See `take_place`.
    """
    from moma_core.pki.identity import EnrolmentToken, PeerName
    from moma_core.pki.key_files import ensure_key
    from moma_proto.enrolment.client import EnrolmentPort, take_place
    from moma_server.membership.renewal import identity_files

    if config.teacher is None or config.authority.key is not None:
        raise ConfigError("enrol is for a teacher whose coordinator is elsewhere")
    where = address or config.authority.enrolment
    if where is None:
        raise ConfigError(
            "name the enrolment port: --coordinator host:port, or authority.enrolment"
        )
    grant = EnrolmentToken.parse(token)
    own = PeerName(config.federation, "teacher", config.teacher.name)
    files = identity_files(config.teacher.identity, config.authority)
    ensure_key(files.key, files.passphrase_file)
    port = EnrolmentPort(where, config.network.rule())
    take_place(port, grant, own, files)
    yield f"enrolled {own}: {files.certificate}"
    if config.authority.enrolment != where:
        yield f"for renewals and revocations, set authority.enrolment: {where}"


def admit(arguments: argparse.Namespace) -> Iterator[str]:
    """Signs a member's request."""
    from moma_core.pki.identity import PeerName, check_host
    from moma_server.membership.members import admit_member

    config = read_config(arguments.config)
    peer = PeerName(config.federation, *_who(arguments))
    hosts = tuple(arguments.host or ())
    for host in hosts:
        check_host(host)
    try:
        request = arguments.csr.read_bytes()
        node_key = arguments.node_key.read_bytes() if arguments.node_key else None
    except OSError as error:
        raise ConfigError(f"cannot read the request: {error}") from None
    certificate = admit_member(
        config,
        peer,
        request=request,
        node_key=node_key,
        hosts=hosts,
    )
    arguments.out.write_bytes(certificate)
    yield f"admitted {peer.kind} {peer.name}: {arguments.out}"


def _who(arguments: argparse.Namespace) -> tuple["PeerKind", str]:
    if arguments.coordinator:
        return "coordinator", "coordinator"
    if arguments.teacher:
        return "teacher", arguments.teacher
    return "site", arguments.site


def revoke(arguments: argparse.Namespace) -> Iterator[str]:
    """Revokes a member's certificates and tokens."""
    from moma_core.pki.identity import PeerName
    from moma_server.enrolment.service import enrolment_journal
    from moma_server.membership.members import revoke_member

    config = read_config(arguments.config)
    peer = PeerName(config.federation, arguments.kind, arguments.name)
    count = revoke_member(config, peer)
    enrolment_journal(config, utc_now).note("revoked", kind=peer.kind, name=peer.name)
    yield f"revoked {count} certificate(s) of {arguments.kind} {arguments.name}"


def members(arguments: argparse.Namespace) -> Iterator[str]:
    """Lists the members."""
    from moma_server.cli.status import member_lines, member_rows

    rows = member_rows(read_config(arguments.config))
    if arguments.json:
        yield json.dumps(rows)
    else:
        yield from member_lines(rows)


def site_approve(arguments: argparse.Namespace) -> Iterator[str]:
    """Approves a site by its signing key."""
    from moma_server.membership.pinned_sites import approve_site

    config = read_config(arguments.config)
    approve_site(config, arguments.name, arguments.key)
    yield f"approved {arguments.name} with {arguments.key}"


def site_forget(arguments: argparse.Namespace) -> Iterator[str]:
    """Approves a site no longer."""
    from moma_core.end_to_end import pinned_sites
    from moma_server.state import pinned_sites_file

    path = pinned_sites_file(read_config(arguments.config))
    pinned_sites.forget(path, arguments.name)
    yield f"{arguments.name} is served no longer"


def site_list(arguments: argparse.Namespace) -> Iterator[str]:
    """Lists the sites that the teacher serves."""
    from moma_core.end_to_end.pinned_sites import read_pinned_sites
    from moma_server.state import pinned_sites_file

    path = pinned_sites_file(read_config(arguments.config))
    sites = read_pinned_sites(path) if path.exists() else ()
    if arguments.json:
        yield json.dumps([each.as_json() for each in sites])
        return
    if not sites:
        yield "no site is approved; `moma-server site approve` approves one"
    width = max((len(each.site) for each in sites), default=0)
    for each in sites:
        yield f"{each.site:<{width}}  {each.key}"
