"""What a config may say, and seldom means."""

from collections.abc import Iterator

from moma_client.config.site import PUBLIC_SETS, EgressSection, SiteConfig
from moma_core.distillation.methods.names import Method, uses_outputs
from moma_core.distillation.settings import DistillationSettings
from moma_core.runtime.finding import Finding
from moma_core.teacher.pixel_encoding import PixelEncoding
from moma_core.training.settings import TrainingSettings

_FEW_PATIENTS = 3  # figures on fewer tell of a person
_FEW_PATCHES = 1000  # from which a network that starts from nothing learns little
_LOWEST_QUALITY = 70  # of JPEG; below it blocks of 8 px show
_MOST_EPOCHS_HELD = 10  # of keys in a memory bank that is not the usual one
_FEWEST_EPOCHS_WAITED = 3  # for a better figure, which jumps from epoch to epoch


def look_at_slips(config: SiteConfig, *, patches: int) -> Iterator[Finding]:
    """Yields keys of a config that contradict each other or give away too much.

    Args:
        config: Settings of this site.
        patches: Number of patches to train on.
    """
    yield from _students(config)
    yield from _start(config, patches)
    yield from _validation(config.training)
    yield from _encodings(config)
    yield from _egress(config)
    root = getattr(config.data, "root", None)
    if root is not None and config.state_dir.resolve().is_relative_to(root.resolve()):
        text = (
            f"state_dir {config.state_dir} lies in data.root, where pictures that a "
            f"run writes would be read as patches: name a folder elsewhere"
        )
        yield Finding("settings", "problem", text)


def _students(config: SiteConfig) -> Iterator[Finding]:
    twice = [name for name in config.baselines if config.baselines.count(name) > 1]
    if twice:
        text = f"baselines names {twice[0]} more than once: name it once"
        yield Finding("settings", "problem", text)
    students: tuple[Method, ...] = ("moma", *config.baselines)
    if config.training.mixup and all(map(uses_outputs, students)):
        text = (
            f"training.mixup is {config.training.mixup:g}, and no student is trained "
            f"without a teacher, where alone it mixes: leave it out, or add ce to "
            f"baselines"
        )
        yield Finding("settings", "warning", text)


def _start(config: SiteConfig, patches: int) -> Iterator[Finding]:
    student, distillation = config.student, config.distillation
    is_random = student.weights == "random" and student.weights_file is None
    is_trial = config.data.kind in PUBLIC_SETS
    if is_random and patches < _FEW_PATCHES and not is_trial:
        text = (
            f"student.weights is random, and there are {patches} patches to train on: "
            f"a network that has seen no picture learns little from so few; write "
            f"timm or packaged, or name a student.weights_file"
        )
        yield Finding("settings", "warning", text)
    size = distillation.bank_size
    is_set = "bank_size" in distillation.model_fields_set
    if is_set and size > max(_MOST_EPOCHS_HELD * patches, _usual_size()):
        text = (
            f"distillation.bank_size is {size}, and {patches} patches are trained on: "
            f"it is full only after {size // max(1, patches)} epochs, and each step "
            f"compares with all of it; leave it out, and it is {_usual_size()}"
        )
        yield Finding("settings", "warning", text)


def _usual_size() -> int:
    return DistillationSettings().bank_size


def _validation(training: TrainingSettings) -> Iterator[Finding]:
    if 0 < training.patience < _FEWEST_EPOCHS_WAITED:
        text = (
            f"training.patience is {training.patience}: a round ends after so few "
            f"epochs without a better figure, which is often chance; leave it out, and "
            f"a round takes all of its epochs"
        )
        yield Finding("settings", "warning", text)
    if "keep_by" in training.model_fields_set and not training.validates:
        text = (
            f"training.keep_by is {training.keep_by}, and nothing is kept by a figure: "
            f"write keep: best or patience beside it, or leave it out"
        )
        yield Finding("settings", "warning", text)


def _encodings(config: SiteConfig) -> Iterator[Finding]:
    for each in config.each_teacher:
        section = each.teacher
        if not section.is_remote:
            continue
        encoding = PixelEncoding.parse(section.encoding)
        if encoding.is_lossy and encoding.quality < _LOWEST_QUALITY:
            text = (
                f"teacher.encoding is {encoding}: the teacher is shown blocks in the "
                f"place of nuclei; write jpeg:90, or png, which loses nothing, and "
                f"compare: moma-client egress --encoding-report"
            )
            yield Finding("settings", "warning", text)


def _egress(config: SiteConfig) -> Iterator[Finding]:
    egress = config.egress
    if not egress.metrics:
        text = (
            "egress.metrics is empty: no figure leaves, and the coordinator cannot "
            "tell how well the run goes; leave the key out for the usual four"
        )
        yield Finding("egress", "warning", text)
    elif config.data.kind not in PUBLIC_SETS:
        yield from _few_patients(egress)


def _few_patients(egress: EgressSection) -> Iterator[Finding]:
    for key, what in (("min_patients", ""), ("min_class_patients", " of a class")):
        least = getattr(egress, key)
        if least >= _FEW_PATIENTS:
            continue
        people = "one patient" if least == 1 else f"{least} patients"
        text = (
            f"egress.{key} is {least}: a figure{what} on {people} may leave, and tells "
            f"of a person; leave the key out, and it is "
            f"{EgressSection.model_fields[key].default}"
        )
        yield Finding("egress", "warning", text)
