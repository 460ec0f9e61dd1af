"""Makes a teacher without training, of weights of any timm encoder."""

import logging
import shutil
from pathlib import Path

from moma_core.data.resolution import look_at_mpp
from moma_core.data.sources.factory import open_source
from moma_core.errors import ConfigError
from moma_core.models.backbone import Backbone, create_backbone
from moma_core.models.weights import file_digest, load_weights, save_weights
from moma_core.runtime.files import make_folder
from moma_core.runtime.finding import heed
from moma_core.teacher.card.card import TeacherCard
from moma_server.config.recipe import TeacherRecipe
from moma_server.teacher.build.card import build_card

_logger = logging.getLogger(__name__)


def teacher_from_weights(
    recipe: TeacherRecipe, weights: Path | None, folder: Path
) -> TeacherCard:
    """Writes `weights.safetensors` and `card.json`, and returns the card.

    Without class names there is no classifier, and the teacher gives embeddings alone.

    Args:
        recipe: Names, terms and the encoder.
        weights: Safetensors, as `save_weights` writes them; None: those that the
            recipe's model starts from, of which only the encoder is of use.
        folder: Where the files go.

    Raises:
        ConfigError: The weights cannot be read or do not fit, or a card is there.
    """
    if (folder / "card.json").exists():
        raise ConfigError(f"{folder / 'card.json'} exists; name another folder")
    heed(look_at_mpp("card.mpp is", recipe.card.mpp), _logger)
    classes = _class_names(recipe)
    own = folder / "weights.safetensors"
    if weights is None:
        if classes:
            raise ConfigError(
                "the recipe's model has no classifier of class_names: name --weights, "
                "or leave class_names and data out for embeddings alone"
            )
        model = create_backbone(recipe.model, 0)
        make_folder(folder)
        digest = save_weights(model, own)
    else:
        model = Backbone(recipe.model.architecture, len(classes))
        load_weights(model, weights)
        make_folder(folder)
        if not (own.exists() and own.samefile(weights)):
            shutil.copyfile(weights, own)
        digest = file_digest(own)
    card = build_card(recipe, classes, model, digest)
    card.save(folder / "card.json")
    return card


def _class_names(recipe: TeacherRecipe) -> tuple[str, ...]:
    if recipe.class_names or recipe.data is None:
        return recipe.class_names
    return open_source(recipe.data).class_names
