"""Who the site is, and who answers at its teacher's address, ahead of every channel."""

import socket
import ssl
import threading
from datetime import datetime
from queue import SimpleQueue

from moma_client.identity.peers import TeacherAddress
from moma_client.teacher.retry import LinkLostError, Patience
from moma_core.errors import CertificateError, NotAdmittedError, TeacherError
from moma_core.pki.certificates import check_issued
from moma_core.pki.identity import Peer, read_peer
from moma_core.pki.key_files import open_key, read_passphrase


def own_identity(teacher: TeacherAddress, now: datetime) -> Peer:
    """Returns who the site is; what is wrong at home is not blamed on others.

    Raises:
        CertificateError: The site's own certificate is not acceptable.
    """
    try:
        pem = teacher.certificate.read_bytes()
        check_issued(pem, teacher.authority.read_bytes())
        own = read_peer(pem)
    except OSError as error:
        raise CertificateError(f"cannot read the site's own {error}") from error
    except NotAdmittedError as error:
        raise CertificateError(f"the site's own certificate: {error}") from error
    if now >= own.not_after:
        end = own.not_after.isoformat()
        message = f"the site's own certificate expired at {end}, renew it"
        raise CertificateError(message)
    return own


def shown_teacher(teacher: TeacherAddress, patience: Patience) -> bytes:
    """Returns the certificate, PEM, that answers at the teacher's address.

    Raises:
        LinkLostError: Nobody answers there.
        NotAdmittedError: The certificate is of another authority or host.
        CertificateError: The site's own files are not acceptable.
        StoppedError: The operator stops the program.
    """
    context = _tls(teacher)
    outcome: SimpleQueue[bytes | TeacherError] = SimpleQueue()

    def knock() -> None:
        try:
            outcome.put(_handshake(teacher, context))
        except TeacherError as failure:
            outcome.put(failure)

    # a thread of its own, because a handshake does not notice the stop
    threading.Thread(target=knock, name="link-handshake", daemon=True).start()
    shown = patience.take(outcome, teacher.connect_deadline_seconds)
    if isinstance(shown, TeacherError):
        raise shown
    return shown


def _tls(teacher: TeacherAddress) -> ssl.SSLContext:
    passphrase = read_passphrase(teacher.passphrase_file)
    open_key(teacher.key, teacher.passphrase_file)  # or OpenSSL asks the terminal
    try:
        context = ssl.create_default_context(cafile=teacher.authority)
        context.load_cert_chain(teacher.certificate, teacher.key, passphrase)
    except OSError as error:
        message = f"the site's own certificate, key or authority: {error}"
        raise CertificateError(message) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    return context


def _handshake(teacher: TeacherAddress, context: ssl.SSLContext) -> bytes:
    host, _ = endpoint = teacher.endpoint
    seconds = teacher.connect_deadline_seconds
    shown: bytes | None = None
    try:
        with (
            socket.create_connection(endpoint, timeout=seconds) as connection,
            context.wrap_socket(connection, server_hostname=host) as tls,
        ):
            shown = tls.getpeercert(binary_form=True)
            is_welcome = tls.recv(1)  # a server speaks first, if it speaks at all
    except ssl.SSLCertVerificationError as error:
        message = f"the certificate at {teacher.address} is not acceptable"
        raise NotAdmittedError(f"{message}: {error.verify_message}") from error
    except (OSError, UnicodeError) as error:  # the latter for a host that is none
        message = f"cannot reach {teacher.address}: {error}"
        if shown:
            message += "; another service may listen there (teacher.address)"
        raise LinkLostError(message) from error
    if not shown or not is_welcome:
        message = f"{teacher.address} hung up on the site's certificate"
        raise LinkLostError(message)
    return ssl.DER_cert_to_PEM_cert(shown).encode()
