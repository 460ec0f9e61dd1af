"""Renews a certificate when two thirds of its life are over.

The programs read their certificate anew at each new connection, so that the file's
change is all that a renewal needs. How a new one is got is the caller's: from the
coordinator, or from the CA's key where it lies.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from moma_core.errors import CertificateError, MomaError
from moma_core.pki.certificates import check_own_certificate, life
from moma_core.pki.identity import PeerName
from moma_core.pki.key_files import open_key
from moma_core.runtime.files import write_private

_logger = logging.getLogger(__name__)

RENEWED_AFTER = 2 / 3  # of a certificate's life

LONGEST_PAUSE_SECONDS = 60.0

_SHORTEST_PAUSE_SECONDS = 0.5
_LOOKS_IN_A_LIFE = 30
_URGENT_SHARE = 1 / 6  # of its life is left, and it could not be renewed

Renew = Callable[[bytes, bytes], bytes]
"""Is given the certificate, PEM, and its key, unencrypted; returns the next one."""


@dataclass(frozen=True, slots=True)
class IdentityFiles:
    """Where a party's certificate and key lie, and its federation's CA certificate.

    Args:
        certificate: The party's certificate with its chain, PEM.
        key: The party's private key, PEM; encrypted if there is a passphrase file.
        authority: The federation's CA certificate, PEM.
        passphrase_file: Holds what the key is encrypted with; None: it is not.
    """

    certificate: Path
    key: Path
    authority: Path
    passphrase_file: Path | None = None


class CertificateRenewer:
    """Looks after one certificate, from a thread of its own.

    Args:
        own: The certificate's owner.
        files: Where the certificate lies.
        renew: Gets the next certificate; None: nobody renews it, it is only watched.
        clock: Returns the present, with a time zone.
    """

    def __init__(
        self,
        own: PeerName,
        files: IdentityFiles,
        renew: Renew | None,
        *,
        clock: Callable[[], datetime],
    ) -> None:
        self._own, self._files, self._renew = own, files, renew
        self._clock = clock
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name=f"renewal-{own.kind}", daemon=True
        )

    def start(self) -> None:
        """Begins to look."""
        self._thread.start()

    def stop(self) -> None:
        """Stops; a renewal that is under way is not waited for."""
        self._stop.set()

    def look(self) -> float:
        """Renews the certificate if it is time, and returns the seconds to wait.

        What goes wrong is logged, and tried again with the next look.
        """
        try:
            certificate = self._files.certificate.read_bytes()
            begin, end = life(certificate)
        except (OSError, CertificateError) as error:
            _logger.warning("the certificate of %s: %s", self._own, error)
            return LONGEST_PAUSE_SECONDS
        now = self._clock()
        if now >= renewal_time(certificate):
            try:
                self._renew_now(certificate, now)
            except (MomaError, OSError) as error:
                is_urgent = end - now < _URGENT_SHARE * (end - begin)
                level = logging.ERROR if is_urgent else logging.WARNING
                text = "the certificate of %s, good until %s, was not renewed: %s"
                _logger.log(level, text, self._own, end.isoformat(), error)
        pause = (end - begin).total_seconds() / _LOOKS_IN_A_LIFE
        return min(max(pause, _SHORTEST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)

    def _renew_now(self, certificate: bytes, now: datetime) -> None:
        if self._renew is None:
            raise CertificateError(
                "the config names no address of the coordinator's enrolment"
            )
        key = open_key(self._files.key, self._files.passphrase_file)
        renewed = self._renew(certificate, key)
        check_own_certificate(
            renewed,
            authority_pem=self._files.authority.read_bytes(),
            own=self._own,
            key_pem=key,
            now=now,
        )
        _, end = life(renewed)
        if end <= life(certificate)[1]:
            raise CertificateError("the new certificate does not outlive the old one")
        write_private(self._files.certificate, renewed)
        _logger.info(
            "the certificate of %s was renewed, until %s", self._own, end.isoformat()
        )

    def _run(self) -> None:
        while not self._stop.wait(self.look()):
            pass


def renewal_time(certificate_pem: bytes) -> datetime:
    """Returns when two thirds of a certificate's life are over.

    Raises:
        CertificateError: It cannot be read.
    """
    begin, end = life(certificate_pem)
    return begin + RENEWED_AFTER * (end - begin)


def expiry_time(certificate: Path) -> float:
    """Returns the last moment of a certificate, in seconds since 1970.

    One that cannot be read counts as over, 0: whoever waits for its end is to hear of
    that, too.

    Args:
        certificate: The file, PEM; of a chain, the first one is read.
    """
    try:
        return life(certificate.read_bytes())[1].timestamp()
    except (OSError, CertificateError):
        return 0.0


def renewal_due(certificate: Path) -> float:
    """Returns when a certificate is to be renewed, in seconds since 1970.

    0 where it cannot be read: then nobody can renew it.

    Args:
        certificate: The file, PEM; of a chain, the first one is read.
    """
    try:
        return renewal_time(certificate.read_bytes()).timestamp()
    except (OSError, CertificateError):
        return 0.0
