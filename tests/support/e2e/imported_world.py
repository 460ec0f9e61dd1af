"""A federation of imported teachers: an expert, one that is noise, and a foundation.

The first site learns from expert and noise at once, whose classes differ; the second
one from whole slides and the foundation model, which has no classes.
"""

import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file
from torch import Tensor, nn

from moma_client.config.site import SiteIdentity
from moma_client.identity.keys import signing_fingerprint
from moma_core.data.augment.stain import DAB, STAINS_FROM_DENSITY
from moma_core.data.sources.demo_tissue import CLASS_BOUNDS, CLASS_NAMES, POSITIVE_DAB
from moma_server.config.import_recipe import ImportRecipe
from moma_server.config.server import read_yaml, write_yaml
from moma_server.membership.pinned_sites import approve_site, teacher_key
from moma_server.teacher.build.from_model import teacher_from_model
from tests.support.e2e.programs import LOOPBACK, Program
from tests.support.e2e.world import SITES, TEACHER, World
from tests.support.federation.enrolment_port import open_desk
from tests.support.machine.ports import free_port
from tests.support.slides.annotated import annotated_slides
from tests.support.teacher.imported import NAMES, SIDE_PX, VIT_ARGS, vit

EXPERT, NOISE, FOUNDATION = TEACHER, "teacher-b", "teacher-c"
PLACES = {EXPERT: "teacher", NOISE: "noise", FOUNDATION: "foundation"}
SEVERAL, ON_SLIDES = SITES
VIEWS = 2
OTHER_CLASSES = ("stroma", "mucosa", "muscle")

_PRIME = 97  # what is left of a patch's sum by it is chance


class _Expert(nn.Module):
    """Embedding (N, 12) and logits (N, 4) by the share of DAB, as labels are made."""

    def __init__(self) -> None:
        super().__init__()
        amounts = torch.tensor(STAINS_FROM_DENSITY[:, DAB], dtype=torch.float32)
        self.amounts = nn.Buffer(amounts.view(1, 3, 1, 1))
        self.bounds = nn.Buffer(torch.tensor(CLASS_BOUNDS))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        density = -torch.log(images.clamp_min(1e-6))
        positive = (density * self.amounts).sum(dim=1) > POSITIVE_DAB
        share = positive.float().mean(dim=(1, 2)).unsqueeze(1)  # (N, 1)
        above = (share >= self.bounds).float()  # (N, 3)
        ends = torch.ones_like(share), torch.zeros_like(share)
        known = torch.cat([ends[0], above], 1) - torch.cat([above, ends[1]], 1)
        embedding = known.repeat_interleave(3, dim=1) + share * 1e-3
        return embedding, 8 * known.flip(1)


def _write_expert(path: Path) -> None:
    with warnings.catch_warnings():  # torch calls the format deprecated
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            _Expert().eval(), torch.zeros(2, 3, SIDE_PX, SIDE_PX)
        )
        torch.jit.save(traced, str(path))  # type: ignore[no-untyped-call]


def _write_noise(path: Path) -> None:
    """Writes a network of ONNX whose outputs have nothing to do with the tissue.

    A patch's bytes are summed with whole weights, which no order of the sum rounds;
    what a prime leaves of the sum turns sines of several frequencies.
    """
    random = torch.Generator().manual_seed(0)
    weights = torch.randint(1, 17, (3, SIDE_PX, SIDE_PX), generator=random).float()
    constants = {
        "weights": weights.numpy(),
        "axes": torch.tensor([1, 2, 3]).numpy(),
        "prime": torch.tensor([float(_PRIME)]).numpy(),
        "turns": (torch.arange(1, 10).float() * 2 * torch.pi / _PRIME).numpy(),
        "shape": torch.tensor([-1, 1]).numpy(),
        "parts": torch.tensor([6, 3]).numpy(),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["values", "weights"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "axes"], ["sum"], keepdims=0),
        helper.make_node("Mod", ["sum", "prime"], ["rest"], fmod=1),
        helper.make_node("Reshape", ["rest", "shape"], ["column"]),
        helper.make_node("Mul", ["column", "turns"], ["angles"]),
        helper.make_node("Sin", ["angles"], ["waves"]),
        helper.make_node("Split", ["waves", "parts"], ["features", "scores"], axis=1),
    ]
    describe = helper.make_tensor_value_info
    side = ["n", 3, SIDE_PX, SIDE_PX]
    images = [describe("images", TensorProto.UINT8, side)]
    outputs = [
        describe(name, TensorProto.FLOAT, ["n", length])
        for name, length in (("features", 6), ("scores", 3))
    ]
    tensors = [
        onnx.numpy_helper.from_array(each, name) for name, each in constants.items()
    ]
    graph = helper.make_graph(nodes, "noise", images, outputs, tensors)
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)


