"""Many steps of momentum in one move, against as many single updates."""

import copy
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from moma_core.models.ema import (
    DeferredMomentum,
    MomentumTerms,
    share_after,
    update_teacher,
    updated_weights,
)
from tests.support.site.tiny import ConvEncoder

STEPS = st.integers(1, 40)
DECAYS = st.one_of(
    st.floats(0, 1), st.floats(0.9, 1), st.sampled_from([0.0, 0.999, 0.9999, 1.0])
)


def _students(steps: int, like: ConvEncoder, seed: int) -> Iterator[ConvEncoder]:
    """Changes one student from step to step, all of one sign: nothing cancels out."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for tensor in (*like.parameters(), *like.buffers()):
            values = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.data.copy_(values + 0.5 if tensor.is_floating_point() else seed)
        yield like


def _floats(encoder: ConvEncoder) -> list[Tensor]:
    tensors = (*encoder.parameters(), *encoder.buffers())
    return [tensor.data for tensor in tensors if tensor.is_floating_point()]


@given(STEPS, DECAYS, st.integers(1, 5), st.integers(1, 9), st.integers(0, 99))
def test_one_move_equals_as_many_single_updates(
    steps: int, decay: float, classes: int, length: int, seed: int
) -> None:
    for dtype, close in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        student = ConvEncoder(classes, length).to(dtype)
        (teacher,) = _students(1, ConvEncoder(classes, length).to(dtype), seed + 100)
        terms = MomentumTerms(decay, class_order=tuple(range(classes)))
        deferred = DeferredMomentum(student, terms)
        single = [tensor.double() for tensor in _floats(teacher)]

        for step, moved in enumerate(_students(steps, student, seed)):
            deferred.add(step)
            pairs = zip(single, _floats(moved), strict=True)
            single = [decay * t + (1 - decay) * s.double() for t, s in pairs]
        now = deferred.newest()
        update_teacher(teacher, now.mean, terms, share_after(decay, now.steps))

        for found, expected in zip(_floats(teacher), single, strict=True):
            largest = 0 if dtype == torch.float64 else 1e-5 * float(expected.max())
            torch.testing.assert_close(
                found.double(), expected, rtol=close, atol=largest
            )
        assert teacher.norm.num_batches_tracked == student.norm.num_batches_tracked


@given(STEPS, STEPS, st.floats(0.5, 0.9999), st.integers(0, 99))
def test_weights_of_both_signs_compose_from_any_split(
    first: int, second: int, decay: float, seed: int
) -> None:
    """After any two syncs the copy stands where single updates would have put it."""
    generator = torch.Generator().manual_seed(seed)
    student, own = ConvEncoder().double(), ConvEncoder().double()
    terms = MomentumTerms(decay, class_order=(2, 0, 1))
    deferred, single = DeferredMomentum(student, terms), copy.deepcopy(own)

    for step in range(first + second):
        for tensor in _floats(student):
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.add_(noise)
        deferred.add(step)
        update_teacher(single, updated_weights(student, terms), terms, 1 - decay)
        if step + 1 in (first, first + second):
            copied = copy.deepcopy(own)
            now = deferred.newest()
            update_teacher(copied, now.mean, terms, share_after(decay, now.steps))
            for found, expected in zip(_floats(copied), _floats(single), strict=True):
                largest = 1e-12 * float(expected.abs().max())
                torch.testing.assert_close(
                    found, expected, rtol=1e-12, atol=max(largest, 1e-15)
                )


def test_two_steps_by_hand() -> None:
    student = ConvEncoder()
    deferred = DeferredMomentum(student, MomentumTerms(0.5))
    student.conv.weight.data.fill_(4.0)
    deferred.add(0)
    student.conv.weight.data.fill_(10.0)
    deferred.add(1)

    steps, mean = deferred.newest()

    # 0.25 T + 0.25 * 4 + 0.5 * 10, and 6 = 0.75 * 8
    assert steps == 2
    assert share_after(0.5, steps) == 0.75
    torch.testing.assert_close(mean["conv.weight"], torch.full((8, 3, 3, 3), 8.0))


@pytest.mark.parametrize(
    ("decay", "steps", "share"), [(0, 0, 0), (0, 3, 1), (1, 5, 0), (0.5, 1, 0.5)]
)
def test_the_share_is_exact_at_its_ends(decay: float, steps: int, share: float) -> None:
    assert share_after(decay, steps) == share


def test_the_share_of_a_decay_close_to_one_keeps_its_digits() -> None:
    assert share_after(1 - 2**-52, 3) == pytest.approx(3 * 2**-52, rel=1e-12)


def test_a_step_that_is_taken_again_counts_once() -> None:
    student = ConvEncoder()
    deferred = DeferredMomentum(student, MomentumTerms(0.9))
    deferred.add(0)
    before = deferred.newest().mean["conv.weight"].clone()

    deferred.add(0)

    assert deferred.newest().steps == 1
    assert torch.equal(deferred.newest().mean["conv.weight"], before)
    with pytest.raises(ValueError, match="step 5 after 1 steps"):
        deferred.add(5)


def test_what_is_settled_stays_until_it_is_settled_again() -> None:
    student = ConvEncoder()
    deferred = DeferredMomentum(student, MomentumTerms(0.9))
    deferred.add(0)
    deferred.settle()
    student.conv.weight.data.add_(1)
    deferred.add(1)

    resumed = DeferredMomentum(ConvEncoder(), MomentumTerms(0.9))
    resumed.load_state_dict(deferred.state_dict())

    assert (resumed.settled().steps, resumed.newest().steps) == (1, 2)
    for state in ("settled", "newest"):
        kept, read = getattr(deferred, state)().mean, getattr(resumed, state)().mean
        assert all(torch.equal(kept[name], read[name]) for name in kept)
    assert not any(name.startswith("_leads") for name in deferred.state_dict())
