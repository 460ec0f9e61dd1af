"""Whether a teacher's answers tell its training patches from others."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.giveaway.intervals import area_under_curve
from benchmarks.giveaway.teachers import SEEDS, Answers, MessageContext, teacher_answers
from benchmarks.quality.tissue import colon, colon_parts
from moma_core.data.patch import VALIDATION
from moma_core.evaluation.membership_inference import (
    Scores,
    advantage,
    best_threshold,
    loss_scores,
)

GROUPS = {
    "members": "the teacher's 400 patches against 400 that it never saw",
    "null": "two halves of those that it never saw",
    "splits": "400 that it never saw against another split's 200, unseen as well",
}


class Attacked(NamedTuple):
    """Scores on patches that the attack was not made on; above 0 it says "member"."""

    first: Scores
    second: Scores


Attack = Callable[[Answers, Answers, Answers, Answers], Attacked]
"""Takes both groups to learn from, then both groups to try."""
Feature = Callable[[Answers], Scores]


@dataclass(frozen=True, slots=True)
class MemberTrial:
    """One attack.

    Args:
        groups: Of GROUPS.
        attack: Of ATTACKS.
        seed: Of the teacher.
    """

    groups: str
    attack: str
    seed: int

    @property
    def key(self) -> str:
        """Names the trial in the results."""
        return f"members/{self.groups}/{self.attack}/{self.seed}"


def member_trials() -> Iterator[MemberTrial]:
    """Yields them, seed by seed."""
    for seed in SEEDS:
        for groups in GROUPS:
            for attack in ATTACKS:
                yield MemberTrial(groups, attack, seed)


def run_member(trial: MemberTrial, place: MessageContext) -> dict[str, object]:
    """Makes an attack on one half of both groups and tries it on the other."""
    answers = teacher_answers(place, trial.seed)
    first, second = (answers.of(rows) for rows in _groups(trial, place))
    found = ATTACKS[trial.attack](
        *(_every_second(group, 0) for group in (first, second)),
        *(_every_second(group, 1) for group in (first, second)),
    )
    return {
        "groups": trial.groups,
        "attack": trial.attack,
        "advantage": round(advantage(*found, 0.0), 5),
        "auc": round(area_under_curve(*found), 5),
        "first_scores": " ".join(f"{score:.5g}" for score in found.first),
        "second_scores": " ".join(f"{score:.5g}" for score in found.second),
    }


def _groups(trial: MemberTrial, place: MessageContext) -> tuple[Tensor, Tensor]:
    source = colon(place.data)
    own, pool = colon_parts(source, trial.seed)
    random = np.random.default_rng(trial.seed)
    if trial.groups == "members":
        groups = own, pool
    elif trial.groups == "null":
        groups = pool[::2], pool[1::2]
    else:
        groups = pool, source.index.rows(VALIDATION)
    first, second = (torch.from_numpy(random.permutation(rows)) for rows in groups)
    return first, second


def _every_second(answers: Answers, start: int) -> Answers:
    return Answers(*(tensor[start::2] for tensor in answers))


def _threshold(feature: Feature, *, learns_direction: bool = False) -> Attack:
    """Returns the attack by one number a patch, higher for members."""

    def attack(a: Answers, b: Answers, c: Answers, d: Answers) -> Attacked:
        scores = [feature(answers) for answers in (a, b, c, d)]
        if learns_direction and area_under_curve(*scores[:2]) < 0.5:
            scores = [-score for score in scores]
        threshold = best_threshold(*scores[:2])
        if threshold == -np.inf:  # all are members
            threshold = float(np.concatenate(scores).min()) - 1
        return Attacked(scores[2] - threshold, scores[3] - threshold)

    return attack


def _threshold_by_class(feature: Feature) -> Attack:
    """Returns the same attack with a threshold for each true class."""

    def attack(a: Answers, b: Answers, c: Answers, d: Answers) -> Attacked:
        found = Attacked(np.zeros(len(c.labels)), np.zeros(len(d.labels)))
        for label in torch.unique(torch.cat([c.labels, d.labels])):
            parts = [one.of(one.labels == label) for one in (a, b, c, d)]
            if min(len(part.labels) for part in parts[:2]):
                own = _threshold(feature)(*parts)
                found.first[(c.labels == label).numpy()] = own.first
                found.second[(d.labels == label).numpy()] = own.second
        return found

    return attack


def _linear(a: Answers, b: Answers, c: Answers, d: Answers) -> Attacked:
    """Ridge regression on standardised embeddings, its penalty their length."""
    known = torch.cat([a.embedding, b.embedding]).double()
    mean, deviation = known.mean(dim=0), known.std(dim=0) + 1e-9
    side = torch.cat([torch.ones(len(a.labels)), -torch.ones(len(b.labels))]).double()
    inputs = (known - mean) / deviation  # (N, D)
    kernel = inputs @ inputs.T + inputs.shape[1] * torch.eye(len(inputs)).double()
    weights = inputs.T @ torch.linalg.solve(kernel, side - side.mean())  # (D,)

    def score(answers: Answers) -> Scores:
        scores: Scores = (
            ((answers.embedding.double() - mean) / deviation) @ weights
        ).numpy()
        return scores

    # Its own scores are too far apart to choose a threshold by them: the middle.
    middle = (score(a).mean() + score(b).mean()) / 2
    return Attacked(score(c) - middle, score(d) - middle)


def _to_own_class(a: Answers, b: Answers, c: Answers, d: Answers) -> Attacked:
    """Distance of an embedding to the mean of known non-members of its class."""
    classes = a.logits.shape[1]
    # Half of the known non-members make the centres, the rest the threshold.
    centring, rest = _every_second(b, 0), _every_second(b, 1)
    near = F.one_hot(centring.labels, classes).double()  # (N, C)
    total = near.T @ centring.embedding.double()
    centres = total / near.sum(dim=0).clamp(min=1).unsqueeze(1)  # (C, D)

    def feature(answers: Answers) -> Scores:
        away = answers.embedding.double() - centres[answers.labels]
        distances: Scores = away.norm(dim=1).numpy()
        return distances

    return _threshold(feature, learns_direction=True)(a, rest, c, d)


def _correct(answers: Answers) -> Scores:
    right: Scores = (answers.logits.argmax(dim=1) == answers.labels).double().numpy()
    return right


def _confidence(answers: Answers) -> Scores:
    highest = answers.logits.double().log_softmax(dim=1).max(dim=1).values
    scores: Scores = highest.numpy()
    return scores


def _certainty(answers: Answers) -> Scores:
    known = answers.logits.double().log_softmax(dim=1)
    scores: Scores = (known.exp() * known).sum(dim=1).numpy()  # minus the entropy
    return scores


def _loss(answers: Answers) -> Scores:
    return loss_scores(answers.logits, answers.labels)


def _norm(answers: Answers) -> Scores:
    scores: Scores = answers.embedding.double().norm(dim=1).numpy()
    return scores


ATTACKS: Mapping[str, Attack] = {
    "top-1: is it right (label known)": _threshold(_correct),
    "logits: confidence": _threshold(_confidence),
    "logits: entropy": _threshold(_certainty),
    "logits: loss (label known)": _threshold(_loss),
    "logits: loss by class (label known)": _threshold_by_class(_loss),
    "embedding: length": _threshold(_norm, learns_direction=True),
    "embedding: distance to its class (label known)": _to_own_class,
    "embedding: linear classifier": _linear,
}
