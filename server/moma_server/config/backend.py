"""`backend:` in `server.yaml`: what runs a teacher that was not trained here."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from moma_core.config import ConfigPath, Section
from moma_core.models.settings import ModelArgs, Pooling
from moma_core.network.address import Address


class InputSection(Section):
    """The tensor of patches that a model takes; three channels, RGB."""

    name: str = Field(default="", description="Name of the input; empty: the only one.")
    layout: Literal["nchw", "nhwc"] = Field(
        default="nchw", description="Order of patches, channels, height and width."
    )
    values: Literal["normalised", "unit", "bytes"] = Field(
        default="normalised",
        description="normalised: by the card's mean and std; unit: from 0 to 1; bytes: "
        "from 0 to 255. As float32 and uint8, or what the model says that it takes.",
    )


class OutputsOfModelSection(Section):
    """The tensors that a model gives."""

    embedding: str = Field(
        default="",
        description="Name or number of the embedding's output; empty: the logits stand "
        "for it.",
    )
    logits: str = Field(
        default="", description="Name or number of the logits' output; empty: none."
    )
    probabilities: bool = Field(
        default=False,
        description="Whether the logits' output is behind a softmax; its logarithm is "
        "taken then.",
    )
    pooling: Pooling = Field(
        default="head",
        description="Of an embedding output of tokens, (N, T, D); head: it is (N, D).",
    )
    prefix_tokens: int = Field(
        default=1, ge=0, le=64, description="Class and register tokens, for the mean."
    )

    @model_validator(mode="after")
    def _gives_something(self) -> Self:
        if not (self.embedding or self.logits):
            raise ValueError("name the output of embedding, of logits, or both")
        return self


class TimmBackend(Section):
    """An architecture of timm with arguments and pooling of its own."""

    kind: Literal["timm"]
    architecture: str = Field(min_length=1, description="timm's name of it.")
    model_args: ModelArgs = Field(
        default_factory=dict,
        description="What timm's constructor takes, such as img_size, reg_tokens, "
        "act_layer: silu, mlp_layer: swiglu_packed.",
    )
    pooling: Pooling = Field(
        default="head", description="From tokens to embedding; head: as timm does."
    )


class FileBackend(Section):
    """A file that holds network and weights."""

    kind: Literal["onnx", "torchscript", "exported"] = Field(
        description="What wrote the file; exported: torch.export."
    )
    input: InputSection = InputSection()
    outputs: OutputsOfModelSection
    batch_patches: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="Patches of one pass, neither more nor less; null: any number.",
    )


class OipBackend(Section):
    """A model behind a server of the Open Inference Protocol v2, asked over gRPC."""

    kind: Literal["oip"]
    address: Address = Field(description="host:port of its gRPC.")
    model: str = Field(min_length=1, description="Name of the model there.")
    version: str = Field(default="", description="Its version; empty: the server's.")
    ca_file: ConfigPath | None = Field(
        default=None,
        description="CA of its certificate, PEM; null: no TLS, for a server on this "
        "machine or in a network of your own.",
    )
    timeout_seconds: float = Field(
        default=30, gt=0, le=600, description="A pass that takes longer is refused."
    )
    recheck_seconds: float = Field(
        default=60,
        gt=0,
        le=86_400,
        description="After which it must answer the reference patch again.",
    )
    input: InputSection = InputSection()
    outputs: OutputsOfModelSection
    batch_patches: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="Patches of one pass, neither more nor less; null: any number.",
    )


ArrayBackendSection = FileBackend | OipBackend
"""What takes and gives arrays by name."""

BackendSection = Annotated[
    TimmBackend | FileBackend | OipBackend, Field(discriminator="kind")
]
