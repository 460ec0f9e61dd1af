"""The edge's certificate, which may be renewed while the edge runs."""

import logging
import ssl
from pathlib import Path

from moma_core.errors import CertificateError
from moma_core.pki.key_files import open_key, read_passphrase
from moma_core.pki.validity import check_pair
from moma_core.runtime.followed import stamp_of

_logger = logging.getLogger(__name__)


class EdgeCertificate:
    """Puts a renewed certificate into a TLS context that is in use.

    Args:
        certificate: PEM, with its chain.
        key: PEM.
        passphrase_file: With which the key is encrypted; None: it is not.

    Raises:
        CertificateError: They cannot be read, or do not belong together.
    """

    def __init__(
        self, certificate: Path, key: Path, passphrase_file: Path | None
    ) -> None:
        self._certificate, self._key = certificate, key
        self._passphrase_file = passphrase_file
        self._check()
        self._stamp = stamp_of(certificate, key)

    @property
    def passphrase(self) -> str | None:
        """What opens the key."""
        passphrase = read_passphrase(self._passphrase_file)
        return None if passphrase is None else passphrase.decode()

    def follow(self, context: ssl.SSLContext) -> None:
        """Loads the files again if they have changed; new handshakes see it."""
        try:
            stamp = stamp_of(self._certificate, self._key)
            if stamp == self._stamp:
                return
            self._check()  # half a renewal would leave the context without a key
            context.load_cert_chain(self._certificate, self._key, self.passphrase)
        except (CertificateError, OSError) as error:
            _logger.warning("the edge's old certificate stays in use: %s", error)
            return
        self._stamp = stamp
        _logger.info("the edge's certificate was renewed")

    def _check(self) -> None:
        try:
            certificate = self._certificate.read_bytes()
        except OSError as error:
            raise CertificateError(f"cannot read the credential: {error}") from None
        check_pair(certificate, open_key(self._key, self._passphrase_file))
