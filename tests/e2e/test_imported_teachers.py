"""Teachers of other makers in a whole run: two at a site, one at a site with slides."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is the extra onnx")
pytest.importorskip("openslide", reason="openslide-python is the extra slides")

from moma_client.audit.receipts import receipts_path, verify_receipts
from moma_client.config.site import SiteConfig
from moma_client.reports.student_report.history import loss_curves
from moma_client.student.files import StudentCard, read_card
from moma_core.audit.tables import read_totals
from moma_core.data.patch import TRAIN
from moma_core.data.sources.demo_tissue import CLASS_NAMES
from moma_core.data.sources.factory import open_source
from moma_core.evaluation.agreement import FLOOR
from moma_server.membership.pinned_sites import teacher_key
from moma_server.state import budget_store, open_ledger
from tests.support.e2e.aftermath import last_words
from tests.support.e2e.imported_world import (
    EXPERT,
    FOUNDATION,
    NOISE,
    ON_SLIDES,
    PLACES,
    SEVERAL,
    ImportedWorld,
)
from tests.support.e2e.programs import until
from tests.support.e2e.world import RUN_SECONDS, SITES

pytestmark = [
    pytest.mark.slow,  # one party for each is in tests/integration/remote_teacher
    pytest.mark.timeout(1800),  # of the whole run, on a busy machine
]

EPOCHS = 2
GOLDEN = 1  # the patch of each card, asked before the first step
ASKED = {SEVERAL: (EXPERT, NOISE), ON_SLIDES: (FOUNDATION,)}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImportedWorld]:
    """A run that is over; the servers still serve."""
    world = ImportedWorld(tmp_path_factory.mktemp("imported"))
    try:
        world.serve_all()
        clients = [world.take_part(site) for site in SITES]

        def ended() -> bool:
            exits = [client.process.poll() for client in clients]
            assert not any(exits), last_words(world)  # one fails, the other waits
            return exits == [0, 0]

        until(ended, seconds=RUN_SECONDS, what="both sites are done")
        yield world
    finally:
        world.close()


def _config(world: ImportedWorld, site: str) -> SiteConfig:
    return SiteConfig.from_yaml(world.folder / site / "config.yaml")


def _card(world: ImportedWorld, site: str) -> StudentCard:
    return read_card(world.student_folder(site))


def _said(world: ImportedWorld, site: str) -> dict[str, Any]:
    """Returns the weights of a site's teachers in its round, by name."""
    folder = world.student_folder(site).parent / "teachers"
    found: dict[str, Any] = json.loads((folder / "000001.json").read_text())
    return found


def test_both_sites_take_part_to_the_end(world: ImportedWorld) -> None:
    outcomes = [(record.kind, record.outcome) for record in world.records()]

    assert outcomes == [
        ("train", "completed"),
        ("close", "completed"),
        ("run", "finished"),
    ]
    assert all(record.took_part == list(SITES) for record in world.rounds())


def test_the_student_of_two_teachers_knows_which_classes_are_whose(
    world: ImportedWorld,
) -> None:
    expert, noise = _card(world, SEVERAL).teachers

    assert (expert.name, noise.name) == (EXPERT, NOISE)
    assert expert.scenario.startswith("same (")
    assert noise.scenario.startswith("relevant (")
    assert _card(world, SEVERAL).class_names == CLASS_NAMES


def test_the_teacher_that_knows_the_classes_weighs_more_than_noise(
    world: ImportedWorld,
) -> None:
    expert, noise = _card(world, SEVERAL).teachers
    said = _said(world, SEVERAL)

    assert said[EXPERT]["by"] == "logits"
    assert said[NOISE]["by"] == "embeddings"
    assert said[EXPERT]["agreement"] > 0.5
    assert said[NOISE]["agreement"] == 0
    assert expert.weight > 0.9
    assert noise.weight / expert.weight == pytest.approx(
        FLOOR / said[EXPERT]["agreement"], rel=1e-3
    )
    assert expert.weight + noise.weight == pytest.approx(1, abs=1e-5)


def test_the_losses_are_those_that_each_teacher_allows(world: ImportedWorld) -> None:
    every = {"classification", "contrastive", "distillation", "total"}

    assert set(loss_curves(world.student_folder(SEVERAL))) == every
    without_kl = every - {"distillation"}  # of a model that has embeddings alone
    assert set(loss_curves(world.student_folder(ON_SLIDES))) == without_kl


@pytest.mark.parametrize("teacher", [EXPERT, NOISE, FOUNDATION])
def test_budget_log_and_receipts_of_each_teacher_agree_with_the_plan(
    world: ImportedWorld, teacher: str
) -> None:
    config = world.teacher_config(PLACES[teacher])
    assert config.teacher is not None
    with open_ledger(config, config.teacher) as ledger:
        totals = ledger.read(read_totals)
    logged = dict.fromkeys(SITES, 0)
    for (site, _, _), (_, charged) in totals.items():
        logged[site] += charged
    budget = budget_store(config, config.teacher)
    charged = {site: budget.charged(site) for site in SITES}
    budget.close()

    due = {
        site: GOLDEN + world.asked(site, epochs=EPOCHS) if teacher in asked else 0
        for site, asked in ASKED.items()
    }
    assert charged == logged == due
    (site,) = (site for site, patches in due.items() if patches)
    path = receipts_path(_config(world, site).state_dir, teacher)
    proved = verify_receipts(path, [teacher_key(config)])
    assert proved.patches == due[site]


def test_patches_of_slides_have_the_classes_of_the_polygons_over_them(
    world: ImportedWorld,
) -> None:
    index = open_source(_config(world, ON_SLIDES).data).index
    rows = index.rows(TRAIN, labelled=True)
    card = _card(world, ON_SLIDES)

    assert len(rows) == len(index.rows(TRAIN)) == 140
    assert set(index.labels[rows].tolist()) == {0, 1}
    assert card.teacher == FOUNDATION
    assert card.resolution_mpp == pytest.approx(2.0)  # 64 px at 1.0, shown as 32
    assert card.steps > 0
