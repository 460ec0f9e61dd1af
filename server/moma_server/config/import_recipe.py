"""`import.yaml`: how a model that others made becomes a teacher."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from moma_core.config import ConfigPath, Section, validated
from moma_core.data.sources.factory import DataSection
from moma_core.models.checkpoints import KeysSection
from moma_core.pki.identity import NAME_PATTERN
from moma_server.config.backend import BackendSection, OipBackend, TimmBackend
from moma_server.config.recipe import CardSection
from moma_server.config.server import read_yaml

_Channels = tuple[float, float, float]


class ImportRecipe(Section):
    """`import.yaml`: what `moma-server teacher import` found, and what you correct."""

    name: str = Field(pattern=NAME_PATTERN, description="Name of the teacher.")
    organ: str = Field(min_length=1, description="The tissue's organ, such as colon.")
    task: str = Field(
        min_length=1, description="What is classified, such as tissue types."
    )
    shown_as: str = Field(
        min_length=1,
        max_length=200,
        description="Its architecture as the card says it to sites.",
    )
    model: ConfigPath | None = Field(
        default=None,
        description="File of weights or network; null where a model server has it.",
    )
    keys: KeysSection = KeysSection()
    backend: BackendSection
    class_names: tuple[str, ...] = Field(
        default=(), description="Class names by logit; empty: embeddings alone."
    )
    input_size_px: int = Field(
        default=224, ge=16, le=1024, description="Side of the teacher's input."
    )
    mean: _Channels = Field(description="Per channel, of pixels in [0, 1].")
    std: _Channels = Field(description="Per channel.")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32",
        description="Arithmetic when it serves; decides how closely its answers are "
        "compared with the reference patch.",
    )
    data: DataSection | None = Field(
        default=None,
        description="Patches for the coverage map; labelled ones for figures, the "
        "membership audit and `teacher fit-head`.",
    )
    ordered: bool = Field(
        default=False, description="Whether the classes are grades, in their order."
    )
    seed: int = Field(default=0, ge=0, description="Of what is drawn by chance.")
    card: CardSection = CardSection()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        is_elsewhere = isinstance(self.backend, OipBackend)
        if is_elsewhere != (self.model is None):
            raise ValueError(
                "model is the file of timm, onnx, torchscript and exported, and null "
                f"with oip; backend.kind is {self.backend.kind}"
            )
        if min(self.std) <= 0:
            raise ValueError(f"std is above 0, got {self.std}")
        if max(map(abs, self.mean)) > 1:
            raise ValueError(
                f"mean and std are of pixels from 0 to 1, got {self.mean}: divide both "
                "by 255"
            )
        if not isinstance(self.backend, TimmBackend):
            has_logits = bool(self.backend.outputs.logits)
            if has_logits != bool(self.class_names):
                raise ValueError(
                    "class_names and backend.outputs.logits go together: name both, or "
                    "none for embeddings alone"
                )
        return self

    @classmethod
    def from_yaml(cls, path: Path) -> Self:
        """Reads and checks a recipe; errors as in `ServerConfig.from_yaml`."""
        return validated(cls, read_yaml(path), path)