def import_teachers(folder: Path) -> dict[str, Path]:
    """Imports the three models, and returns the folders of the teachers by name."""
    folder.mkdir(parents=True)
    _write_expert(folder / "expert.pt")
    _write_noise(folder / "noise.onnx")
    save_file(vit().state_dict(), folder / "foundation.safetensors")
    models: dict[str, dict[str, Any]] = {
        EXPERT: {
            "model": str(folder / "expert.pt"),
            "class_names": CLASS_NAMES[::-1],
            "backend": {
                "kind": "torchscript",
                "input": {"values": "unit"},
                "outputs": {"embedding": "0", "logits": "1"},
            },
        },
        NOISE: {
            "model": str(folder / "noise.onnx"),
            "class_names": OTHER_CLASSES,
            "backend": {
                "kind": "onnx",
                "input": {"values": "bytes"},
                "outputs": {"embedding": "features", "logits": "scores"},
            },
        },
        FOUNDATION: {
            "model": str(folder / "foundation.safetensors"),
            "backend": {
                "kind": "timm",
                "architecture": "vit_tiny_patch16_224",
                "model_args": VIT_ARGS,
                "pooling": "cls+mean",
            },
        },
    }
    for name, model in models.items():
        values = {**NAMES, "task": "stain", "name": name, **model}
        recipe = ImportRecipe.model_validate(values)
        teacher_from_model(recipe, folder / name, torch.device("cpu"))
    return {name: folder / name for name in models}


class ImportedWorld(World):
    """Three teachers and two sites in a folder; of one round."""

    def __init__(self, folder: Path) -> None:
        made = import_teachers(folder / "models")
        super().__init__(folder, made[EXPERT], plan={"rounds": 1, "local_epochs": 2})
        with open_desk(self.coordinator_config()):
            for name in (NOISE, FOUNDATION):
                place = PLACES[name]
                self.ports |= {place: free_port(), f"{place}-teach": free_port()}
                grants = dict.fromkeys(SITES, 10_000)
                self._make_teacher(made[name], grants, place, name)
                for site in SITES:
                    self._approve(site, place)
        self._several()
        self.configure(ON_SLIDES, teacher=self._other(FOUNDATION) | {"views": VIEWS})
        path = self.folder / ON_SLIDES / "config.yaml"
        values: Any = read_yaml(path)
        slides = annotated_slides(self.folder / ON_SLIDES)
        write_yaml(path, {**values, "data": slides})

    def serve_all(self) -> None:
        """Starts coordinator and teachers, and waits until all are ready."""
        self.serve_both()
        others: dict[str, Program] = {
            place: self.serve(place) for place in ("noise", "foundation")
        }
        for place, program in others.items():
            program.listens(self.teach_port(place))

    def _several(self) -> None:
        """Gives the first site both teachers, weighed by their agreement with it."""
        path = self.folder / SEVERAL / "config.yaml"
        values: Any = read_yaml(path)
        first = {**values.pop("teacher"), "views": VIEWS, "weight": "agreement"}
        values["teachers"] = [first, {**first, **self._other(NOISE)}]
        write_yaml(path, values)

    def _other(self, name: str) -> dict[str, Any]:
        place = PLACES[name]
        return {
            "name": name,
            "address": f"{LOOPBACK}:{self.teach_port(place)}",
            "key": str(teacher_key(self.teacher_config(place))),
            "accepted_terms": self.terms_of(place),
        }

    def _approve(self, site: str, place: str) -> None:
        identity = SiteIdentity.from_yaml(self.folder / site / "config.yaml")
        key = str(signing_fingerprint(identity))
        approve_site(self.teacher_config(place), site, key)
