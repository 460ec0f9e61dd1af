"""`moma-client doctor`: whether this site could take part, and if not, what to do.

Nothing is sent but handshakes and requests for the teacher's card and the site's
budget; with `--ask` the reference patch, which is one patch of the budget.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path

from moma_client.config.site import SiteConfig
from moma_client.reports.doctor.environment import (
    look_at_device,
    look_at_disk,
    look_at_students,
)
from moma_client.reports.doctor.identity import (
    look_at_certificate,
    look_at_clock,
    look_at_keys,
)
from moma_client.reports.doctor.network import look_at_coordinator, look_at_pages
from moma_client.reports.doctor.teacher import TeacherLook
from moma_client.student.checks import (
    look_at_fallback,
    look_at_patches,
    look_at_pictures,
    look_at_task,
)
from moma_client.student.factory import scenario_of
from moma_core.data.checks.pictures import SAMPLE
from moma_core.data.patch import TRAIN, PatchSource
from moma_core.data.sources.factory import open_source
from moma_core.errors import ConfigError, MomaError, RefusedError
from moma_core.runtime.finding import Finding, found_by


def examine(
    path: Path, *, ask: bool, now: datetime, all_pictures: bool = False
) -> Iterator[Finding]:
    """Yields one finding after the other, in the order in which to mend them.

    Args:
        path: The site's config file.
        ask: Whether to query the reference patch.
        now: The present, with a time zone.
        all_pictures: Whether to open each picture, and not a sample.
    """
    seen: list[Finding] = []
    for finding in _examine(path, seen, ask=ask, now=now, all_pictures=all_pictures):
        seen.append(finding)
        yield finding


def _examine(
    path: Path, seen: list[Finding], *, ask: bool, now: datetime, all_pictures: bool
) -> Iterator[Finding]:
    try:
        config = SiteConfig.from_yaml(path)
    except ConfigError as error:
        first, *more = str(error).splitlines()
        yield Finding("config", "problem", first, more=tuple(more))
        return
    yield Finding("config", "ok", f"{path} is valid, of site {config.site}")
    yield from found_by("keys", lambda: look_at_keys(config))
    yield from found_by("certificate", lambda: look_at_certificate(config, now))
    yield from found_by("clock", lambda: look_at_clock(config, now))
    data = _DataLook(config)
    yield from found_by("data", data.counts)
    if data.found is not None:
        yield from found_by("pictures", lambda: data.pictures(all_of_them=all_pictures))
    yield from found_by("ports", lambda: look_at_pages(config))
    yield from found_by("device", lambda: look_at_device(config))
    teachers = [TeacherLook(each) for each in config.each_teacher]
    for teacher in teachers:
        found = _look_at_teacher(teacher, data, ask=ask)
        yield from _named(found, teacher) if config.teachers else found
    source = data.found
    if config.teachers and source is not None:
        yield from found_by("scenario", lambda: _fallback(config, source, teachers))
    yield from found_by("coordinator", lambda: look_at_coordinator(config))
    yield from found_by("disk", lambda: look_at_disk(config, source, teachers))
    if source is not None:
        fetch = exit_error(seen) is None
        for teacher in teachers:
            look = partial(look_at_students, teacher.config, source, teacher.found)
            found = found_by("student", partial(look, fetch=fetch))
            yield from _named(found, teacher) if config.teachers else found


def _look_at_teacher(
    teacher: TeacherLook, data: "_DataLook", *, ask: bool
) -> Iterator[Finding]:
    yield from found_by("teacher", teacher.card)
    source, card = data.found, teacher.found
    if card is None:
        return
    yield from found_by("terms", teacher.terms)
    if data.is_sound:
        yield from found_by("budget", teacher.budget)
    yield from found_by("reference patch", lambda: teacher.reference(ask=ask))
    if source is not None:
        yield from found_by(
            "scenario", lambda: look_at_task(teacher.config, source, card)
        )


def _fallback(
    config: SiteConfig, source: PatchSource, teachers: Sequence[TeacherLook]
) -> Iterator[Finding]:
    """Yields whether all of several teachers are irrelevant."""
    classes = source.class_names
    known = [
        scenario_of(each.config, each.found, classes) for each in teachers if each.found
    ]
    if len(known) == len(teachers):
        yield from look_at_fallback(config, known)


def _named(findings: Iterator[Finding], teacher: TeacherLook) -> Iterator[Finding]:
    """Yields findings that say of which of several teachers they are."""
    for each in findings:
        text = each.text.removeprefix(f"{teacher.name}: ")
        facts = {**each.facts, "teacher": teacher.name}
        yield replace(each, text=f"{teacher.name}: {text}", facts=facts)


class _DataLook:
    """Looks at the patches step by step.

    Args:
        config: Settings of this site.

    Attributes:
        found: Patches, once they were opened and there is one to train on.
        is_sound: Whether they were opened, and no problem was found.
    """

    def __init__(self, config: SiteConfig) -> None:
        self._config = config
        self.found: PatchSource | None = None
        self.is_sound = False

    def counts(self) -> Iterator[Finding]:
        """Yields what there is by class and split, and whether it can be learned.

        Raises:
            DataError: The patches cannot be read, or break a rule, such as a patient in
                two splits.
        """
        source = open_source(self._config.data)
        if len(source.index.rows(TRAIN, labelled=True)):
            self.found = source
        findings = list(look_at_patches(self._config, source))
        self.is_sound = all(finding.state != "problem" for finding in findings)
        yield from findings

    def pictures(self, *, all_of_them: bool) -> Iterator[Finding]:
        """Yields what pictures look like; names those that cannot be read."""
        if self.found is not None:
            yield from look_at_pictures(
                self._config, self.found, all_of_them=all_of_them, sample=SAMPLE
            )


def exit_error(findings: list[Finding]) -> MomaError | None:
    """Returns with what the program ends: None where there is no problem."""
    problems = [finding for finding in findings if finding.state == "problem"]
    if not problems:
        return None
    names = ", ".join(dict.fromkeys(finding.check for finding in problems))
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    message = f"{count}: {names}"
    if all(finding.refused for finding in problems):
        return RefusedError(message)
    return ConfigError(message)
