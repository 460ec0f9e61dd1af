"""TLS of the teacher's port: version 1.3 only, and keys that change while it runs.

gRPC for Python has no setting for a minimum version. Its list of TLS 1.2 ciphers can
be set, though, from the environment and before `import grpc`: with RSA ciphers only,
beside our ECDSA certificates, no TLS 1.2 handshake finds a common cipher. The version
of every call is checked once more in `authorization`. This module must not import grpc
at its top, so that `forbid_tls12` can be called first.
"""

import logging
import os
import sys
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from moma_core.errors import CertificateError
from moma_core.pki.certificates import life, read_authority
from moma_core.pki.key_files import read_credential
from moma_core.pki.renewal import IdentityFiles
from moma_core.runtime.clock import utc_now
from moma_core.runtime.files import Stamp, stat_fingerprint

if TYPE_CHECKING:
    import grpc

_logger = logging.getLogger(__name__)

_CIPHERS = "GRPC_SSL_CIPHER_SUITES"
_RSA_ONLY = "ECDHE-RSA-AES256-GCM-SHA384"


def forbid_tls12() -> None:
    """Shuts TLS 1.2 out of every gRPC server and client of this process.

    Raises:
        RuntimeError: It is too late, grpc is imported already.
    """
    if os.environ.get(_CIPHERS) == _RSA_ONLY:
        return
    if "grpc" in sys.modules:
        raise RuntimeError("forbid_tls12 must be called before grpc is imported")
    os.environ[_CIPHERS] = _RSA_ONLY


class TlsCredentials:
    """Server credentials that are read anew, so that a renewal needs no restart.

    Args:
        files: Read now, and again at a handshake when they have changed.
        clock: Returns the time, with its time zone.

    Raises:
        CertificateError: A file is missing, or key and certificate do not match.
    """

    def __init__(
        self, files: IdentityFiles, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self._files, self._clock = files, clock
        self._stamp = self._newest_fingerprint()
        self._initial = self._configuration()

    def for_server(self, *, clients_show: bool = True) -> "grpc.ServerCredentials":
        """Returns credentials for a port.

        Args:
            clients_show: Whether every client must show a certificate; no only where
                those come who have none yet.
        """
        import grpc

        return grpc.dynamic_ssl_server_credentials(
            self._initial,
            self._renewed,  # type: ignore[arg-type]  # None is documented, not stubbed
            require_client_authentication=clients_show,
        )

    def check_time(self) -> None:
        """Raises where the certificate is over, as by a clock that is far ahead.

        Raises:
            CertificateError: It is over, or cannot be read.
        """
        now, path = self._clock(), self._files.certificate
        try:
            _, end = life(path.read_bytes())
        except OSError as error:
            raise CertificateError(f"cannot read the credential: {error}") from None
        if now > end:
            raise CertificateError(
                f"by this machine's clock it is {now:%Y-%m-%d %H:%M} UTC, and {path} "
                f"was good until {end:%Y-%m-%d %H:%M} UTC: put the clock right, or "
                "have a new certificate signed"
            )

    def _renewed(self) -> "grpc.ServerCertificateConfiguration | None":
        """Called by gRPC before every handshake; None keeps what is in use."""
        try:
            stamp = self._newest_fingerprint()
            if stamp == self._stamp:
                return None
            configuration = self._configuration()
        except CertificateError as error:
            _logger.warning("the old certificate stays in use: %s", error)
            return None
        self._stamp = stamp
        _logger.info("the server's certificate was renewed")
        return configuration

    def _configuration(self) -> "grpc.ServerCertificateConfiguration":
        import grpc

        files = self._files
        own = read_credential(files.certificate, files.key, files.passphrase_file)
        try:
            authority = files.authority.read_bytes()
        except OSError as error:
            raise CertificateError(f"cannot read the credential: {error}") from None
        read_authority(authority)
        return grpc.ssl_server_certificate_configuration(
            [(own.key_pem, own.certificate_pem)], root_certificates=authority
        )

    def _newest_fingerprint(self) -> Stamp:
        files = (self._files.certificate, self._files.key, self._files.authority)
        try:
            return stat_fingerprint(*files)
        except OSError as error:
            raise CertificateError(f"cannot read the credential: {error}") from None
