"""What a config may say, and seldom means."""

from collections.abc import Iterator

from moma_client.config.site import PUBLIC_SETS, EgressSection, SiteConfig
from moma_core.distillation.methods.names import Method, uses_outputs
from moma_core.runtime.finding import Finding

_FEW_PATIENTS = 3  # figures on fewer tell of a person


def look_at_slips(config: SiteConfig) -> Iterator[Finding]:
    """Yields keys of a config that contradict each other or give away too much.

    Args:
        config: Settings of this site.
    """
    yield from _students(config)
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
