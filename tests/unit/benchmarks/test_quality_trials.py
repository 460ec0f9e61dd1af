from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality.frozen import freeze, read_frozen
from benchmarks.quality.results import COLUMNS, Results
from benchmarks.quality.students import fingerprint
from benchmarks.quality.summary import summary
from benchmarks.quality.tables import as_markdown, overview
from benchmarks.quality.tissue import MERGED, Federation, colon, colon_parts, tissue_for
from benchmarks.quality.trials import ROWS, FinalTable, Trial, quick, search, tuning
from moma_core.data.patch import TRAIN
from moma_core.errors import ConfigError
from tests.support.machine.needs import shared_data

SEED = 3


def line_of(trial: Trial, score: float = 0.5, said: str = "0101") -> dict[str, object]:
    line: dict[str, object] = dict.fromkeys(COLUMNS, score)
    line |= {name: getattr(trial, name) for name in trial.__dataclass_fields__}
    line |= {"key": trial.key, "settings": fingerprint(trial), "answers": 7}
    for split in ("validation", "unseen"):
        line |= {f"{split}_predicted": said, f"{split}_truth": "0011"}
    return line


@pytest.fixture(scope="module")
def data() -> Path:
    return shared_data("pathmnist_subset.npz")


def test_teacher_students_and_sites_share_no_patch(data: Path) -> None:
    source = colon(data)
    teachers, pool = colon_parts(source, SEED)
    tissue = tissue_for("same", data, SEED, (45, 155), "fedavg")

    parts = [teachers, *(rows for share in tissue.shares for rows in share)]
    parts += [tissue.validation, tissue.unseen]
    together = np.concatenate(parts)

    assert len(np.unique(together)) == len(together)
    assert np.isin(np.concatenate([teachers, pool]), source.index.rows(TRAIN)).all()


def test_a_headline_has_ten_seeds_of_the_default_and_its_rivals() -> None:
    planned = list(FinalTable(5, {"moma": 3.0}, {"ce": 0.01}).headline())

    assert {trial.seed for trial in planned} == set(range(10))
    rows = {
        scenario: {trial.row for trial in planned if trial.scenario == scenario}
        for scenario in ("same", "relevant")
    }
    assert rows["same"] == {"moma", "ce", "kd", "hint"}
    assert rows["relevant"] == {*rows["same"], "prototypes"}
    assert len(planned) == 10 * (4 + 5)
    assert {trial.scale for trial in planned if trial.row == "prototypes"} == {3.0}
    table = set(FinalTable(5, {"moma": 3.0}, {"ce": 0.01}).trials())
    assert {trial for trial in planned if trial.seed < 5} <= table


@pytest.mark.parametrize(
    ("federation", "sizes"),
    [
        ("none", [(45, 355)]),
        ("alone", [(45, 155)]),
        ("fedavg", [(45, 155), (45, 155)]),
        ("pooled", [(90, 310)]),
    ],
)
def test_sites_have_what_their_row_says(
    data: Path, federation: Federation, sizes: list[tuple[int, int]]
) -> None:
    wanted = 355 if federation == "none" else 155

    shares = tissue_for("same", data, SEED, (45, wanted), federation).shares

    assert [(len(s.labelled), len(s.unlabelled)) for s in shares] == sizes


def test_labelled_patches_are_spread_over_the_classes(data: Path) -> None:
    tissue = tissue_for("same", data, SEED, (45, 0))

    labels = tissue.source.index.labels[tissue.shares[0].labelled]

    assert np.bincount(labels).tolist() == [5] * 9


def test_the_coarse_classes_hold_each_fine_one_once(data: Path) -> None:
    fine = sorted(name for group in MERGED.values() for name in group)

    assert tuple(fine) == colon(data).class_names


def test_every_trial_has_a_row_and_a_key_of_its_own() -> None:
    final = list(FinalTable(5, {}, {}).trials())

    planned = [*search(), *tuning(), *final, *quick()]

    assert {trial.row for trial in planned} <= set(ROWS)
    assert len({trial.key for trial in planned}) == len(planned)
    assert {trial.seed for trial in final}.isdisjoint(t.seed for t in tuning())


def test_every_method_has_as_many_tuning_trials() -> None:
    planned = list(tuning())

    counts = {
        (trial.scenario, trial.row): sum(
            (other.scenario, other.row) == (trial.scenario, trial.row)
            for other in planned
        )
        for trial in planned
    }

    assert set(counts.values()) == {4}


def test_other_settings_make_a_line_stale() -> None:
    trial = next(trial for trial in quick() if trial.row == "kd")

    assert fingerprint(trial) != fingerprint(replace(trial, scale=3.0))


def test_results_survive_a_line_that_was_cut_off(tmp_path: Path) -> None:
    path, (first, second, *_) = tmp_path / "quality.csv", list(quick())
    results = Results(path)
    results.add(line_of(first))
    results.add(line_of(second))
    path.write_bytes(path.read_bytes()[:-9])

    assert results.done() == {(first.key, fingerprint(first))}


def test_a_line_that_was_cut_off_is_not_glued_to_the_next(tmp_path: Path) -> None:
    path, (first, second, third, *_) = tmp_path / "quality.csv", list(quick())
    results = Results(path)
    results.add(line_of(first))
    results.add(line_of(second))
    path.write_bytes(path.read_bytes()[:-9])

    results.add(line_of(third))

    assert {key for key, _ in results.done()} == {first.key, third.key}


def test_freezing_waits_for_every_tuning_trial(tmp_path: Path) -> None:
    lines = [
        {name: str(value) for name, value in line_of(trial).items()}
        for trial in tuning()
    ]

    with pytest.raises(ConfigError, match="119 of 120 tuning trials"):
        freeze(lines[1:], tmp_path / "frozen.json")


def test_the_overview_is_of_the_whole_pool() -> None:
    trial = next(FinalTable(1, {}, {}).trials())
    few = replace(trial, unlabelled=100)
    lines = [line_of(trial, 0.7), line_of(few, 0.3)]
    texts = [{name: str(value) for name, value in line.items()} for line in lines]

    table = overview(summary(texts, "final"))

    assert "| moma | any teacher | 0.700" in table


def test_the_table_compares_within_one_comparison(tmp_path: Path) -> None:
    results = Results(tmp_path / "quality.csv")
    for trial in quick():
        said = "0011" if trial.row == "moma" else "0101"
        results.add(line_of(trial, said=said))

    entries = summary(results.lines(), "quick")

    ours = next(entry for entry in entries if entry["row"] == "moma")
    assert ours["minus_ce"]["mean"] == pytest.approx(0.5)
    assert "minus_moma" not in ours
    table = as_markdown(entries)
    assert "| moma | outputs | 1 |" in table
    assert "nan" not in table  # one seed has no deviation


def test_freezing_takes_the_best_mean_of_validation(tmp_path: Path) -> None:
    path = tmp_path / "frozen.json"
    lines = [
        {
            name: str(value)
            for name, value in line_of(trial, 0.9 if best else 0.4).items()
        }
        for trial in tuning()
        for best in [
            trial.rate == 0.05 if trial.row in ("ce", "ft") else trial.scale == 3.0
        ]
    ]

    frozen = freeze(lines, path)

    assert frozen == read_frozen(path)
    assert frozen.rates == {"ce": 0.05, "ft": 0.05}
    assert set(frozen.scales.values()) == {3.0}


def test_a_final_run_needs_frozen_settings(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run --freeze"):
        read_frozen(tmp_path / "frozen.json")
