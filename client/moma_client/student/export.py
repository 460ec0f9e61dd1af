"""`moma-client export`: a student with a signed card, to be used anywhere.

What is written may leave the site by hand, so the card holds what passed egress: the
figures that were disclosed to the coordinator, and counts rounded to tens.
"""

import io
import json
import shutil
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

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
from moma_client.student.provenance import provenance_of
from moma_client.student.runs import CARD, find_run, find_student
from moma_core.data.stain_normalisation import StainTarget
from moma_core.end_to_end.signatures import STUDENT_CARD, SigningKey, sign_file
from moma_core.errors import ConfigError
from moma_core.models.backbone import Normalise
from moma_core.models.encoder import Encoder
from moma_core.runtime.files import make_empty_folder
from moma_core.teacher.card.licence import Licence

Format = Literal["safetensors", "onnx"]

_ONNX_PACKAGES = ("onnx", "onnxscript")


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
    provenance = provenance_of(config, folder, card, str(key.public))
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
                "pictures": card.decoding or "not known how they were decoded",
                "microns a pixel": card.resolution_mpp or "not known",
                "side of a patch, read before it is shrunk": _side(card),
                "stain normalisation": _stain(card.stain_normalisation),
                **_of_teacher(card, provenance),
                "weights (SHA-256)": card.digest,
                "signed by": provenance.site_key,
            }
        ),
        f"Patches, {provenance.rounding['patches']}:",
        _table(provenance.patches),
        "## Figures",
        *_figures(provenance),
        *_terms(card, provenance),
        "## Made with",
        _table(provenance.versions),
    ]
    return "\n\n".join(parts) + "\n"


def _side(card: StudentCard) -> str:
    side = card.patch_size_px
    return "not known, or not one" if side is None else f"{side} px"


def _stain(target: StainTarget | None) -> str:
    if target is None:
        return "none"
    return (
        f"{target.method}: patches get the colours of a target, whose numbers are in "
        f"`{CARD}`"
    )


def _figures(provenance: Provenance) -> list[str]:
    if not provenance.figures:
        return ["None may leave the site."]
    said = (
        f"As they were disclosed to the coordinator, {provenance.rounding['figures']}:"
    )
    return [said, _table(provenance.figures)]


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
        *_forbidden(licence),
        f"Digest of these terms, which the site accepted: {provenance.terms}",
    ]


def _forbidden(licence: Licence) -> list[str]:
    if not licence.forbids_derived_models:
        return []
    return [
        "The licence forbids derived models; the site says that its teacher's owner "
        "permitted this one."
    ]


def _table(rows: Mapping[str, object]) -> str:
    head = ["| | |", "|---|---|"]
    return "\n".join([*head, *(f"| {key} | {rows[key]} |" for key in rows)])


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
    `stain_normalisation` is what pixels need before the network, or null.
    `patch_size_px` is the side at which patches were read before they became views, or
    null.
    """
    stain = card.stain_normalisation
    values = {
        "class_names": card.class_names,
        "view_size_px": card.view_size_px,
        "mean": card.mean,
        "std": card.std,
        "temperature": card.temperature,
        "resolution_mpp": card.resolution_mpp,
        "patch_size_px": card.patch_size_px,
        "stain_normalisation": stain and asdict(stain),
        "architecture": card.architecture,
        "weights_sha256": card.digest,
    }
    return {key: json.dumps(value) for key, value in values.items()}
