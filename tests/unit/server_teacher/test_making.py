from pathlib import Path

from moma_core.policy.coverage import CoverageMap
from moma_core.teacher.card import TeacherCard
from moma_server.config import TeacherRecipe
from moma_server.teacher.making import make_teacher
from moma_server.training_watch import TrainingWatch

RECIPE = {
    "name": "teacher-a",
    "organ": "colon",
    "task": "stain",
    "data": {"kind": "embedded", "part": "teacher"},
    "views": "geometry_only",
    "view_size_px": 32,
    "model": {"architecture": "test_efficientnet", "weights": "random"},
    "epochs": 1,
    "training": {"batch_size": 16, "threads": 1, "accelerator": "cpu"},
}


def test_a_new_teachers_card_carries_its_membership_audit(tmp_path: Path) -> None:
    recipe = TeacherRecipe.model_validate(RECIPE)

    made = make_teacher(recipe, tmp_path, TrainingWatch(None))

    card = TeacherCard.load(tmp_path / "card.json")
    assert card == made.card
    assert card.membership_advantage is not None
    assert -1 <= card.membership_advantage <= 1
    coverage = CoverageMap.load(tmp_path / "coverage.safetensors", card.digest)
    assert coverage.planes.shape[1] == card.embedding_length
