"""Models of other makers, small and of random weights, and what serves them."""

from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import yaml
from torch import Tensor, nn

from moma_core.teacher.query import Pixels
from moma_server.cli.init import ServerSetup, init_server
from moma_server.cli.main import main
from moma_server.config.server import ServerConfig, TeacherSection
from moma_server.teacher.inference.backend import TeacherBackend
from moma_server.teacher.inference.load import checked_card, load_backend

SIDE_PX = 32
MEAN, STD = (0.7, 0.6, 0.7), (0.2, 0.25, 0.3)
CLASSES = ("benign", "malignant")
NAMES: dict[str, Any] = {
    "name": "teacher-a",
    "organ": "colon",
    "task": "tissue types",
    "shown_as": "a model of others",
    "input_size_px": SIDE_PX,
    "mean": list(MEAN),
    "std": list(STD),
}


class Classifier(nn.Module):
    """Embedding (N, 4) and logits (N, 2) of normalised patches, batch norm included."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU()
        )
        self.linear = nn.Linear(4, len(CLASSES))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.features(images).mean(dim=(2, 3))
        return embedding, self.linear(embedding)


def classifier(seed: int = 3) -> Classifier:
    torch.manual_seed(seed)
    return Classifier().eval()


def vit(seed: int = 3, **arguments: Any) -> Any:
    """A ViT with registers and SwiGLU, one block deep, made by timm itself."""
    torch.manual_seed(seed)
    settings = {
        "img_size": SIDE_PX,
        "patch_size": 16,
        "embed_dim": 32,
        "depth": 1,
        "num_heads": 2,
        "init_values": 0.5,
        "num_classes": 0,
        "reg_tokens": 2,
        "mlp_layer": timm.layers.SwiGLUPacked,
        "act_layer": nn.SiLU,
        **arguments,
    }
    model = timm.create_model("vit_tiny_patch16_224", **settings).eval()
    for parameter in model.parameters():  # timm starts some of them at zero
        nn.init.normal_(parameter, std=0.2)
    return model


VIT_ARGS: dict[str, Any] = {
    "img_size": SIDE_PX,
    "patch_size": 16,
    "embed_dim": 32,
    "depth": 1,
    "num_heads": 2,
    "init_values": 0.5,
    "reg_tokens": 2,
    "mlp_layer": "swiglu_packed",
    "act_layer": "silu",
}


def patches(count: int = 3, side_px: int = SIDE_PX) -> Pixels:
    random = np.random.default_rng(5)
    return random.integers(0, 256, (count, side_px, side_px, 3), np.uint8)


def normalised(
    pixels: Pixels,
    mean: tuple[float, ...] = MEAN,
    std: tuple[float, ...] = STD,
) -> Tensor:
    """As a maker's own transform has it: to [0, 1], less the mean, over the std."""
    images = torch.from_numpy(np.asarray(pixels)).permute(0, 3, 1, 2).float() / 255
    return (images - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(
        1, 3, 1, 1
    )


def server_section(folder: Path, made: Path, **more: Any) -> TeacherSection:
    """Returns the section of a server whose teacher is what was imported to `made`."""
    institution = folder / "institution"
    if not institution.exists():
        init_server(institution, ServerSetup())
    path = institution / "server.yaml"
    values = yaml.safe_load(path.read_text())
    teacher = {k: v for k, v in values["teacher"].items() if k != "weights_file"}
    lines = yaml.safe_load((made / "backend.yaml").read_text())
    values["teacher"] = {**teacher, **lines, "accelerator": "cpu", **more}
    path.write_text(yaml.safe_dump(values))
    return ServerConfig.from_yaml(path).own_teacher()


def served(folder: Path, made: Path, **more: Any) -> TeacherBackend:
    section = server_section(folder, made, **more)
    return load_backend(section, checked_card(section))


def look(model: object, out: Path, *more: str) -> int:
    """Looks at a model as `moma-server teacher import` does; returns the status."""
    line = ["teacher", "import", "--out", str(out), "--accelerator", "cpu", *more]
    return main([*line, str(model)])
