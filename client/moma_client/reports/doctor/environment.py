"""The doctor's look at where a site trains: device, student, disk."""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from moma_client.cache.folder import CacheFolder
from moma_client.config.site import SiteConfig
from moma_client.identity.state_owner import check_owner
from moma_client.reports.doctor.teacher import TeacherLook
from moma_client.student.factory import (
    check_students,
    make_backbone,
    needs_teachers,
    scenario_of,
)
from moma_core.data.patch import TRAIN, PatchSource
from moma_core.errors import ConfigError
from moma_core.models.backbone import needs_hub
from moma_core.pki.identity import PeerName
from moma_core.runtime.files import disk_fault
from moma_core.runtime.finding import Finding
from moma_core.teacher.cache.header import PAGE_BYTES
from moma_core.teacher.cache.store import record_bytes
from moma_core.teacher.card.card import TeacherCard

_LITTLE_BYTES = 2 * 2**30  # for checkpoints and students


def look_at_device(config: SiteConfig) -> Iterator[Finding]:
    """Yields on what the site would train."""
    wanted, has_gpu = config.training.accelerator, torch.cuda.is_available()
    if wanted == "cuda" and not has_gpu:
        text = "training.accelerator is cuda, and torch sees no GPU here"
        yield Finding("device", "problem", text)
    elif has_gpu and wanted != "cpu":
        found, asked = torch.cuda.device_count(), config.training.devices
        text = f"{found} GPU(s), {torch.cuda.get_device_name(0)}; {asked} asked for"
        if found >= asked:
            yield Finding("device", "ok", text)
        else:
            text += f": set training.devices: {found}"
            yield Finding("device", "problem", text)
    else:
        yield from _look_at_cpu(config)


def _look_at_cpu(config: SiteConfig) -> Iterator[Finding]:
    training, cores = config.training, len(os.sched_getaffinity(0))
    threads = training.threads or torch.get_num_threads()
    yield Finding("device", "ok", f"the CPU, {threads} thread(s)")
    if training.devices > cores:
        text = (
            f"training.devices is {training.devices}, and on this machine trains a CPU "
            f"of {cores} cores: as many processes wait for one another; set 1"
        )
        yield Finding("device", "warning", text)
    if training.precision != "32-true":
        text = (
            f"training.precision is {training.precision}, which is for a GPU, and here "
            f"trains the CPU: set 32-true"
        )
        yield Finding("device", "warning", text)


def look_at_students(
    config: SiteConfig,
    source: PatchSource,
    card: TeacherCard | None,
    *,
    fetch: bool = True,
) -> Iterator[Finding]:
    """Yields whether every student can be made.

    A hub is asked for weights that were never fetched, once all else about the student
    is in order.

    Args:
        config: Settings of this site.
        source: Patches of this site.
        card: Card of the teacher; None: only what all students start from is made.
        fetch: Whether to wait for a hub at all.

    Raises:
        ConfigError: One cannot.
    """
    section = config.student
    is_absent = needs_hub(section)
    if is_absent:
        update = {"student": section.model_copy(update={"weights": "random"})}
        _make_students(config.model_copy(update=update), source, card)
    if fetch or not is_absent:
        _make_students(config, source, card)
    else:
        text = "weights were not fetched from timm's hub while there are problems above"
        yield Finding("student", "warning", text)
    weights = section.weights_file or section.weights
    methods = ", ".join(("moma", *config.baselines))
    text = f"{section.architecture} from {weights}, {config.view_size_px} px: {methods}"
    yield Finding("student", "ok", text)
    if config.training.freeze_stages:
        yield from _frozen(config, len(source.class_names))


def _frozen(config: SiteConfig, classes: int) -> Iterator[Finding]:
    section = config.student.model_copy(
        update={"weights": "random", "weights_file": None}
    )
    network = make_backbone(config.model_copy(update={"student": section}), classes)
    own = set(map(id, network.classifier.parameters()))
    if any(each.requires_grad and id(each) not in own for each in network.parameters()):
        return
    stages = config.training.freeze_stages
    text = (
        f"training.freeze_stages is {stages}: of {section.architecture} only the "
        f"classifier learns, and nothing of the teacher reaches the rest; write "
        f"{stages - 1} or less"
    )
    yield Finding("student", "warning", text)


def _make_students(
    config: SiteConfig, source: PatchSource, card: TeacherCard | None
) -> None:
    """Makes them with a memory bank of a batch: a large one takes a minute to draw."""
    bank = {"bank_size": config.training.batch_size}
    small = config.distillation.model_copy(update=bank)
    config = config.model_copy(update={"distillation": small})
    if card is None:
        make_backbone(config, len(source.class_names))
    else:
        check_students(config, card, source)


def look_at_disk(
    config: SiteConfig, source: PatchSource | None, teachers: Iterable[TeacherLook]
) -> Iterator[Finding]:
    """Yields whether state_dir is this site's, with room for caches and students.

    Args:
        config: Settings of this site.
        source: Patches of this site.
        teachers: Of which it is known how large their caches get, where there are
            patches and their cards were read.

    Raises:
        ConfigError: state_dir is another site's, or cannot be looked at.
    """
    check_owner(config.state_dir, PeerName(config.federation, "site", config.site))
    place = _existing(config.state_dir)
    if (fault := _unwritable(place, config.state_dir)) is not None:
        yield Finding("disk", "problem", fault)
        return
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        raise ConfigError(f"cannot look at {place}: {error}") from None
    needed = _LITTLE_BYTES
    for each in teachers:
        if source is not None and each.found is not None:
            needed += _cache_bytes(each.config, source, each.found)
    text = f"{free / 1e9:.1f} GB free for state_dir, {needed / 1e9:.1f} GB wanted"
    if free < needed:
        yield Finding("disk", "problem", f"{text}: make room, or fewer teacher.views")
    else:
        yield Finding("disk", "ok", text)


def _cache_bytes(config: SiteConfig, source: PatchSource, card: TeacherCard) -> int:
    section = config.teacher
    scenario = scenario_of(config, card, source.class_names)
    if not section.caches or not needs_teachers(config, [scenario]):
        return 0
    rows = len(source.index.rows(TRAIN))
    identity = CacheFolder(config).identity(card)
    size = record_bytes(identity, sealed=section.cache_key_file is not None)
    return PAGE_BYTES + rows * section.views * size


def _unwritable(place: Path, state_dir: Path) -> str | None:
    """Returns why a run could not write into state_dir; None: it can."""
    if not place.is_dir():
        return f"state_dir {state_dir}: {place} is a file; name a folder"
    try:
        with tempfile.TemporaryFile(dir=place):
            return None
    except OSError as error:
        return f"state_dir {state_dir}: {disk_fault(error, place)}"


def _existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
