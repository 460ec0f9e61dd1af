from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.giveaway.intervals import (
    advantage_above_zero,
    area_under_curve,
    attack_interval,
    difference_in_agreement,
)
from benchmarks.giveaway.layers import (
    ANSWERS,
    LayerTrial,
    SessionModel,
    linear_map,
    norm_of,
    recover,
    relative_error,
)
from benchmarks.giveaway.linear import linear_student
from benchmarks.giveaway.members import ATTACKS
from benchmarks.giveaway.results import Results
from benchmarks.giveaway.students import Copyist, likeness, student_trials
from benchmarks.giveaway.summary import summary
from benchmarks.giveaway.tables import as_markdown
from benchmarks.giveaway.teachers import Answers
from benchmarks.giveaway.tiny import LENGTH, TinyEncoder, tiled_images
from moma_core.evaluation.membership_inference import advantage
from moma_core.models.encoder import Features
from moma_core.teacher.protocol import TeacherOutput


def _answers(logits: list[list[float]]) -> Answers:
    return Answers(
        torch.eye(4)[: len(logits)],
        torch.tensor(logits),
        torch.zeros(len(logits), dtype=torch.long),
    )


def test_likeness_by_hand() -> None:
    even, sure = [0.0, 0.0], [0.0, 100.0]
    teacher, student = _answers([even, sure]), _answers([[1e-6, 0.0], even])

    found = likeness(student, teacher)

    assert found["agrees"] == "10"
    assert found["agreement"] == pytest.approx(0.5)
    assert found["kl"] == pytest.approx(np.log(2) / 2, abs=1e-4)
    assert found["l1"] == pytest.approx(1 / 2, abs=1e-4)
    assert found["cosine"] == pytest.approx(1.0)
    assert found["accuracy"] == pytest.approx(1.0)


@pytest.mark.parametrize("output", ["embedding + logits", "logits", "top-1"])
def test_a_copyist_has_the_least_loss_where_it_says_what_the_teacher_says(
    output: str,
) -> None:
    torch.manual_seed(0)
    copyist = Copyist(TinyEncoder(), output)
    answer = TeacherOutput(torch.randn(5, 4), 9 * torch.randn(5, 3))
    none = torch.full((5,), -1)

    same = copyist.extra_losses(Features(*answer), none, answer, None)
    other = copyist.extra_losses(
        Features(*(-part for part in answer[:2])), none, answer, None
    )

    assert other.distillation > same.distillation
    assert (other.contrastive > same.contrastive) == (output == "embedding + logits")


@pytest.mark.parametrize("output", ["embedding + logits", "logits", "top-1"])
def test_a_linear_student_learns_a_teacher_that_is_linear(output: str) -> None:
    torch.manual_seed(0)
    features = torch.randn(200, 12)
    embedding = features @ torch.randn(12, 5)
    logits = 3 * embedding @ torch.randn(5, 3)
    said = Answers(embedding, logits, torch.zeros(200, dtype=torch.long))
    first, last = torch.arange(150), torch.arange(150, 200)

    learned, guess = linear_student(
        features[first], said.of(first), features[last], output
    )

    agrees = guess.argmax(dim=1) == logits[last].argmax(dim=1)
    assert agrees.double().mean() > 0.85
    assert (learned is not None) == (output == "embedding + logits")
    if learned is not None:
        assert relative_error(learned, embedding[last].double()) < 0.1


def test_no_answer_reaches_a_student_that_asks_nobody() -> None:
    features, labels = torch.eye(6).repeat(5, 1), torch.arange(6).repeat(5) // 3
    wrong = Answers(features, torch.eye(2)[1 - labels], labels)

    _, guess = linear_student(features, wrong, features, "own labels")

    assert torch.equal(guess.argmax(dim=1), labels)


def _group(count: int, *, shift: float) -> Answers:
    return Answers(
        torch.randn(count, 6) + shift,
        torch.randn(count, 3) + 9 * shift * torch.eye(3)[0],
        torch.zeros(count, dtype=torch.long),
    )


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_finds_members_that_differ_and_no_others(attack: str) -> None:
    torch.manual_seed(0)
    apart = [_group(100, shift=shift) for shift in (1.0, 0.0, 1.0, 0.0)]
    alike = [_group(400, shift=0.0) for _ in range(4)]

    found, null = ATTACKS[attack](*apart), ATTACKS[attack](*alike)

    assert advantage(*found, 0.0) > 0.4
    assert area_under_curve(*found) > 0.75
    assert abs(advantage(*null, 0.0)) < 0.15


