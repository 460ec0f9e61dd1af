"""Every method's name, and what it needs of a teacher; read without torch."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Literal, get_args

from moma_core.errors import ConfigError
from moma_core.teacher.card.card import Output, TeacherCard

BaselineName = Literal[
    "ce",
    "kd",
    "hint",
    "at",
    "sp",
    "cc",
    "vid",
    "rkd",
    "pkt",
    "crd",
    "semckd",
    "simkd",
    "srrl",
    "ft",
    "dist",
    "dkd",
    "zkd",
    "wttm",
    "vkd",
    "cosine_hint",
]
Method = Literal["moma"] | BaselineName
Need = Literal["nothing", "outputs", "maps", "weights"]

METHODS: tuple[Method, ...] = ("moma", *get_args(BaselineName))

_NEEDS: Mapping[str, Need] = {
    "moma": "outputs",
    "ce": "nothing",
    "kd": "outputs",
    "hint": "outputs",
    "at": "maps",
    "sp": "outputs",
    "cc": "outputs",
    "vid": "maps",
    "rkd": "outputs",
    "pkt": "outputs",
    "crd": "outputs",
    "semckd": "maps",
    "simkd": "weights",
    "srrl": "weights",
    "ft": "weights",
    "dist": "outputs",
    "dkd": "outputs",
    "zkd": "outputs",
    "wttm": "outputs",
    "vkd": "outputs",
    "cosine_hint": "outputs",
}
"""Outputs come from any teacher; feature maps and weights never leave a remote one."""

_WORDS = {"maps": "feature maps", "weights": "the teacher's weights"}
_OF_LOGITS = frozenset({"kd", "dist", "dkd", "zkd", "wttm"})
_OF_TORCHDISTILL = frozenset({"at", "vid", "rkd", "pkt"})


def need_of(method: str) -> Need:
    """Returns what a method needs of a teacher; a registered one: its outputs."""
    return _NEEDS.get(method, "outputs")


def uses_outputs(method: str) -> bool:
    """Whether a method needs the teacher's outputs for every batch."""
    return method not in {"ce", "ft"}


def check_allowed(method: str, *, teacher_is_local: bool) -> None:
    """Refuses what the teacher's mode or the installation does not allow.

    Raises:
        ConfigError: It needs maps or weights of a remote teacher, or a package that
            is not here.
    """
    words = _WORDS.get(need_of(method))
    if words and not teacher_is_local:
        raise ConfigError(f"{method} needs {words}: teacher.mode local")
    if method in _OF_TORCHDISTILL and find_spec("torchdistill") is None:
        raise ConfigError(
            f"{method} needs torchdistill: pip install 'moma-service[bench]'"
        )


def check_disclosed(method: Method, card: TeacherCard) -> None:
    """Refuses a method that learns from what the teacher does not disclose.

    Raises:
        ConfigError: The card names no such output.
    """
    if method == "moma" or not uses_outputs(method):
        return
    output: Output = "logits" if method in _OF_LOGITS else "embedding"
    if output not in card.outputs:
        raise ConfigError(
            f"{method} needs the {output} that the teacher does not disclose"
        )
