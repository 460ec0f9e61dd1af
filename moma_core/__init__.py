"""MoMA for research and for the service: sources, teachers, distillers, one loop.

    from moma_core import FrozenTeacher, distill, evaluate, open_source

    student = distill(FrozenTeacher.load("teacher/"), open_source("patches/"), epochs=5)

Every name below is loaded when it is first used: importing this package loads no torch.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moma_core.api import distill, evaluate
    from moma_core.data.patch import PatchSource
    from moma_core.data.sources.factory import open_source
    from moma_core.distillation.memory_bank import MemoryBank
    from moma_core.distillation.methods.registry import make_distiller, register_method
    from moma_core.distillation.settings import DistillationSettings
    from moma_core.distillation.step import Distiller, MomaDistiller
    from moma_core.errors import MomaError
    from moma_core.models.backbone import Backbone
    from moma_core.models.encoder import Encoder, Features
    from moma_core.teacher.card.card import TeacherCard
    from moma_core.teacher.local import FrozenTeacher, MomentumTeacher
    from moma_core.teacher.protocol import Teacher, TeacherOutput
    from moma_core.training.settings import TrainingSettings
    from moma_core.training.trainer import Trainer

__all__ = [
    "Backbone",
    "DistillationSettings",
    "Distiller",
    "Encoder",
    "Features",
    "FrozenTeacher",
    "MemoryBank",
    "MomaDistiller",
    "MomaError",
    "MomentumTeacher",
    "PatchSource",
    "Teacher",
    "TeacherCard",
    "TeacherOutput",
    "Trainer",
    "TrainingSettings",
    "distill",
    "evaluate",
    "make_distiller",
    "open_source",
    "register_method",
]

_HOMES = {
    "moma_core.api": ("distill", "evaluate"),
    "moma_core.data.patch": ("PatchSource",),
    "moma_core.data.sources.factory": ("open_source",),
    "moma_core.distillation.memory_bank": ("MemoryBank",),
    "moma_core.distillation.methods.registry": ("make_distiller", "register_method"),
    "moma_core.distillation.settings": ("DistillationSettings",),
    "moma_core.distillation.step": ("Distiller", "MomaDistiller"),
    "moma_core.errors": ("MomaError",),
    "moma_core.models.backbone": ("Backbone",),
    "moma_core.models.encoder": ("Encoder", "Features"),
    "moma_core.teacher.card.card": ("TeacherCard",),
    "moma_core.teacher.local": ("FrozenTeacher", "MomentumTeacher"),
    "moma_core.teacher.protocol": ("Teacher", "TeacherOutput"),
    "moma_core.training.settings": ("TrainingSettings",),
    "moma_core.training.trainer": ("Trainer",),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

# What libraries tell their makers unasked. onnxruntime, which torch's exporter loads as
# well, sends names and shapes of models to Microsoft unless it is told before it loads.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
