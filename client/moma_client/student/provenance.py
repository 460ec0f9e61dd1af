"""Where an exported student comes from, in numbers that may leave the site.

The figures are those that were disclosed to the coordinator; counts are rounded.
"""

import platform
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from moma_client.config.site import SiteConfig
from moma_client.student.files import Provenance, StudentCard
from moma_client.teacher.usage import read_queries
from moma_core.data.patch import TRAIN, UNSEEN, VALIDATION
from moma_core.data.sources.factory import open_source
from moma_core.errors import ConfigError
from moma_core.federation.disclosure import COUNT_STEP, rounded_patch_count
from moma_core.runtime.canonical_json import parsed_json
from moma_core.teacher.card.licence import terms_digest

_TOOLS = ("moma-service", "torch", "timm", "safetensors")


def provenance_of(
    config: SiteConfig, run: Path, card: StudentCard, site_key: str
) -> Provenance:
    """Returns where a student comes from.

    Args:
        config: Settings of this site.
        run: Folder of the run.
        card: Card of the student.
        site_key: Fingerprint of the site's key.

    Raises:
        ConfigError: The record of what was disclosed is damaged.
        DataError: Patches cannot be read.
    """
    queries = _queried(config, run, card)
    disclosed = _disclosed(config, run, card.method)
    return Provenance(
        federation=config.federation,
        site=config.site,
        site_key=site_key,
        run=run.name,
        date=datetime.now(UTC).date().isoformat(),
        teacher_key=_pinned_keys(config, card),
        terms=", ".join(_accepted_terms(card)),
        patches_asked=_sum([each["asked"] for each in queries.values()]),
        patches_charged=_sum([each["charged"] for each in queries.values()]),
        patches=_patches(config),
        figures=disclosed.figures,
        versions={
            "python": platform.python_version(),
            **{name: version(name) for name in _TOOLS},
        },
        rounding={**_rounding(config), "figures": disclosed.rounding},
        queries=queries if card.teachers else {},
    )


def _pinned_keys(config: SiteConfig, card: StudentCard) -> str:
    """Returns the fingerprints that were pinned, of several joined by commas."""
    if not card.teacher:
        return ""
    names = {each.name for each in card.teachers} or {card.teacher}
    sections = [each.teacher for each in config.each_teacher]
    own = [
        each
        for each in sections
        if len(sections) == 1 or not each.is_remote or each.name in names
    ]
    return ", ".join(each.key for each in own if each.key)


def _accepted_terms(card: StudentCard) -> Iterator[str]:
    """Yields the digest of each teacher's terms, where it stated any."""
    if card.teachers:
        stated = {each.name: each.licence for each in card.teachers}
    else:
        stated = {card.teacher: card.teacher_licence}
    for name, licence in stated.items():
        if licence is not None:
            yield terms_digest(name, licence)


def _queried(
    config: SiteConfig, run: Path, card: StudentCard
) -> dict[str, dict[str, int | None]]:
    """Returns what was asked of each teacher, and charged by it, rounded, by name."""
    if card.teachers:
        found = {each.name: read_queries(run, each.name) for each in card.teachers}
    else:
        found = {card.teacher: read_queries(run)} if card.teacher else {}
    return {
        name: {
            "asked": _disclosed_queries(config, queries and queries.asked),
            "charged": _disclosed_queries(config, queries and queries.charged),
        }
        for name, queries in found.items()
    }


def _sum(counts: Sequence[int | None]) -> int | None:
    """Returns a sum; None where one number is not known, or there is none."""
    known = [count for count in counts if count is not None]
    return sum(known) if known and len(known) == len(counts) else None


def _rounding(config: SiteConfig) -> dict[str, str]:
    """Returns how each number of the card is rounded, as it stands beside it."""
    step = _query_step(config)
    return {
        "patches": f"rounded to {COUNT_STEP}, {COUNT_STEP} at least and "
        f"{config.egress.max_patches_told} at most",
        "patches_asked": f"rounded to {step}",
        "patches_charged": f"rounded to {step}",
    }


def _disclosed_queries(config: SiteConfig, count: int | None) -> int | None:
    """Returns a rounded count: an exact one, divided by the views, counts patches."""
    if count is None:
        return None
    step = _query_step(config)
    return round(count / step) * step


def _query_step(config: SiteConfig) -> int:
    return COUNT_STEP * max(1, config.kept_views)


def _patches(config: SiteConfig) -> dict[str, int]:
    index = open_source(config.data).index
    counts = {
        "labelled": len(index.rows(TRAIN, labelled=True)),
        "unlabelled": len(index.rows(TRAIN, labelled=False)),
        VALIDATION: len(index.rows(VALIDATION)),
        UNSEEN: len(index.rows(UNSEEN)),
    }
    most = config.egress.max_patches_told
    return {
        name: rounded_patch_count(n, most) if n else 0 for name, n in counts.items()
    }


class _Disclosed(NamedTuple):
    """Figures of a student that were disclosed last, and how they are rounded."""

    figures: dict[str, float]
    rounding: str


def _disclosed(config: SiteConfig, run: Path, method: str) -> _Disclosed:
    """Returns the figures of a student that were disclosed last.

    Raises:
        ConfigError: The record of them is damaged.
    """
    disclosed, decimals = _disclosed_last(run / "figures.jsonl")
    rounding = "rounded" if decimals is None else f"rounded to {decimals} decimals"
    if method == "moma":
        others = tuple(f"{name}_" for name in config.baselines)
        own = {n: value for n, value in disclosed.items() if not n.startswith(others)}
        return _Disclosed(own, rounding)
    prefix = f"{method}_"
    own = {
        name.removeprefix(prefix): value
        for name, value in disclosed.items()
        if name.startswith(prefix)
    }
    return _Disclosed(own, rounding)


def _disclosed_last(record: Path) -> tuple[dict[str, float], int | None]:
    """Returns figures and decimals of the newest line that a kill has not torn."""
    try:
        lines = record.read_bytes().split(b"\n")
    except FileNotFoundError:
        return {}, None
    except OSError as error:
        raise ConfigError(f"cannot read {record}: {error}") from error
    for line in filter(None, reversed(lines)):
        with suppress(ValueError, KeyError, TypeError):
            last = parsed_json(line)
            return last["told"], last.get("decimals")
    if any(lines):
        raise ConfigError(
            f"{record} holds no whole line, so the card cannot say which figures were "
            f"disclosed: restore it, or train one more round"
        )
    return {}, None
