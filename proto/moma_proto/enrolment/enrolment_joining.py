"""How a party takes its place in a federation with a token; both programs use it.

fingerprint in the token -> the server's authority -> who the server is -> token and
signing request -> a look at what came back -> the files
"""

import logging
import time
from datetime import UTC, datetime

from moma_core.errors import CertificateError, FederationError
from moma_core.pki.authority import authority_fingerprint
from moma_core.pki.enrolment_token import EnrolmentToken
from moma_core.pki.key_files import open_key
from moma_core.pki.names import PeerName
from moma_core.pki.validity import IdentityFiles, check_granted
from moma_core.runtime.files import write_private
from moma_proto.enrolment.client import EnrolmentLink, trusted_authority

_logger = logging.getLogger(__name__)

_PATIENCE_SECONDS = 30.0  # a coordinator may be about to start
_PAUSE_SECONDS = 1.0


def take_place(
    address: str,
    token: EnrolmentToken,
    own: PeerName,
    files: IdentityFiles,
    *,
    node_key: bytes | None = None,
    patience_seconds: float = _PATIENCE_SECONDS,
) -> None:
    """Enrols, and writes the certificate and the authority's beside the key.

    Args:
        address: `host:port` of the coordinator's enrolment.
        token: Of the same name.
        own: Who enrols.
        files: Where the key lies, and where the certificates go.
        node_key: A site's public node key.
        patience_seconds: For a coordinator that cannot be reached yet.

    Raises:
        CertificateError: The token is not for us, or what came back is not.
        FederationError: The coordinator cannot be reached.
        NotAdmittedError: It refused, or is not of the token's authority.
    """
    if token.peer != own:
        raise CertificateError(f"the token is for {token.peer}, this is {own}")
    _check_known_authority(files, token)
    key_pem = open_key(files.key, files.passphrase_file)
    authority_pem = _reached_authority(address, token, patience_seconds)
    link = EnrolmentLink(address, authority_pem, own, lambda: datetime.now(UTC))
    certificate_pem = link.enrol(token, key_pem, node_key)
    check_granted(
        certificate_pem,
        authority_pem=authority_pem,
        own=own,
        key_pem=key_pem,
        now=datetime.now(UTC),
    )
    write_private(files.authority, authority_pem)
    write_private(files.certificate, certificate_pem)


def _check_known_authority(files: IdentityFiles, token: EnrolmentToken) -> None:
    """Refuses to exchange an authority in silence: everything hangs on it."""
    if not files.authority.exists():
        return
    if authority_fingerprint(files.authority.read_bytes()) != token.authority:
        raise CertificateError(
            f"{files.authority} is of another authority than the token's; remove it "
            f"only if this is to be another federation's"
        )


def _reached_authority(address: str, token: EnrolmentToken, seconds: float) -> bytes:
    deadline, told = time.monotonic() + seconds, ""
    while True:
        try:
            return trusted_authority(address, token)
        except FederationError as error:
            if time.monotonic() > deadline:
                raise FederationError(
                    f"{error}; ask the coordinator's operator whether it runs, and "
                    f"whether this is the port of its enrolment, by default 8445: "
                    f"another service may listen there"
                ) from error
            if str(error) != told:
                told = str(error)
                _logger.info("%s; trying again for %.0f s", told, seconds)
            time.sleep(_PAUSE_SECONDS)
