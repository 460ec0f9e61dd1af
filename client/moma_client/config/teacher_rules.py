"""What a site's teachers must be like beside the rest of its config."""

from collections.abc import Sequence

from moma_client.config.teacher import TeacherSection
from moma_core.distillation.methods.names import check_allowed, need_of
from moma_core.errors import ConfigError


def check_alone(
    section: TeacherSection, baselines: Sequence[str], devices: int
) -> None:
    """Refuses a site's one teacher where it does not fit the rest.

    Args:
        section: The teacher.
        baselines: Methods that are trained beside moma.
        devices: On which a student trains.

    Raises:
        ValueError: One sentence, with the key.
    """
    if section.mode == "momentum" and devices > 1:
        raise ValueError(
            f"teacher.mode 'momentum' trains on one device, not on training.devices "
            f"{devices}"
        )
    _check_allowed(baselines, teacher_is_local=not section.is_remote)


def check_several(
    sections: Sequence[TeacherSection], baselines: Sequence[str], devices: int
) -> None:
    """Refuses teachers that cannot teach one student together.

    Args:
        sections: Two teachers at least.
        baselines: Methods that are trained beside moma.
        devices: On which a student trains.

    Raises:
        ValueError: One sentence, with the key.
    """
    _check_names(sections)
    _check_views(sections)
    _check_weights(sections)
    for place, section in enumerate(sections):
        if section.is_updated:
            key = "schedule: frozen" if section.mode == "local" else "mode: frozen"
            raise ValueError(
                f"teachers.{place} follows the student, which only a site's one "
                f"teacher can: {key}, or name it alone"
            )
    if devices > 1:
        raise ValueError(
            f"several teachers train on one device, not on training.devices {devices}"
        )
    _check_baselines(baselines)


def _check_names(sections: Sequence[TeacherSection]) -> None:
    names = [section.name for section in sections if section.is_remote]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"teachers: two are called {name}")


def _check_views(sections: Sequence[TeacherSection]) -> None:
    """A batch shows one view of a patch to all: their caches count views alike."""
    views = {section.views for section in sections if section.caches}
    if len(views) > 1:
        raise ValueError(
            f"teachers have views {' and '.join(map(str, sorted(views)))}: a batch "
            f"shows all of them one view of a patch, so views must be the same"
        )


def _check_weights(sections: Sequence[TeacherSection]) -> None:
    by_agreement = [section.weight == "agreement" for section in sections]
    if not any(by_agreement):
        return
    if not all(by_agreement):
        raise ValueError(
            "teachers: weight is a number of each, or agreement of each: a share and "
            "a measurement cannot be compared"
        )
    for place, section in enumerate(sections):
        if section.is_remote and not section.caches:
            raise ValueError(
                f"teachers.{place}.weight 'agreement' is measured on kept outputs: "
                f"views must be 1 or more"
            )


def _check_baselines(baselines: Sequence[str]) -> None:
    for method in baselines:
        if need_of(method) not in {"nothing", "outputs"}:
            raise ValueError(
                f"baselines: {method} needs the inside of one teacher, and this site "
                f"has several"
            )
    _check_allowed(baselines, teacher_is_local=False)


def _check_allowed(baselines: Sequence[str], *, teacher_is_local: bool) -> None:
    try:
        for method in baselines:
            check_allowed(method, teacher_is_local=teacher_is_local)
    except ConfigError as error:
        raise ValueError(f"baselines: {error}") from error
