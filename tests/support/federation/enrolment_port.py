"""A coordinator's enrolment port in this process, and what a test asks it for."""

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from moma_client.cli.init import SiteSetup, init_site
from moma_client.config.site import SiteIdentity
from moma_client.identity.enrolment import enrol_site
from moma_core.pki.certificates import authority_fingerprint
from moma_core.pki.identity import EnrolmentToken, PeerKind, PeerName
from moma_proto.enrolment.client import EnrolmentLink
from moma_server.cli.init import ServerSetup, init_server
from moma_server.config.server import ServerConfig, read_yaml, write_yaml
from moma_server.enrolment.server import EnrolmentServer
from moma_server.enrolment.service import REFUSALS
from moma_server.membership.members import signing_authority, token_store

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class OpenDesk:
    """A running enrolment port.

    Args:
        config: The coordinator's.
        port: On loopback.
    """

    config: ServerConfig
    port: int

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    def token(
        self,
        name: str = "site-a",
        kind: PeerKind = "site",
        *,
        hosts: Sequence[str] = (),
        lifetime: timedelta = timedelta(hours=1),
        now: datetime | None = None,
    ) -> EnrolmentToken:
        """Returns a new token; `now` in the past makes an expired one."""
        return new_token(
            self.config, name, kind, hosts=hosts, lifetime=lifetime, now=now
        )

    def journal(self) -> str:
        """Returns all that is written down, what was granted and what was refused."""
        paths = (
            self.config.state_dir / name for name in ("enrolments.jsonl", REFUSALS)
        )
        return "".join(path.read_text() for path in paths if path.exists())


def new_token(
    config: ServerConfig,
    name: str,
    kind: PeerKind = "site",
    *,
    hosts: Sequence[str] = (),
    lifetime: timedelta = timedelta(hours=1),
    now: datetime | None = None,
) -> EnrolmentToken:
    """Returns a new token of a coordinator, as `moma-server token create` makes it."""
    authority = signing_authority(config).certificate_pem
    peer = PeerName(config.federation, kind, name)
    token = EnrolmentToken.create(peer, authority_fingerprint(authority))
    moment = now or datetime.now(UTC)
    token_store(config).create(token, hosts=hosts, lifetime=lifetime, now=moment)
    return token


def make_coordinator(
    folder: Path,
    *,
    hours: float = 720,
    tries: float = 600,
    passphrase_file: Path | None = None,
    federation: str = "moma",
) -> ServerConfig:
    """Returns the config of a new coordinator that listens at a free port."""
    place = ServerSetup(
        roles=("coordinator",), passphrase_file=passphrase_file, federation=federation
    )
    init_server(folder, place)
    values = read_yaml(folder / "server.yaml")
    assert isinstance(values, dict)
    values["coordinator"] |= {
        "certificate_hours": hours,
        "enrolment": {
            "listen": {"host": LOOPBACK, "port": 0},
            "tries_per_minute": tries,
        },
    }
    write_yaml(folder / "server.yaml", values)
    return ServerConfig.from_yaml(folder / "server.yaml")


@contextmanager
def open_desk(config: ServerConfig) -> Iterator[OpenDesk]:
    """Serves a coordinator's enrolment port from a thread while the block runs."""
    ready, stop = threading.Event(), threading.Event()
    ports: list[int] = []

    async def serve() -> None:
        assert config.coordinator is not None
        section = config.coordinator.enrolment
        assert section is not None
        server = EnrolmentServer(
            config, config.coordinator, section, lambda: datetime.now(UTC)
        )
        ports.append(await server.start())
        ready.set()
        await asyncio.to_thread(stop.wait)
        await server.stop()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(30)
        yield OpenDesk(config, ports[0])
    finally:
        stop.set()
        thread.join()


def new_site(folder: Path, name: str = "site-a", **place: Path) -> SiteIdentity:
    init_site(folder, SiteSetup(site=name, **place))
    return SiteIdentity.from_yaml(folder / "config.yaml")


def enrolled(site: SiteIdentity, desk: OpenDesk, token: EnrolmentToken) -> list[str]:
    return list(enrol_site(site, str(token), desk.address))


def refusals(desk: OpenDesk) -> list[dict[str, str]]:
    lines = map(json.loads, desk.journal().splitlines())
    return [line for line in lines if line["event"] == "refused"]


def link(desk: OpenDesk, name: str = "site-a", kind: str = "site") -> EnrolmentLink:
    authority = desk.config.authority.certificate.read_bytes()
    own = PeerName.parse(f"spiffe://{desk.config.federation}/{kind}/{name}")
    return EnrolmentLink(desk.address, authority, own, lambda: datetime.now(UTC))
