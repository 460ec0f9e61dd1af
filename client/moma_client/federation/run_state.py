"""Asks the coordinator how its run stands, without a connection of Flower.

It is asked before a run begins, so that a wrong port or a run that is over is told at
once, and now and then while the site waits. The answer lies in a file beside the task:
the node's process asks, the session's process tells.
"""

import ssl
from base64 import b64encode
from datetime import UTC, datetime
from pathlib import Path

import httpx
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from moma_client.federation.call_deadline import bound_calls
from moma_client.federation.node import NodeSettings
from moma_core.errors import FederationError, NotAuthorizedError
from moma_core.federation.run_state import LARGEST_BYTES, PATH, RunState
from moma_core.network.address import address_of, endpoint_of
from moma_core.network.proxy import ProxyRoute
from moma_core.pki.certificates import only_authority
from moma_core.pki.identity import read_peer
from moma_core.pki.key_files import load_node_key, open_key
from moma_core.pki.revocations import Revocations
from moma_core.pki.tls_probe import LOOK_SECONDS, shown_certificate
from moma_core.runtime.files import write_private

_CALL_SECONDS = 2 * LOOK_SECONDS  # whole: a way that is slow, and no byte after byte


def look_at_coordinator(settings: NodeSettings) -> None:
    """Says nothing to a coordinator, and reads who answers at its port for rounds.

    Raises:
        FederationError: Nobody answers there, or not by TLS; or the authority's
            certificate cannot be read.
        NotAuthorizedError: Who answers is no coordinator, or was revoked.
        ConfigError: Another port of the federation answers.
    """
    try:
        authority = settings.ca_certificate.read_bytes()
    except OSError as error:
        raise FederationError(f"cannot read identity.authority: {error}") from None
    shown = shown_certificate(
        settings.address,
        authority,
        seconds=LOOK_SECONDS,
        proxy=settings.proxy,
        service="rounds",
    )
    peer = read_peer(shown)
    if peer.kind != "coordinator":
        raise NotAuthorizedError(f"{settings.address} is {peer} and no coordinator")
    if settings.revoked is not None and peer.serial in Revocations(settings.revoked):
        raise NotAuthorizedError(f"the certificate of {peer} is revoked")


def request_run_state(settings: NodeSettings) -> RunState | None:
    """Returns how the run stands; None where the coordinator's release tells nobody.

    Raises:
        FederationError: The coordinator does not answer, or serves this site not.
        CertificateError: The site's node key cannot be read.
        ConfigError: The proxy's credentials cannot be read.
    """
    key = load_node_key(open_key(settings.node_key, settings.passphrase_file))
    route = settings.proxy.route(settings.address)
    url = f"https://{address_of(*endpoint_of(settings.address))}{PATH}"
    try:
        with (
            _client(settings, route) as client,
            client.stream("POST", url, headers=_signed(key)) as response,
        ):
            if response.status_code == httpx.codes.NOT_FOUND:
                return None
            if response.status_code == httpx.codes.UNAUTHORIZED:
                raise FederationError(
                    f"the coordinator at {settings.address} does not serve this site's "
                    f"node key: it was not admitted there, or was revoked"
                )
            if response.status_code != httpx.codes.OK:
                raise FederationError(
                    f"the coordinator at {settings.address} does not serve yet"
                )
            return RunState.from_json(_bounded(response))
    except (httpx.HTTPError, OSError, ValueError) as error:
        message = f"the coordinator at {settings.address} does not answer: {error}"
        raise FederationError(message) from error


def note_run_state(settings: NodeSettings) -> RunState | None:
    """Asks, and leaves the answer where the session's process finds it.

    Raises:
        As `request_run_state`.
    """
    state = request_run_state(settings)
    write_private(settings.state_file, b"" if state is None else state.to_json())
    return state


def _client(settings: NodeSettings, route: ProxyRoute | None) -> httpx.Client:
    client = httpx.Client(
        verify=_trusting(settings.ca_certificate),
        proxy=None if route is None else route.url,
        trust_env=False,
        timeout=LOOK_SECONDS,
    )
    bound_calls(client, _CALL_SECONDS)
    return client


def _bounded(response: httpx.Response) -> bytes:
    content = b""
    for chunk in response.iter_raw():
        content += chunk
        if len(content) > LARGEST_BYTES:
            break
    return content


def _trusting(authority: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    pem = only_authority(authority.read_bytes())
    context.load_verify_locations(cadata=pem.decode("ascii"))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def _signed(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    """Returns the headers of a call, signed as Flower's nodes do: each is good once."""
    timestamp = datetime.now(UTC).isoformat(timespec="microseconds")
    signature = key.sign(timestamp.encode("ascii"), ec.ECDSA(hashes.SHA256()))
    public = key.public_key().public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    )
    return {
        "accept-encoding": "identity",
        "flwr-public-key": b64encode(public).decode("ascii"),
        "flwr-timestamp": timestamp,
        "flwr-signature": b64encode(signature).decode("ascii"),
    }
