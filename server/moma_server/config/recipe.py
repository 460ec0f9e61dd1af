"""`recipe.yaml`: how an institution makes its teacher."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from moma_core.config import ConfigPath, Section, validated
from moma_core.data.augment.recipe import RecipeName
from moma_core.data.resolution import LARGEST_MPP
from moma_core.data.sources.factory import DataSection
from moma_core.errors import ConfigError
from moma_core.models.settings import ModelSection
from moma_core.pki.identity import NAME_PATTERN
from moma_core.teacher.card.card import Output
from moma_core.teacher.card.licence import Licence
from moma_core.training.settings import TrainingSettings
from moma_server.config.server import read_yaml


class LicenceSection(Section):
    """What sites accept before they ask; unless it is changed it allows little."""

    name: str = Field(
        default="All rights reserved", min_length=1, description="Name of the licence."
    )
    text: str = Field(
        default="The teacher may be asked under the agreement of the federation, and "
        "for nothing else.",
        description="The licence, or where it stands.",
    )
    derived_models: str = Field(
        default="Students that learned from its answers may be used at the site that "
        "trained them.",
        description="What may be done with a student.",
    )
    may_publish: bool = Field(
        default=False, description="Whether a student may be published."
    )
    may_sell: bool = Field(default=False, description="Whether a student may be sold.")
    forbids_derived_models: bool = Field(
        default=False,
        description="true: no derived models, unless a site says it may.",
    )

    def as_licence(self) -> Licence:
        """Returns it as a card holds it."""
        return Licence(**self.model_dump())


class CardSection(Section):
    """What stands on a teacher's card beside what its weights say."""

    stain: str = Field(default="", description="Such as H&E; empty: not stated.")
    mpp: float | None = Field(
        default=None,
        gt=0,
        le=LARGEST_MPP,
        description="Resolution in microns a pixel; null: not stated.",
    )
    outputs: tuple[Output, ...] = Field(
        default=("embedding", "logits"),
        min_length=1,
        description="What the teacher outputs for a patch.",
    )
    budget_terms: str = Field(
        default="", description="How patches are granted, in words."
    )
    default_grant_patches: int | None = Field(
        default=None, ge=0, description="Patches granted to a site, as the card says."
    )
    licence: LicenceSection = LicenceSection()
    golden_patch: ConfigPath | None = Field(
        default=None,
        description="Image of the reference patch; null: a synthetic one is made.",
    )


class TeacherRecipe(Section):
    """`recipe.yaml`: how `moma-server teacher train` makes a teacher."""

    name: str = Field(pattern=NAME_PATTERN, description="Name of the teacher.")
    organ: str = Field(min_length=1, description="The tissue's organ, such as colon.")
    task: str = Field(
        min_length=1, description="What is classified, such as tissue types."
    )
    ordered: bool = Field(
        default=False,
        description="true: the classes are grades, in their order; kappa is quadratic.",
    )
    data: DataSection | None = Field(
        default=None, description="Labelled patches to train on."
    )
    class_names: tuple[str, ...] = Field(
        default=(),
        description="Class names by logit, for `teacher card`; else the data's.",
    )
    views: RecipeName = Field(
        default="tissue",
        description="How patches are augmented; tissue_strong: with more light and "
        "colour; geometry_only where labels are colour.",
    )
    view_size_px: int = Field(
        default=224, ge=16, le=1024, description="Side of the teacher's input."
    )
    model: ModelSection = ModelSection()
    epochs: int = Field(
        default=20, ge=1, le=10_000, description="Passes over the training patches."
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32",
        description="Arithmetic of the teacher when it serves; stands on its card.",
    )
    training: TrainingSettings = TrainingSettings()
    card: CardSection = CardSection()

    @model_validator(mode="after")
    def _one_device(self) -> Self:
        if self.training.devices != 1:
            raise ValueError("training.devices: a teacher is trained on one device")
        return self

    @model_validator(mode="after")
    def _patches_keep_their_colours(self) -> Self:
        if self.data is not None and self.data.stain_normalisation is not None:
            raise ValueError(
                "data.stain_normalisation: a teacher's card does not state it, so the "
                "sites' patches would come without it; leave it out"
            )
        return self

    def labelled_data(self) -> DataSection:
        """Returns what to train on.

        Raises:
            ConfigError: The recipe is for weights that are there.
        """
        if self.data is None:
            raise ConfigError("the recipe names no data to train on")
        return self.data

    @classmethod
    def from_yaml(cls, path: Path) -> Self:
        """Reads and checks a recipe; errors as in `ServerConfig.from_yaml`."""
        return validated(cls, read_yaml(path), path)
