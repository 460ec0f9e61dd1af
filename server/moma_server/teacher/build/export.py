"""A teacher for a partner whose licence lets it hold the weights: a folder of files.

There it is `teacher.mode: local`; digest, signature, terms and reference patch are
checked as those of any other teacher are.
"""

import base64
import shutil
from dataclasses import replace
from pathlib import Path

from moma_core.end_to_end.signatures import TEACHER_CARD, SigningKey, sign_file
from moma_core.errors import ConfigError
from moma_core.models.backbone import Backbone
from moma_core.models.weights import check_digest, load_weights, save_weights
from moma_core.runtime.files import make_empty_folder
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.card.reference_patch import synthetic_patch
from moma_server.config.server import TeacherSection
from moma_server.teacher.build.card import predict_of, with_reference_patch


def export_teacher(
    section: TeacherSection, out: Path, *, with_classifier: bool
) -> list[Path]:
    """Writes weights, card and signature, and returns their paths.

    Args:
        section: Section of the teacher in the config.
        out: Folder that does not hold anything yet.
        with_classifier: Whether the weights give logits, beside embeddings.

    Raises:
        ConfigError: Card and weights do not fit each other, or `out` is not empty.
        CertificateError: The signing key cannot be read.
    """
    card = TeacherCard.load(section.card)
    source = section.weights_file
    if source is None or section.backend is not None or section.head_file is not None:
        raise ConfigError(
            "teacher export writes teachers of `teacher train`; this one was imported: "
            "its maker's files and licence are what a partner needs"
        )
    check_digest(source, card.digest)
    key = SigningKey.load(section.signing_key, section.identity.passphrase_file)
    make_empty_folder(out)
    weights = out / "weights.safetensors"
    if with_classifier:
        shutil.copyfile(source, weights)
    else:
        card = _without_classifier(card, source, weights)
    card.save(out / "card.json")
    signature = sign_file(out / "card.json", key, TEACHER_CARD)
    return [weights, out / "card.json", signature]


def _without_classifier(card: TeacherCard, source: Path, target: Path) -> TeacherCard:
    model = Backbone(card.architecture, len(card.class_names))
    load_weights(model, source)
    model.reset_classifier(0)
    card = replace(
        card,
        digest=save_weights(model, target),
        class_names=(),
        outputs=("embedding",),
        membership_advantage=None,  # it was measured on logits
    )
    golden, side = card.golden, card.input_size_px
    pixels = golden.pixels(side) if golden else synthetic_patch(0, side)
    png = base64.b64decode(golden.png) if golden else b""
    return with_reference_patch(card, predict_of(model, card), pixels, png)
