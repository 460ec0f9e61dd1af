"""Turns a Keras DenseNet121 into a file that `moma-server teacher import` reads.

    python examples/densenet_from_keras.py model.keras densenet.safetensors --outputs 9
    moma-server teacher import densenet.safetensors --architecture densenet121 \
        --classes ADI,BACK,DEB,LYM,MUC,MUS,NORM,STR,TUM --out teacher

h5py alone reads the weights: TensorFlow is not needed. The convolutions and batch norms
of Keras come in the order of timm's modules. What the model takes, pixels from 0 to 1
for example, is the recipe's mean and std: 0 and 1.
"""

import argparse
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

_KERAS_EPSILON = 1.001e-5
_BLOCKS = "layers/functional/layers"


def keras_weights(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a .keras file by their paths in it."""
    with zipfile.ZipFile(path) as archive:
        content = io.BytesIO(archive.read("model.weights.h5"))
    found: dict[str, np.ndarray] = {}

    def take(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = np.asarray(item)

    with h5py.File(content) as file:
        file.visititems(take)
    return found


def densenet_weights(
    arrays: Mapping[str, np.ndarray], outputs: int | None = None
) -> dict[str, Tensor]:
    """Returns the tensors of timm's `densenet121`.

    Args:
        arrays: As `keras_weights` gives them.
        outputs: How many of the classifier's outputs are kept, from the first; None:
            all.
    """
    bias = arrays["layers/dense/vars/1"][:outputs]
    model = timm.create_model("densenet121", num_classes=len(bias))
    counts = {"conv2d": 0, "batch_normalization": 0}
    tensors = dict(model.state_dict())

    def arrays_of(kind: str) -> list[Tensor]:
        place = counts[kind]
        counts[kind] += 1
        layer = f"{_BLOCKS}/{kind}{f'_{place}' if place else ''}/vars"
        names = sorted(name for name in arrays if name.startswith(f"{layer}/"))
        return [torch.from_numpy(arrays[name]) for name in names]

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            (kernel,) = arrays_of("conv2d")
            tensors[f"{name}.weight"] = kernel.permute(3, 2, 0, 1).contiguous()
        elif isinstance(module, nn.BatchNorm2d):
            scale, shift, mean, variance = arrays_of("batch_normalization")
            tensors[f"{name}.weight"], tensors[f"{name}.bias"] = scale, shift
            tensors[f"{name}.running_mean"] = mean
            # so that timm's smaller epsilon gives what Keras' does
            tensors[f"{name}.running_var"] = variance + (_KERAS_EPSILON - module.eps)
    kernel = torch.from_numpy(arrays["layers/dense/vars/0"][:, :outputs])
    tensors["classifier.weight"] = kernel.T.contiguous()
    tensors["classifier.bias"] = torch.from_numpy(bias)
    model.load_state_dict(tensors)  # says which tensor is missing or of another shape
    return tensors


def main() -> None:
    """Converts the file that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("keras", type=Path, help="the .keras file")
    parser.add_argument("out", type=Path, help="the safetensors file to write")
    parser.add_argument("--outputs", type=int, help="outputs to keep, from the first")
    arguments = parser.parse_args()
    tensors = densenet_weights(keras_weights(arguments.keras), arguments.outputs)
    save_file(tensors, arguments.out)


if __name__ == "__main__":
    main()
