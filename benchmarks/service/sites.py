"""How a site reaches each of the services, with its keys and its gate."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

import grpc

from benchmarks.service.askers import (
    Asker,
    BareAsker,
    SealedAsker,
    SiteAsker,
)
from benchmarks.service.federation import (
    FEDERATION,
    HOST,
    SITE,
    TEACHER,
    Federation,
    now,
)
from moma_client.audit.log_monitor import LogMonitor, LogProofs
from moma_client.audit.receipts import ReceiptStore
from moma_client.egress.log import log_path
from moma_client.egress.to_teacher import SendingPolicy, TeacherEgress
from moma_client.identity.pinned_teacher import PinnedTeacher
from moma_client.metrics import silent_metrics
from moma_client.teacher.channel import (
    LARGEST_RESPONSE_BYTES,
    TeacherAddress,
    TeacherChannel,
)
from moma_client.teacher.pipeline import RequestPipeline
from moma_client.teacher.remote_teacher import RemoteTeacher, RemoteTeacherSettings
from moma_client.teacher.retry import Retries, RetryLimits, StoppableWait
from moma_client.teacher.sealed_client import RequestSealer, SealedTeacherClient
from moma_core.audit.receipt import Receipt
from moma_core.teacher.query import PatchQuery
from moma_server.teacher.inference.backend import TeacherBackend

_ANSWER_SECONDS = 120.0


@contextmanager
def bare_asker(
    federation: Federation, backend: TeacherBackend, port: int, most: int
) -> Iterator[Asker]:
    """Asks the bare service over mutual TLS."""
    files = federation.files(SITE)
    credentials = grpc.ssl_channel_credentials(
        files.authority.read_bytes(),
        files.key.read_bytes(),
        files.certificate.read_bytes(),
    )
    options = [
        ("grpc.max_receive_message_length", LARGEST_RESPONSE_BYTES),
        ("grpc.max_send_message_length", -1),
    ]
    with grpc.secure_channel(f"{HOST}:{port}", credentials, options) as channel:
        asker = BareAsker(channel, backend, most)
        try:
            yield asker
        finally:
            asker.close()


@contextmanager
def sealed_asker(
    federation: Federation,
    port: int,
    *,
    logged: bool,
    relayed: bool = False,
    site: str = SITE,
) -> Iterator[Asker]:
    """Asks by the site's own calls.

    Args:
        federation: Its keys.
        port: Of the teacher or the relay.
        logged: Whether answers have receipts, which are checked and kept.
        relayed: Whether the port is a relay's.
        site: Who asks.
    """
    wait = StoppableWait(threading.Event())
    pinned = _end_to_end(federation, site)
    address = address_of(federation, port, relayed=relayed, site=site)
    channel = TeacherChannel(address, wait, now)
    metrics = silent_metrics()
    monitor = LogMonitor(pinned, metrics.count_mismatch)
    client = SealedTeacherClient(
        channel,
        RequestSealer(pinned, now),
        TeacherEgress(_policy(federation, site), metrics),
        monitor.check_trusted,
    )
    receipts = ReceiptStore(pinned, LogProofs(client, monitor).see)
    retries = Retries(RetryLimits(), wait, _chance(), on_lost=channel.close)
    description = retries.retry(client.describe).description

    def on_response(receipt: Receipt | None, query: PatchQuery) -> None:
        if logged:
            receipts.keep(receipt, query, client.card)

    pipeline = RequestPipeline(
        client.embed,
        client,
        description.card,
        on_response=on_response,
        retries=retries,
        take=lambda inbox: wait.take(inbox, _ANSWER_SECONDS),
    )
    try:
        yield SealedAsker(pipeline, description.bounds.max_patches)
    finally:
        pipeline.close()
        channel.close()


@contextmanager
def site_asker(federation: Federation, port: int) -> Iterator[Asker]:
    """Asks as a site that trains."""
    teacher = RemoteTeacher(
        RemoteTeacherSettings(
            address_of(federation, port, relayed=False),
            _end_to_end(federation),
            patches_per_request=256,
            answer_deadline_seconds=_ANSWER_SECONDS,
            egress=_policy(federation),
        ),
        run_key=os.urandom(16),
        stop=threading.Event(),
        metrics=silent_metrics(),
        random=_chance(),
        now=now,
    )
    asker = SiteAsker(teacher)
    try:
        yield asker
    finally:
        asker.close()
        teacher.close()


def address_of(
    federation: Federation, port: int, *, relayed: bool, site: str = SITE
) -> TeacherAddress:
    """Returns how a site reaches a port of the teacher, or of the relay."""
    files = federation.files(site)
    return TeacherAddress(
        name=TEACHER,
        address=f"{HOST}:{port}",
        authority=files.authority,
        certificate=files.certificate,
        key=files.key,
        is_relayed=relayed,
    )


def _end_to_end(federation: Federation, site: str = SITE) -> PinnedTeacher:
    home = federation.home(site)
    return PinnedTeacher(
        federation=FEDERATION,
        site=site,
        signing_key=home / "signing.key",
        teacher=TEACHER,
        teacher_key=federation.key(TEACHER).public,
        floor="mlkem768-x25519",
        card_memory=home / "card-seen.json",
        receipts=home / "receipts.jsonl",
    )


def _policy(federation: Federation, site: str = SITE) -> SendingPolicy:
    return SendingPolicy(log=log_path(federation.home(site)))


def _chance() -> Random:
    return Random(0)  # noqa: S311 - only spreads pauses
