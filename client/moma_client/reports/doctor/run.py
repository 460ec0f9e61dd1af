"""`moma-client doctor`: whether this site could take part, and if not, what to do.

Nothing is sent but handshakes and requests for the teacher's card and the site's
budget; with `--ask` the reference patch, which is one patch of the budget.
"""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from moma_client.config.site import SiteConfig
from moma_client.reports.doctor.data import DataLook
from moma_client.reports.doctor.environment import (
    look_at_device,
    look_at_disk,
    look_at_students,
)
from moma_client.reports.doctor.finding import Finding, found_by
from moma_client.reports.doctor.identity import (
    look_at_certificate,
    look_at_clock,
    look_at_keys,
)
from moma_client.reports.doctor.network import look_at_coordinator
from moma_client.reports.doctor.teacher import TeacherLook
from moma_core.errors import ConfigError, MomaError, RefusedError


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
    data = DataLook(config)
    yield from found_by("data", data.counts)
    if data.found is not None:
        yield from found_by("pictures", lambda: data.pictures(all_of_them=all_pictures))
    yield from found_by("device", lambda: look_at_device(config))
    teacher = TeacherLook(config)
    yield from found_by("teacher", teacher.card)
    if teacher.found is not None:
        yield from found_by("terms", teacher.terms)
        if data.found is not None:
            yield from found_by("budget", teacher.budget)
        yield from found_by("golden", lambda: teacher.golden(ask=ask))
    source = data.found
    if source is not None:
        yield from found_by(
            "student", lambda: look_at_students(config, source, teacher.found)
        )
    yield from found_by("coordinator", lambda: look_at_coordinator(config))
    yield from found_by("disk", lambda: look_at_disk(config, source, teacher.found))


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
