"""`moma-client export`: a student with a signed card, to be used anywhere.

What is written may leave the site by hand, so the card holds what passed egress: the
figures that the coordinator was told, and counts rounded to tens.
"""

import json
import platform
import shutil
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from moma_client.config.site import SiteConfig
from moma_client.config.teacher import FrozenTeacherSection
from moma_client.student.evaluate import run_folder
from moma_client.student.files import (
    CARD,
    WEIGHTS,
    Provenance,
    StudentCard,
    load_student,
)
from moma_client.student.onnx import check_onnx, write_onnx
from moma_client.teacher.usage import read_queries
from moma_core.data.patch import TRAIN, UNSEEN, VALIDATION
from moma_core.data.sources.factory import open_source
from moma_core.end_to_end.signatures import STUDENT_CARD, SigningKey, sign_file
from moma_core.federation.disclosure import COUNT_STEP, rounded_patch_count
from moma_core.runtime.files import make_empty_folder
from moma_core.teacher.card.licence import terms_digest

Format = Literal["safetensors", "onnx"]

_TOOLS = ("moma-service", "torch", "timm", "safetensors")


def export_student(
    config: SiteConfig, out: Path, *, run: str | None, method: str, form: Format
) -> list[Path]:
    """Returns the files that it wrote.

    Args:
        config: The site's.
        out: A folder that does not hold anything yet.
        run: None for the newest.
        method: "moma", or a baseline's name.
        form: onnx: beside the safetensors file, which is written in any case.

    Raises:
        ConfigError: There is no such student, or a package is missing.
        CertificateError: The signing key cannot be read.
        DataError: Patches cannot be read.
    """
    identity = config.identity
    key = SigningKey.load(identity.signing_key, identity.passphrase_file)
    if form == "onnx":
        check_onnx()
    folder = run_folder(config, run)
    student, card = load_student(folder / method)
    provenance = _provenance(config, folder, card, str(key.public))
    card = replace(card, provenance=provenance)
    make_empty_folder(out)
    shutil.copyfile(folder / method / WEIGHTS, out / WEIGHTS)
    (out / CARD).write_text(card.to_json(), "utf-8")
    (out / "MODEL_CARD.md").write_text(model_card(card, provenance), "utf-8")
    written = [out / WEIGHTS, out / CARD, out / "MODEL_CARD.md"]
    written.append(sign_file(out / CARD, key, STUDENT_CARD))
    if form == "onnx":
        written.append(write_onnx(student, card, out))
    return written


def _provenance(
    config: SiteConfig, run: Path, card: StudentCard, site_key: str
) -> Provenance:
    queries = read_queries(run) if card.teacher else None
    licence = card.teacher_licence
    return Provenance(
        federation=config.federation,
        site=config.site,
        site_key=site_key,
        run=run.name,
        date=datetime.now(UTC).date().isoformat(),
        teacher_key=config.teacher.key or "" if card.teacher else "",
        terms=terms_digest(card.teacher, licence) if licence else "",
        patches_asked=_disclosed_queries(config, queries and queries.asked),
        patches_charged=_disclosed_queries(config, queries and queries.charged),
        patches=_patches(config),
        figures=_figures(config, run, card.method),
        versions={
            "python": platform.python_version(),
            **{name: version(name) for name in _TOOLS},
        },
    )


def _disclosed_queries(config: SiteConfig, count: int | None) -> int | None:
    """Divided by the views, an exact number would be that of the patches."""
    if count is None:
        return None
    teacher = config.teacher
    views = teacher.views if isinstance(teacher, FrozenTeacherSection) else 1
    step = COUNT_STEP * max(1, views)
    return round(count / step) * step


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


def _figures(config: SiteConfig, run: Path, method: str) -> dict[str, float]:
    """Returns what was last told of a student."""
    try:
        lines = (run / "figures.jsonl").read_text("utf-8").splitlines()
        told: dict[str, float] = json.loads(lines[-1])["told"]
    except (OSError, ValueError, KeyError, IndexError):
        return {}
    if method == "moma":
        others = tuple(f"{name}_" for name in config.baselines)
        return {name: v for name, v in told.items() if not name.startswith(others)}
    prefix = f"{method}_"
    return {
        name.removeprefix(prefix): value
        for name, value in told.items()
        if name.startswith(prefix)
    }


def model_card(card: StudentCard, provenance: Provenance) -> str:
    """Returns `MODEL_CARD.md`; what is signed is `student.json`."""
    size = card.view_size_px
    parts = [
        f"# Student `{card.method}` of site {provenance.site}",
        f"{card.architecture}, patches of {size} x {size} px in RGB, normalised by "
        f"mean {list(card.mean)} and standard deviation {list(card.std)} of pixels in "
        f"[0, 1]. It tells {len(card.class_names)} classes apart, in this order:",
        "\n".join(f"1. {name}" for name in card.class_names),
        "It is a research model. It was not validated for diagnosis.",
        "## Where it comes from",
        _table(
            {
                "federation": provenance.federation,
                "run": provenance.run,
                "date": provenance.date,
                "optimiser steps": card.steps,
                **_of_teacher(card, provenance),
                "weights (SHA-256)": card.digest,
                "signed by": provenance.site_key,
            }
        ),
        "Patches, rounded to tens:",
        _table(provenance.patches),
        "## Figures",
        _table(provenance.figures)
        if provenance.figures
        else "None may leave the site.",
        *_terms(card, provenance),
        "## Made with",
        _table(provenance.versions),
    ]
    return "\n\n".join(parts) + "\n"


def _of_teacher(card: StudentCard, provenance: Provenance) -> dict[str, object]:
    if not card.teacher:
        return {"teacher": "none"}
    return {
        "teacher": card.teacher,
        "teacher's key": provenance.teacher_key or "none was pinned",
        "teacher's weights (SHA-256)": card.teacher_digest,
        "scenario": card.scenario,
        "patches asked": _known(provenance.patches_asked),
        "patches charged to the site": _known(provenance.patches_charged),
    }


def _terms(card: StudentCard, provenance: Provenance) -> list[str]:
    licence = card.teacher_licence
    if licence is None:
        return []
    return [
        "## Terms of its teacher",
        f"Licence: {licence.name}",
        licence.text,
        f"Derived models: {licence.derived_models}",
        f"This student may {'' if licence.may_publish else 'not '}be published and "
        f"may {'' if licence.may_sell else 'not '}be sold.",
        f"Digest of these terms, which the site accepted: {provenance.terms}",
    ]


def _table(rows: Mapping[str, object]) -> str:
    head = ["| | |", "|---|---|"]
    return "\n".join([*head, *(f"| {key} | {rows[key]} |" for key in rows)])


def _known(value: int | None) -> object:
    return "not known" if value is None else value
