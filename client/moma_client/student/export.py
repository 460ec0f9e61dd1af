"""`moma-client export`: a student with a signed card, to be used anywhere.

What is written may leave the site by hand, so the card holds what passed egress: the
figures that were disclosed to the coordinator, and counts rounded to tens.
"""

import io
import json
import platform
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from moma_client.config.site import SiteConfig
from moma_client.student.files import (
    WEIGHTS,
    LearnedFrom,
    Provenance,
    StudentCard,
    load_student,
)
from moma_client.student.runs import CARD, find_run, find_student
from moma_client.teacher.usage import read_queries
from moma_core.data.patch import TRAIN, UNSEEN, VALIDATION
from moma_core.data.sources.factory import open_source
from moma_core.end_to_end.signatures import STUDENT_CARD, SigningKey, sign_file
from moma_core.errors import ConfigError
from moma_core.federation.disclosure import COUNT_STEP, rounded_patch_count
from moma_core.models.backbone import Normalise
from moma_core.models.encoder import Encoder
from moma_core.runtime.files import make_empty_folder
from moma_core.teacher.card.licence import terms_digest

Format = Literal["safetensors", "onnx"]

_ONNX_PACKAGES = ("onnx", "onnxscript")

_TOOLS = ("moma-service", "torch", "timm", "safetensors")


def export_student(
    config: SiteConfig, out: Path, *, run: str | None, method: str, form: Format
) -> list[Path]:
    """Returns the files that it wrote.

    Args:
        config: Settings of this site.
        out: Folder to write to; it must be empty.
        run: Name of the run, or of its folder; None for the newest.
        method: "moma", or a baseline's name.
        form: `onnx` writes that file beside the safetensors file.

    Raises:
        ConfigError: There is no such student, or a package is missing.
        CertificateError: The signing key cannot be read.
        DataError: Patches cannot be read.
    """
    identity = config.identity
    key = SigningKey.load(identity.signing_key, identity.passphrase_file)
    if form == "onnx":
        _check_onnx()
    folder = find_run(config, run)
    trained = find_student(folder, method)
    student, card = load_student(trained)
    provenance = _provenance(config, folder, card, str(key.public))
    card = replace(card, provenance=provenance)
    make_empty_folder(out)
    shutil.copyfile(trained / WEIGHTS, out / WEIGHTS)
    (out / CARD).write_text(card.to_json(), "utf-8")
    (out / "MODEL_CARD.md").write_text(model_card(card, provenance), "utf-8")
    written = [out / WEIGHTS, out / CARD, out / "MODEL_CARD.md"]
    written.append(sign_file(out / CARD, key, STUDENT_CARD))
    if form == "onnx":
        written.append(_write_onnx(student, card, out))
    return written


def _provenance(
    config: SiteConfig, run: Path, card: StudentCard, site_key: str
) -> Provenance:
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
            last = json.loads(line)
            return last["told"], last.get("decimals")
    if any(lines):
        raise ConfigError(
            f"{record} holds no whole line, so the card cannot say which figures were "
            f"disclosed: restore it, or train one more round"
        )
    return {}, None


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
                "temperature": "none was fitted"
                if card.temperature is None
                else f"{card.temperature:g}: divide the logits by it before a softmax",
                **_of_teacher(card, provenance),
                "weights (SHA-256)": card.digest,
                "signed by": provenance.site_key,
            }
        ),
        "Patches:",
        _rounded_table(provenance.patches, provenance.rounding["patches"]),
        "## Figures",
        _rounded_table(provenance.figures, provenance.rounding["figures"])
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
        "patches asked": _queries(provenance, "patches_asked"),
        "patches charged to the site": _queries(provenance, "patches_charged"),
        **{f"of {each.name}": _of_one(each, provenance) for each in card.teachers},
    }


def _of_one(teacher: LearnedFrom, provenance: Provenance) -> str:
    counts = provenance.queries.get(teacher.name, {})
    asked, charged = counts.get("asked"), counts.get("charged")
    return (
        f"weight {teacher.weight:.3f} in the last round; "
        f"{'?' if asked is None else asked} patches asked, "
        f"{'?' if charged is None else charged} charged; scenario {teacher.scenario}"
    )


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


def _rounded_table(rows: Mapping[str, object], rounding: str) -> str:
    return _table({key: f"{value} ({rounding})" for key, value in rows.items()})


def _queries(
    provenance: Provenance, name: Literal["patches_asked", "patches_charged"]
) -> str:
    value = getattr(provenance, name)
    return "not known" if value is None else f"{value} ({provenance.rounding[name]})"


class _Logits(nn.Module):
    """From uint8 pixels to logits, normalisation included."""

    def __init__(self, student: Encoder, normalise: Normalise) -> None:
        super().__init__()
        self.student, self.normalise = student, normalise

    def forward(self, pixels: Tensor) -> Tensor:
        """Returns (N, C) logits of (N, 3, H, W) uint8 pixels."""
        logits: Tensor = self.student(self.normalise(pixels)).logits
        return logits


def _check_onnx() -> None:
    """Refuses to begin what would fail at its end.

    Raises:
        ConfigError: A package is missing.
    """
    missing = [name for name in _ONNX_PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"ONNX needs {' and '.join(missing)}: pip install 'moma-service[onnx]'; "
            f"--format safetensors needs nothing"
        )


def _write_onnx(student: Encoder, card: StudentCard, folder: Path) -> Path:
    """Writes `student.onnx`: `pixels` (N, 3, H, W) uint8 to `logits` (N, C).

    What one needs to use it stands in its metadata: class names, size, mean, std.

    Args:
        student: Network with its weights.
        card: Card of the student.
        folder: Folder to write to.
    """
    import onnx

    path = folder / "student.onnx"
    network = _Logits(student, Normalise(card.mean, card.std)).eval()
    side = card.view_size_px
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the exporter's own, of its own insides
        torch.onnx.export(
            network,
            (torch.zeros(2, 3, side, side, dtype=torch.uint8),),
            path,
            input_names=["pixels"],
            output_names=["logits"],
            dynamic_shapes={"pixels": {0: torch.export.Dim("patches")}},
            external_data=False,
            verbose=False,
        )
    model = onnx.load(path)
    onnx.helper.set_model_props(model, onnx_metadata(card))
    onnx.save(model, path)
    return path


def onnx_metadata(card: StudentCard) -> dict[str, str]:
    """Returns what stands in a student's ONNX file beside its weights, as JSON values.

    `mean` and `std` are those that the network applies itself: `pixels` are uint8.
    `temperature` is what its logits are to be divided by before a softmax, or null.
    """
    values = {
        "class_names": card.class_names,
        "view_size_px": card.view_size_px,
        "mean": card.mean,
        "std": card.std,
        "temperature": card.temperature,
        "architecture": card.architecture,
        "weights_sha256": card.digest,
    }
    return {key: json.dumps(value) for key, value in values.items()}