def test_the_classifier_follows_from_one_answer_more_than_its_inputs() -> None:
    torch.manual_seed(0)
    true, bias = torch.randn(3, 7), torch.randn(3)
    inputs = torch.randn(8, 7)

    found, found_bias = linear_map(inputs, inputs @ true.T + bias)
    guess, _ = linear_map(inputs[:4], inputs[:4] @ true.T + bias)

    assert relative_error(found, true) < 1e-3
    assert relative_error(found_bias, bias) < 1e-3
    assert relative_error(guess, true) > 0.1


def test_a_tile_is_what_each_patch_holds() -> None:
    encoder = TinyEncoder()
    images, tiles = tiled_images(3, torch.Generator().manual_seed(0))

    maps = encoder.patches(images)

    expected = torch.nn.functional.linear(
        tiles, encoder.patches.weight.flatten(1), encoder.patches.bias
    )
    torch.testing.assert_close(maps, expected[:, :, None, None].expand_as(maps))


@pytest.mark.parametrize("layer", ["hidden", "patches"])
def test_one_large_step_or_many_small_ones_reveal_an_inner_layer(layer: str) -> None:
    torch.manual_seed(100)
    teacher = TinyEncoder()
    true = getattr(teacher, layer).weight.detach().flatten(1)

    def error(steps: int, size: float) -> float:
        trial = LayerTrial(layer, ANSWERS, 0, steps, size)
        found = recover(SessionModel(teacher), trial, size * norm_of(teacher))
        return relative_error(found, true)

    assert error(1, 1e7) < 0.01
    assert error(5000, 1.0) < 0.1
    assert error(1, 1.0) > 1


def test_the_teacher_of_a_session_stays_as_it_is() -> None:
    teacher = TinyEncoder()
    before = teacher.hidden.weight.clone()
    copy = SessionModel(teacher)

    copy.sync(TinyEncoder(), 1000)

    assert torch.equal(teacher.hidden.weight, before)
    images, _ = tiled_images(LENGTH, torch.Generator())
    assert not torch.equal(copy.ask(images).embedding, teacher(images).embedding)


def test_an_interval_holds_the_difference_and_is_narrow_without_variance() -> None:
    ones, random = np.ones(50), np.random.default_rng(0)
    noisy = [random.integers(2, size=50).astype(float) for _ in range(3)]

    sure = difference_in_agreement([ones] * 3, [0 * ones] * 3)
    found = difference_in_agreement(noisy, [0 * ones] * 3)

    assert sure == (1.0, 1.0, 1.0)
    assert found.low < found.mean < found.high


def test_an_attack_that_is_always_right_has_no_interval() -> None:
    scores = [(np.ones(9), -np.ones(9))] * 3

    assert attack_interval(scores, advantage_above_zero) == (1.0, 1.0, 1.0)


def _rows() -> list[dict[str, object]]:
    student = {
        "part": "students",
        "student": "whole",
        "coverage": "all tissues",
        "patches": 4,
    }
    student |= dict.fromkeys(("kl", "l1", "cosine", "accuracy"), 0.5)
    member = {"part": "members", "groups": "null", "attack": "x", "seed": 0}
    layer = {"part": "layers", "layer": "hidden", "steps": 1, "size": 1.0, "seed": 0}
    return [
        {**student, "output": name, "seed": seed, "queries": 4, "agrees": agrees}
        | {"agreement": agrees.count("1") / 4}
        for name, agrees in (("logits", "1110"), ("own labels", "1000"))
        for seed in (0, 1)
    ] + [
        member | {"first_scores": "1 2 3", "second_scores": "-1 -2 3"},
        layer | {"answers": 9, "relative_error": "0.001"},
    ]


def test_the_tables_come_from_the_raw_rows_alone(tmp_path: Path) -> None:
    results = Results(tmp_path / "giveaway.csv")
    for number, row in enumerate(_rows()):
        results.add({**row, "key": number, "seconds": 1})

    found = summary(results.lines())

    assert [entry["agreement"] for entry in found["students"]] == [0.75, 0.25]
    (difference,) = found["differences"]
    assert (difference["one"], difference["agreement"]["mean"]) == (
        "whole, logits, all tissues, 4",
        0.5,
    )
    assert found["members"][0]["advantage"]["mean"] == pytest.approx(2 / 3, abs=1e-3)
    assert found["layers"][0]["relative_error"] == 0.001
    assert as_markdown(found).count("\n|---") == 4


def test_a_row_that_was_cut_off_is_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "giveaway.csv"
    first, second, *_ = _rows()
    Results(path).add({**first, "key": "a", "seconds": 1})
    Results(path).add({**second, "key": "b", "seconds": 1})
    path.write_text(path.read_text("utf-8")[:-3], "utf-8")

    assert Results(path).done() == {"a"}


def test_no_trial_is_planned_twice() -> None:
    keys = [trial.key for trial in student_trials()]

    assert len(set(keys)) == len(keys) == 96
