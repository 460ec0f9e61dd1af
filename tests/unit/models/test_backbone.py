import logging
from pathlib import Path

import pytest
import torch

from moma_core.errors import ConfigError
from moma_core.models.backbone import Backbone, ModelSection, Normalise, create_backbone
from moma_core.models.weights import load_weights, save_weights


@pytest.mark.parametrize(
    "architecture",
    ["tf_efficientnet_lite0", "mobilenetv3_small_050", "resnet18", "convnext_atto"],
)
def test_every_family_answers_the_same_contract(architecture: str) -> None:
    backbone = Backbone(architecture, classes=5).eval()
    images = torch.randn(2, 3, 64, 64)

    with torch.no_grad():
        embedding, logits, _ = backbone(images)
        whole = backbone.model(images)
        top = backbone.classifier(embedding)

    assert embedding.shape == (2, backbone.embedding_length)
    assert logits.shape == (2, 5)
    torch.testing.assert_close(logits, whole)
    torch.testing.assert_close(top, logits)


def test_a_reset_classifier_has_the_new_classes_and_keeps_the_encoder() -> None:
    backbone = Backbone("resnet18", classes=5).eval()
    images = torch.randn(2, 3, 64, 64)
    before = backbone(images).embedding

    backbone.reset_classifier(3)

    assert backbone(images).logits.shape == (2, 3)
    assert torch.equal(backbone(images).embedding, before)


def test_an_unknown_name_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match="'resnet-of-nobody'"):
        Backbone("resnet-of-nobody", classes=2)


def test_saved_weights_come_back_and_have_a_digest(tmp_path: Path) -> None:
    saved, loaded = Backbone("resnet18", 3), Backbone("resnet18", 3)

    digest = save_weights(saved, tmp_path / "w.safetensors")
    load_weights(loaded, tmp_path / "w.safetensors")

    assert len(digest) == 64
    for name, tensor in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    save_weights(Backbone("resnet18", 3), tmp_path / "w.safetensors")

    with pytest.raises(ConfigError, match="do not fit resnet18"):
        load_weights(Backbone("resnet18", 4), tmp_path / "w.safetensors")


def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"\x80\x04pickle")

    with pytest.raises(ConfigError, match="no safetensors file"):
        load_weights(Backbone("resnet18", 3), tmp_path / "w.safetensors")


def test_packaged_weights_keep_the_encoder_and_start_a_new_classifier() -> None:
    section = ModelSection(architecture="tf_efficientnet_lite0", weights="packaged")

    one, other = create_backbone(section, 4), create_backbone(section, 4)

    stem = "model.conv_stem.weight"
    assert torch.equal(one.state_dict()[stem], other.state_dict()[stem])
    assert one(torch.zeros(2, 3, 64, 64)).logits.shape == (2, 4)


def test_normalised_pixels_have_the_mean_and_deviation_of_the_weights() -> None:
    normalise = Normalise((0.5, 0.25, 0.0), (0.5, 0.25, 1.0))
    pixels = torch.tensor([255, 0, 255], dtype=torch.uint8).view(1, 3, 1, 1)

    found = normalise(pixels).flatten()

    torch.testing.assert_close(found, torch.tensor([1.0, -1.0, 1.0]))


def test_packaged_weights_of_another_architecture_name_both_keys() -> None:
    section = ModelSection(architecture="resnet18", weights="packaged")

    with pytest.raises(ConfigError, match="architecture: tf_efficientnet_lite0"):
        create_backbone(section, 3)


def test_a_misspelt_architecture_is_told_which_is_near() -> None:
    with pytest.raises(ConfigError, match="did you mean tf_efficientnet_lite0,"):
        Backbone("tf_eficientnet_lite0", 3)
    with pytest.raises(ConfigError, match=r"timm\.list_models"):
        Backbone("???", 3)


def test_a_hub_out_of_reach_is_one_sentence_and_its_retries_are_silent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*_: object, **__: object) -> None:
        logging.getLogger("huggingface_hub.utils").warning("Retrying in 1s")
        raise FileNotFoundError("three\nlines\nof advice")

    monkeypatch.setattr("timm.create_model", away)

    with pytest.raises(ConfigError, match="weights: packaged") as error:
        create_backbone(ModelSection(architecture="resnet18"), 3)

    assert "\n" not in str(error.value)
    assert caplog.text == ""
