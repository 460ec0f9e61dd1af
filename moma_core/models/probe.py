"""A probe: a small classifier on embeddings that somebody else's network made."""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from moma_core.errors import ConfigError
from moma_core.models.weights import check_safetensors
from moma_core.runtime.files import writing

_DECAYS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
_STEPS = 200
_HIDDEN_STEPS = 400
_RATE = 1e-3


def make_probe(length: int, classes: int, hidden: int = 0) -> nn.Sequential:
    """Returns a linear probe, or one with a hidden layer.

    Args:
        length: D of the embeddings.
        classes: C.
        hidden: Width of the hidden layer; 0: there is none.

    Raises:
        ConfigError: The width is below 0.
    """
    if hidden < 0:
        raise ConfigError(f"the width of a hidden layer is 0 or more, got {hidden}")
    if not hidden:
        return nn.Sequential(nn.Linear(length, classes))
    return nn.Sequential(
        nn.Linear(length, hidden), nn.GELU(), nn.Linear(hidden, classes)
    )


def fit_probe(
    train: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    *,
    classes: int,
    hidden: int = 0,
    seed: int = 0,
) -> nn.Sequential:
    """Returns the probe of the weight decay that does best on validation patches.

    Embeddings are standardised while it is fitted; the first layer takes them as they
    are.

    Args:
        train: Embeddings (N, D) and labels (N,).
        validation: Others, likewise; empty: the smallest decay is taken.
        classes: C.
        hidden: Width of the hidden layer; 0: a linear probe.
        seed: Of the first weights.
    """
    embedding, labels = train
    mean, deviation = embedding.mean(0), embedding.std(0).clamp_min(1e-6)
    scaled = (embedding - mean) / deviation
    best, best_loss = None, float("inf")
    for decay in _DECAYS:
        torch.manual_seed(seed)
        probe = make_probe(embedding.shape[1], classes, hidden)
        _descend(probe, scaled, labels, decay)
        _unscale(probe[0], mean, deviation)
        with torch.no_grad():
            loss = (
                float(F.cross_entropy(probe(validation[0]), validation[1]))
                if len(validation[1])
                else 0.0
            )
        if loss < best_loss:
            best, best_loss = probe, loss
    if best is None:
        raise ConfigError("the probe's loss is no number: are the embeddings finite?")
    return best.eval().requires_grad_(False)


def _descend(
    probe: nn.Sequential, scaled: Tensor, labels: Tensor, decay: float
) -> None:
    parameters = list(probe.parameters())

    def loss_of() -> Tensor:
        squares = torch.stack([each.square().sum() for each in parameters]).sum()
        return F.cross_entropy(probe(scaled), labels) + decay * squares

    if len(probe) == 1:
        solver = torch.optim.LBFGS(
            parameters, max_iter=_STEPS, line_search_fn="strong_wolfe"
        )

        def closure() -> float:
            solver.zero_grad()
            loss = loss_of()
            torch.autograd.backward(loss)
            return float(loss.detach())

        solver.step(closure)  # type: ignore[no-untyped-call]
        return
    adam = torch.optim.Adam(parameters, _RATE)
    for _ in range(_HIDDEN_STEPS):
        adam.zero_grad()
        torch.autograd.backward(loss_of())
        adam.step()


@torch.no_grad()
def _unscale(first: nn.Module, mean: Tensor, deviation: Tensor) -> None:
    """Has a layer take embeddings as they are, where it took standardised ones."""
    weight, bias = first.get_parameter("weight"), first.get_parameter("bias")
    weight.div_(deviation)
    bias.sub_(weight @ mean)


def save_probe(probe: nn.Sequential, path: Path) -> None:
    """Writes a probe as safetensors.

    Raises:
        DiskError: The disk does not take it.
    """
    with writing(path, "the probe", SafetensorError):
        tensors = {name: t.contiguous() for name, t in probe.state_dict().items()}
        save_file(tensors, path)


def load_probe(path: Path, *, length: int, classes: int) -> nn.Sequential:
    """Reads a probe that `save_probe` wrote.

    Args:
        path: The file.
        length: D of the embeddings.
        classes: C.

    Raises:
        ConfigError: It is missing, damaged, or of other lengths.
    """
    check_safetensors(path)
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"cannot read the probe {path}: {error}") from error
    hidden = len(weights["0.bias"]) if "2.weight" in weights else 0
    probe = make_probe(length, classes, hidden)
    try:
        probe.load_state_dict(weights)
    except RuntimeError:
        raise ConfigError(
            f"the probe {path} does not go from {length} values to {classes} classes"
        ) from None
    return probe.eval().requires_grad_(False)
