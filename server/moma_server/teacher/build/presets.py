"""Pathology foundation models as their makers document them, to import by name.

What stands here is what a model card says of how to build the network, normalise its
patches and pool its tokens; the licence is named and not interpreted. Whoever imports
a model reads its card and corrects the recipe where the maker has changed it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from moma_core.models.checkpoints import Layout
from moma_core.models.settings import ModelArgs, Pooling
from moma_server.config.recipe import LicenceSection

Channels = tuple[float, float, float]

_IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
_IMAGENET_STD: Channels = (0.229, 0.224, 0.225)
_BIOPTIMUS_MEAN: Channels = (0.707223, 0.578729, 0.703617)
_BIOPTIMUS_STD: Channels = (0.211883, 0.230117, 0.177517)

_SWIGLU: ModelArgs = {"mlp_layer": "swiglu_packed", "act_layer": "silu"}


@dataclass(frozen=True, slots=True)
class Preset:
    """A foundation model.

    Args:
        title: Its name, as its makers write it.
        source: Where this is documented.
        architecture: timm's name of the network.
        model_args: What timm's constructor takes.
        pooling: From tokens to embedding.
        licence: Of its weights.
        mean: Per channel, of pixels in [0, 1].
        std: Per channel.
        input_size_px: Side of its patches.
        mpp: Microns a pixel of them; None: its makers name a magnification, several, or
            none.
        layout: Whose names its file has.
    """

    title: str
    source: str
    architecture: str
    model_args: ModelArgs
    pooling: Pooling
    licence: LicenceSection
    mean: Channels = _IMAGENET_MEAN
    std: Channels = _IMAGENET_STD
    input_size_px: int = 224
    mpp: float | None = None
    layout: Layout = field(default="timm")


def _free(name: str) -> LicenceSection:
    return LicenceSection(
        name=name,
        text="https://www.apache.org/licenses/LICENSE-2.0, and the terms of use on the "
        "model's page.",
        derived_models="The licence allows them; the federation's agreement says what "
        "the teacher's owner allows.",
    )


def _no_derivatives(page: str) -> LicenceSection:
    return LicenceSection(
        name="CC-BY-NC-ND-4.0",
        text="https://creativecommons.org/licenses/by-nc-nd/4.0/, and the terms of use "
        f"on {page}.",
        derived_models="NO DERIVATIVES: the licence forbids to share derived models, "
        "and any commercial use. A student that learns from this teacher may be one: "
        "get the maker's permission in writing before you train.",
        forbids_derived_models=True,
    )


def _research(name: str, page: str, more: str = "") -> LicenceSection:
    return LicenceSection(
        name=name,
        text=f"The licence stands on {page}.",
        derived_models="NON-COMMERCIAL: a student that learns from this teacher may be "
        f"a derived model under the licence; {more}read it before you train.",
    )


def _owkin(page: str) -> LicenceSection:
    return _research(
        "Owkin non-commercial licence",
        page,
        "it is for non-profit entities, and what results from use of the model is "
        "shared under the same terms; ",
    )


def _counts_students(page: str) -> LicenceSection:
    """Returns CC-BY-NC-ND with the terms that UNI and Virchow2 add alike."""
    return LicenceSection(
        name="CC-BY-NC-ND-4.0",
        text="https://creativecommons.org/licenses/by-nc-nd/4.0/, and the terms of use "
        f"on {page}.",
        derived_models="NO DERIVATIVES: the terms of use count models that are trained "
        "on outputs of the model as derivatives, and forbid their commercial use, sale "
        "or other monetisation without prior approval. Get it in writing before you "
        "train.",
        forbids_derived_models=True,
    )


_GIGAPATH_TERMS = LicenceSection(
    name="Prov-GigaPath licence terms",
    text="https://github.com/prov-gigapath/prov-gigapath/blob/main/LICENSE, and the "
    "terms of use on https://huggingface.co/prov-gigapath/prov-gigapath.",
    derived_models="NON-COMMERCIAL RESEARCH: the terms let nobody distribute the model "
    "or provide it as a hosted solution for others, which a teacher may be, and let "
    "modifications go back to the maker alone. Get it in writing before you offer this "
    "teacher, and before you train.",
    forbids_derived_models=True,  # not in these words; they grant none to share
)

PRESETS: Mapping[str, Preset] = {
    "uni": Preset(
        title="UNI",
        source="https://huggingface.co/MahmoodLab/UNI",
        architecture="vit_large_patch16_224",
        model_args={"img_size": 224, "init_values": 1e-5, "dynamic_img_size": True},
        pooling="cls",
        licence=_counts_students("https://huggingface.co/MahmoodLab/UNI"),
    ),
    "uni2-h": Preset(
        title="UNI2-h",
        source="https://huggingface.co/MahmoodLab/UNI2-h",
        architecture="vit_giant_patch14_224",
        model_args={
            "img_size": 224,
            "patch_size": 14,
            "depth": 24,
            "num_heads": 24,
            "init_values": 1e-5,
            "embed_dim": 1536,
            "mlp_ratio": 2.66667 * 2,
            "no_embed_class": True,
            "reg_tokens": 8,
            "dynamic_img_size": True,
            **_SWIGLU,
        },
        pooling="cls",
        licence=_counts_students("https://huggingface.co/MahmoodLab/UNI2-h"),
    ),
    "virchow": Preset(
        title="Virchow",
        source="https://huggingface.co/paige-ai/Virchow",
        architecture="vit_huge_patch14_224",
        model_args={
            "img_size": 224,
            "init_values": 1e-5,
            "mlp_ratio": 5.3375,
            "dynamic_img_size": True,
            **_SWIGLU,
        },
        pooling="cls+mean",
        licence=_free("Apache-2.0"),
    ),
    "virchow2": Preset(
        title="Virchow2",
        source="https://huggingface.co/paige-ai/Virchow2",
        architecture="vit_huge_patch14_224",
        model_args={
            "img_size": 224,
            "init_values": 1e-5,
            "mlp_ratio": 5.3375,
            "reg_tokens": 4,
            "dynamic_img_size": True,
            **_SWIGLU,
        },
        pooling="cls+mean",
        licence=_counts_students("https://huggingface.co/paige-ai/Virchow2"),
    ),
    "h-optimus-0": Preset(
        title="H-optimus-0",
        source="https://huggingface.co/bioptimus/H-optimus-0",
        architecture="vit_giant_patch14_reg4_dinov2",
        model_args={"img_size": 224, "init_values": 1e-5, "dynamic_img_size": False},
        pooling="cls",
        licence=_free("Apache-2.0"),
        mean=_BIOPTIMUS_MEAN,
        std=_BIOPTIMUS_STD,
        mpp=0.5,
    ),
    "h-optimus-1": Preset(
        title="H-optimus-1",
        source="https://huggingface.co/bioptimus/H-optimus-1",
        architecture="vit_giant_patch14_reg4_dinov2",
        model_args={"img_size": 224, "init_values": 1e-5, "dynamic_img_size": False},
        pooling="cls",
        licence=_no_derivatives("https://huggingface.co/bioptimus/H-optimus-1"),
        mean=_BIOPTIMUS_MEAN,
        std=_BIOPTIMUS_STD,
        mpp=0.5,
    ),
    "phikon": Preset(
        title="Phikon",
        source="https://huggingface.co/owkin/phikon",
        architecture="vit_base_patch16_224",
        model_args={"img_size": 224},
        pooling="cls",
        licence=_owkin("https://huggingface.co/owkin/phikon"),
        mpp=0.5,
        layout="transformers",
    ),
    "phikon-v2": Preset(
        title="Phikon-v2",
        source="https://huggingface.co/owkin/phikon-v2",
        architecture="vit_large_patch16_224",
        model_args={"img_size": 224, "init_values": 1e-5},
        pooling="cls",
        licence=_owkin("https://huggingface.co/owkin/phikon-v2"),
        layout="transformers",
    ),
    "prov-gigapath": Preset(
        title="Prov-GigaPath (tile encoder)",
        source="https://huggingface.co/prov-gigapath/prov-gigapath",
        architecture="vit_giant_patch14_dinov2",
        model_args={
            "img_size": 224,
            "patch_size": 16,
            "embed_dim": 1536,
            "depth": 40,
            "num_heads": 24,
            "init_values": 1e-5,
            "mlp_ratio": 5.33334,
        },
        pooling="cls",
        licence=_GIGAPATH_TERMS,
        mpp=0.5,
    ),
    "lunit-dino": Preset(
        title="Lunit DINO ViT-S/16",
        source="https://github.com/lunit-io/benchmark-ssl-pathology",
        architecture="vit_small_patch16_224",
        model_args={"img_size": 224},
        pooling="cls",
        licence=_research(
            "Lunit non-commercial licence",
            "https://github.com/lunit-io/benchmark-ssl-pathology",
        ),
        mean=(0.70322989, 0.53606487, 0.66096631),
        std=(0.21716536, 0.26081574, 0.20723464),
    ),
}
"""By the name that `teacher import --preset` takes."""
