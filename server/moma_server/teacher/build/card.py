"""Builds the card of a network: what it is, its terms, its reference patch."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from moma_core.data.images import check_size, decode_rgb
from moma_core.errors import ConfigError, DataError
from moma_core.models.backbone import Backbone
from moma_core.teacher.card.card import TeacherCard, first_violation
from moma_core.teacher.card.reference_patch import expect, synthetic_patch
from moma_server.config.recipe import TeacherRecipe
from moma_server.teacher.inference.backend import Model, TorchBackend


def build_card(
    recipe: TeacherRecipe,
    class_names: tuple[str, ...],
    model: Backbone,
    digest: str,
) -> TeacherCard:
    """Returns the card of a network, with its outputs for a reference patch.

    Args:
        recipe: Names, terms and reference patch.
        class_names: Names of the classes, in the order of the logits.
        model: The network; set to evaluation mode.
        digest: SHA-256 of the file of its weights, hex.

    Raises:
        ConfigError: The recipe's terms or reference patch are not as they should be.
    """
    card = _card(recipe, class_names, model, digest)
    patch = reference_pixels(recipe.card.golden_patch, recipe.view_size_px)
    return checked_card(with_reference_patch(card, predict_of(model, card), *patch))


def checked_card(card: TeacherCard) -> TeacherCard:
    """Returns the card.

    Raises:
        ConfigError: Something on it cannot be true.
    """
    fault = first_violation(card)
    if fault is not None:
        raise ConfigError(f"the recipe makes no card: {fault}")
    return card


def predict_of(model: Backbone, card: TeacherCard) -> Model:
    """Returns what gives a network's outputs; the network is set to evaluation."""
    device = next(model.parameters()).device
    return TorchBackend(model.eval(), card, torch.device(device)).predict


def _card(
    recipe: TeacherRecipe, class_names: tuple[str, ...], model: Backbone, digest: str
) -> TeacherCard:
    terms = recipe.card
    return TeacherCard(
        name=recipe.name,
        digest=digest,
        architecture=model.architecture,
        embedding_length=model.embedding_length,
        organ=recipe.organ,
        task=recipe.task,
        class_names=class_names,
        input_size_px=recipe.view_size_px,
        mean=model.mean,
        std=model.std,
        precision=recipe.precision,
        stain=terms.stain,
        mpp=terms.mpp,
        pooling=model.pooling,
        outputs=terms.outputs if class_names else ("embedding",),
        budget_terms=terms.budget_terms,
        default_grant_patches=terms.default_grant_patches,
        licence=terms.licence.as_licence(),
        views="geometry_only" if recipe.views == "geometry_only" else "",
    )


def with_reference_patch(
    card: TeacherCard, predict: Model, pixels: NDArray[np.uint8], png: bytes
) -> TeacherCard:
    """Returns a card with the network's outputs for a patch, as sites will get them.

    Args:
        card: Gives the precision.
        predict: Gives the network's outputs.
        pixels: (side, side, 3) of the patch.
        png: The patch as a PNG; empty for the synthetic one.
    """
    embedding, logits = predict(pixels[np.newaxis])
    golden = expect(embedding[0], logits[0], precision=card.precision, png=png)
    return replace(card, golden=golden)


def reference_pixels(
    path: Path | None, side_px: int
) -> tuple[NDArray[np.uint8], bytes]:
    """Returns the reference patch, (side, side, 3), and its PNG.

    Args:
        path: The owner's picture; None: the synthetic patch, which needs no PNG.
        side_px: Of the patch.

    Raises:
        ConfigError: The picture cannot be read, or has another side.
    """
    if path is None:
        return synthetic_patch(0, side_px), b""
    try:
        pixels = decode_rgb(path)
        height, width, _ = pixels.shape
        check_size(height, width, side_px)
    except DataError as error:
        raise ConfigError(f"card.golden_patch {path}: {error}") from None
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return pixels, content.getvalue()
