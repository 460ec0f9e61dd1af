"""The doctor's look at where a site trains: data, device, coordinator, disk."""

import shutil
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from moma_client.bank_folder import BankFolder, bank_section
from moma_client.config import SiteConfig
from moma_client.finding import Finding
from moma_core.data.open import open_source
from moma_core.data.patch import TRAIN, UNKNOWN_PATIENT, UNSEEN, VALIDATION, PatchIndex
from moma_core.errors import ConfigError
from moma_core.teacher.bank_header import PAGE_BYTES
from moma_core.teacher.card import TeacherCard
from moma_core.teacher.view_bank import record_bytes
from moma_core.trust.identity import read_peer

_CONNECT_SECONDS = 10.0
_LITTLE_BYTES = 2 * 2**30  # for checkpoints and students


def look_at_data(config: SiteConfig) -> Iterator[Finding]:
    """Yields how many patches and patients there are, by split.

    Raises:
        DataError: They cannot be read, or break a rule, such as a patient in two
            splits.
    """
    source = open_source(config.data)
    index = source.index
    labelled = len(index.rows(TRAIN, labelled=True))
    counts = (
        f"{labelled} labelled and {len(index.rows(TRAIN, labelled=False))} unlabelled "
        f"to train on, {len(index.rows(VALIDATION))} to validate, "
        f"{len(index.rows(UNSEEN))} unseen; {len(source.class_names)} classes"
    )
    if not labelled:
        yield Finding("data", "problem", f"no labelled patch to train on: {counts}")
        return
    source.read(int(index.rows(TRAIN)[0]))
    yield Finding("data", "ok", counts)
    if not len(index.rows(VALIDATION, labelled=True)):
        text = "no labelled patch to validate on: no figure will be told"
        yield Finding("data", "warning", text)
    yield _patients(index)


def _patients(index: PatchIndex) -> Finding:
    unknown = int((index.patients == UNKNOWN_PATIENT).sum())
    if unknown:
        text = (
            f"{unknown} of {len(index)} patches name no patient: nobody can tell "
            f"whether one is in two splits"
        )
        return Finding("data", "warning", text)
    splits = (TRAIN, VALIDATION, UNSEEN)
    each = [
        f"{split} {len(np.unique(index.patients[index.rows(split)]))}"
        for split in splits
    ]
    return Finding("data", "ok", f"patients, none in two splits: {', '.join(each)}")


def look_at_device(config: SiteConfig) -> Iterator[Finding]:
    """Yields on what the site would train."""
    wanted, has_gpu = config.training.accelerator, torch.cuda.is_available()
    if wanted == "cuda" and not has_gpu:
        text = "training.accelerator is cuda, and torch sees no GPU here"
        yield Finding("device", "problem", text)
    elif has_gpu and wanted != "cpu":
        found, asked = torch.cuda.device_count(), config.training.devices
        text = f"{found} GPU(s), {torch.cuda.get_device_name(0)}; {asked} asked for"
        yield Finding("device", "ok" if found >= asked else "problem", text)
    else:
        threads = config.training.threads or torch.get_num_threads()
        yield Finding("device", "ok", f"the CPU, {threads} thread(s)")


def look_at_coordinator(config: SiteConfig) -> Iterator[Finding]:
    """Yields whether the coordinator answers over TLS as itself.

    Raises:
        ConfigError: The authority's certificate cannot be read.
        NotAdmittedError: Who answers names nobody.
    """
    address = config.coordinator.address
    try:
        context = ssl.create_default_context(cafile=config.identity.authority)
    except OSError as error:
        raise ConfigError(f"cannot read identity.authority: {error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    host, _, port = address.rpartition(":")
    try:
        with (
            socket.create_connection((host, int(port)), _CONNECT_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host) as tls,
        ):
            shown = tls.getpeercert(binary_form=True) or b""
    except ssl.SSLCertVerificationError as error:
        text = f"the certificate at {address} is not acceptable: {error.verify_message}"
        yield Finding("coordinator", "problem", text)
        return
    except (OSError, OverflowError, UnicodeError) as error:
        text = f"cannot reach {address}: {error}"
        yield Finding("coordinator", "problem", text)
        return
    peer = read_peer(ssl.DER_cert_to_PEM_cert(shown).encode())
    if (peer.federation, peer.kind) != (config.federation, "coordinator"):
        text = f"{address} is {peer} of {peer.federation}"
        yield Finding("coordinator", "problem", text)
        return
    yield Finding("coordinator", "ok", f"{address} answers over TLS 1.3")


def look_at_disk(config: SiteConfig, card: TeacherCard | None) -> Iterator[Finding]:
    """Yields whether state_dir has room for the view bank and the students.

    Args:
        config: The site's.
        card: The teacher's; None: it is not known how large the bank gets.
    """
    place = _existing(config.state_dir)
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        raise ConfigError(f"cannot look at {place}: {error}") from None
    needed = _LITTLE_BYTES + (_bank_bytes(config, card) if card is not None else 0)
    text = f"{free / 1e9:.1f} GB free for state_dir, {needed / 1e9:.1f} GB wanted"
    if free < needed:
        yield Finding("disk", "problem", f"{text}: make room, or fewer teacher.views")
    else:
        yield Finding("disk", "ok", text)


def _bank_bytes(config: SiteConfig, card: TeacherCard) -> int:
    section = bank_section(config)
    if section is None:
        return 0
    rows = len(open_source(config.data).index.rows(TRAIN))
    identity = BankFolder(config).identity(card)
    size = record_bytes(identity, sealed=section.bank_key_file is not None)
    return PAGE_BYTES + rows * section.views * size


def _existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
